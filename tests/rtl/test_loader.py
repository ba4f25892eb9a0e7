"""The loader against the integer model, under random stalls."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from bench import Bench, command_of, lanes_of

from hwattn.rtl.loader import Loader
from hwattn.sim.model.loader import load
from hwattn.sim.model.predicate import Active
from hwattn.sim.model.state import State
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Copy, Load
from hwattn.spec.program import Program

EXPERT = 3

SMALL = {
    "act_banks": 2,
    "act_words": 64,
    "weight_words": 150,
    "row_words": 6,
    "row_slots": 3,
    "softmax_lanes": 1,
}


class Setup:
    """A loader with its memories, slots and one expert's queue."""

    def __init__(self, rows: int, lanes: int, stall: float) -> None:
        self.config = AcceleratorConfig(rows=rows, lanes=lanes, **SMALL)
        self.dut = Loader(self.config)
        self.bench = Bench(self.dut, seed=rows * lanes, stall=stall)
        rng = np.random.default_rng(rows + lanes)
        self.memories = [
            rng.integers(-128, 128, (words, lanes), np.int8)
            for words in (self.config.act_total_words, self.config.weight_words)
        ]
        self.slots = np.full((self.config.row_slots, rows, self.config.row_words, lanes), 85, np.int8)
        self.tokens = rng.permutation(12)
        self.bench.memory(self.dut.act, self.memories[0], self.dut.act_write)
        self.bench.memory(self.dut.weight, self.memories[1])
        self.written = self.bench.collect(self.dut.resident)
        entry = self.dut.entry
        self.bench.registered(
            [entry.expert, entry.index],
            [entry.token, entry.gate],
            lambda expert, index: (int(self.tokens[index]) if expert == EXPERT and index < 12 else 60000, 1),
        )

    def expected(self, command: Load) -> np.ndarray:
        """Return the slots after a command, by the integer model."""
        state = State(self.config, 1)
        state.memory[0] = self.memories[0].reshape(-1).view(np.uint8)
        state.slots[0] = self.slots.reshape(state.slots.shape[1:]).view(np.uint8)
        state.queue_token[0, EXPERT, : len(self.tokens)] = self.tokens
        program = cast(Program, SimpleNamespace(weights=self.memories[1]))
        where = Active(np.array([0]), np.array([EXPERT]), np.array([command.rows]))
        load(command, program, state, where if command.expert_enable else None)
        return state.slots[0].view(np.int8).reshape(self.slots.shape)

    def receive(self) -> None:
        for write in self.written:
            lanes = lanes_of(write["data"], self.config.lanes)
            self.slots[write["slot"], write["row"], write["word"]] = lanes
        self.written.clear()

    def random_load(self) -> Load:
        """Draw a load whose addresses stay inside the memories."""
        rng = self.bench.random
        lanes = self.config.lanes
        granule = rng.randint(0, lanes.bit_length() - 1)
        size = 1 << granule
        words = rng.randint(1, self.config.row_words)
        while True:
            n0, n1, n2 = rng.randint(1, 6), rng.randint(1, 4), rng.randint(1, 3)
            if n0 * n1 * n2 * size <= words * lanes:
                break
        gather = rng.randint(0, 1)
        return Load(
            slot=rng.randrange(3),
            rows=rng.randint(1, self.config.rows),
            words=words,
            memory=rng.randint(0, 1),
            gather=gather,
            expert_enable=gather,
            first=rng.randint(0, 7),
            base=size * rng.randrange(6),
            row_stride=size * rng.randrange(5),
            row_first=0 if gather else rng.randrange(14),
            row_wrap=0 if gather else rng.choice((1, 2, 3, 5, 100)),
            row_jump=size * rng.randrange(3),
            granule=granule,
            n0=n0,
            n1=n1,
            stride1=size * rng.randrange(4),
            n2=n2,
            stride2=size * rng.randrange(4),
        )


@pytest.mark.parametrize(("rows", "lanes"), [(1, 4), (3, 4), (4, 8), (5, 16)])
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_random_loads(rows: int, lanes: int, stall: float) -> None:
    setup = Setup(rows, lanes, stall)

    async def test(ctx):
        for _ in range(12):
            command = setup.random_load()
            expected = setup.expected(command)
            cycles = await setup.bench.execute(
                ctx, setup.dut, command_of(command, expert=EXPERT), setup.dut.load
            )
            setup.receive()
            assert np.array_equal(setup.slots, expected), command
            if stall == 0 and not command.gather:
                granules = command.n0 * command.n1 * command.n2
                filled = -(-granules * (1 << command.granule) // lanes)
                items = command.rows * (granules + command.words - filled)
                assert cycles == 7 + items + command.row_first // command.row_wrap

    setup.bench.run(test)


def test_gathered_rows_follow_without_bubbles() -> None:
    setup = Setup(5, 4, stall=0)

    async def test(ctx):
        command = Load(
            rows=5, words=4, gather=1, expert_enable=1, first=2, row_stride=16, granule=2, n0=4, n1=1, n2=1
        )
        expected = setup.expected(command)
        cycles = await setup.bench.execute(ctx, setup.dut, command_of(command, expert=EXPERT), setup.dut.load)
        setup.receive()
        assert np.array_equal(setup.slots, expected)
        assert cycles == 7 + 2 + 20

    setup.bench.run(test)


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_copy(stall: float) -> None:
    setup = Setup(3, 4, stall)

    async def test(ctx):
        for memory, source, target, words in ((0, 3, 90, 38), (1, 149, 0, 1), (1, 0, 17, 60)):
            expected = setup.memories[0].copy()
            expected[target : target + words] = setup.memories[memory][source : source + words]
            command = Copy(memory=memory, source=source, target=target, words=words)
            cycles = await setup.bench.execute(ctx, setup.dut, command, setup.dut.copy)
            assert np.array_equal(setup.memories[0], expected)
            assert not setup.written
            if stall == 0:
                assert cycles == 7 + words

    setup.bench.run(test)


def test_reset_in_the_middle() -> None:
    setup = Setup(3, 8, stall=0.3)
    bench, dut = setup.bench, setup.dut

    async def test(ctx):
        for cycles in (1, 3, 6, 8, 13):
            await bench.start(
                ctx,
                dut.load,
                command_of(Load(slot=1, rows=3, words=6, granule=1, n0=11, n1=2, n2=1, row_wrap=9)),
            )
            await bench.wait(ctx, cycles)
            await bench.reset(ctx)
            assert not ctx.get(dut.busy)
            assert ctx.get(dut.load.ready)
            await bench.wait(ctx, 8)
            setup.receive()
            command = Load(rows=2, words=3, granule=1, n0=3, n1=3, stride1=10, n2=1, row_wrap=9, row_stride=6)
            expected = setup.expected(command)
            await bench.execute(ctx, dut, command, dut.load)
            setup.receive()
            assert np.array_equal(setup.slots, expected)

    bench.run(test)
