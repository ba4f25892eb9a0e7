"""The command processor with stand-ins for the units: order, tokens, experts, single steps, errors."""

import random

import pytest
from bench import Bench, Context

from hwattn.rtl.dispatcher import Dispatcher
from hwattn.rtl.queue import unit_kinds
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.encoding import encode
from hwattn.spec.encoding import fields as fields_of
from hwattn.spec.isa import Halt, Instruction, Load, Matmul, Norm, Post, Queue
from hwattn.spec.registers import ErrorCause

UNKNOWN = 15
CONFIG = AcceleratorConfig(program_words=64, queue_depth=2, external_words=1024)
LOAD, MATRIX, POST, NORM, SOFTMAX, FETCH, STORE = (1 << queue for queue in Queue)


class Harness:
    """A dispatcher, units that take a random time for each command, and a metaqueue of (expert, count)."""

    def __init__(
        self,
        program: list[Instruction],
        seed: int = 0,
        metaqueue: list[tuple[int, int]] | None = None,
        after: list[int] | None = None,
    ) -> None:
        self.dut = Dispatcher(CONFIG, [encode(instruction) for instruction in program] + (after or []))
        self.bench = Bench(self.dut, seed=seed)
        self.random = random.Random(seed)
        self.events: list[tuple[str, str, dict[str, int]]] = []
        metaqueue = metaqueue or []

        def look_up(meta: int) -> tuple[int, int, int]:
            return (1, *metaqueue[meta]) if meta < len(metaqueue) else (0, 255, 9999)

        for port in self.dut.lookups:
            self.bench.combinational([port.meta], [port.present, port.expert, port.count], look_up)
        for kind in unit_kinds(CONFIG):
            self.unit(kind.__name__.lower())

    def unit(self, name: str) -> None:
        command, done = getattr(self.dut, f"command_{name}"), getattr(self.dut, f"done_{name}")

        async def process(ctx: Context) -> None:
            while True:
                ctx.set(command.ready, 1)
                valid = False
                while not valid:
                    *_, valid, payload = await ctx.tick().sample(command.valid, command.payload)
                ctx.set(command.ready, 0)
                fields = {key: int(payload[key]) for key in payload.shape().members}
                self.events.append(("start", name, fields))
                await self.bench.wait(ctx, self.random.randrange(12))
                self.events.append(("end", name, fields))
                ctx.set(done, 1)
                await ctx.tick()
                ctx.set(done, 0)

        self.bench.background(process)

    async def start(self, ctx: Context, entry: int = 0, single_step: int = 0) -> None:
        ctx.set(self.dut.entry, entry)
        ctx.set(self.dut.single_step, single_step)
        ctx.set(self.dut.start, 1)
        await ctx.tick()
        ctx.set(self.dut.start, 0)
        await ctx.tick()

    def run_free(self, entry: int = 0) -> None:
        async def test(ctx: Context) -> None:
            await self.start(ctx, entry)
            await ctx.tick().until(~self.dut.running)
            assert ctx.get(self.dut.done) or ctx.get(self.dut.error)

        self.bench.run(test)

    def order(self, event: str, name: str) -> list[int]:
        return [number for number, (what, unit, _) in enumerate(self.events) if (what, unit) == (event, name)]


def chain(tiles: int) -> list[Instruction]:
    """Load, multiply, post and normalize tile after tile; each unit waits for the one before it."""
    program: list[Instruction] = []
    for tile in range(tiles):
        program += [
            Load(push=MATRIX, rows=1, words=tile + 1),
            Matmul(pop=LOAD, push=POST, words=tile + 1),
            Post(pop=MATRIX, push=NORM, columns=tile + 1),
            Norm(pop=POST, dim=tile + 1),
        ]
    return [*program, Halt()]


@pytest.mark.parametrize("seed", range(4))
def test_tokens_order_the_queues(seed: int) -> None:
    harness = Harness(chain(8), seed)
    harness.run_free()
    for first, second in (("load", "matmul"), ("matmul", "post"), ("post", "norm")):
        ends, starts = harness.order("end", first), harness.order("start", second)
        assert len(ends) == len(starts) == 8
        assert all(end < start for end, start in zip(ends, starts, strict=True))
    widths = [fields["words"] for what, name, fields in harness.events if (what, name) == ("start", "load")]
    assert widths == list(range(1, 9))
    assert any(
        later < earlier
        for later, earlier in zip(
            harness.order("start", "load")[1:], harness.order("end", "norm"), strict=False
        )
    ), "queues overlap"


def test_all_fields_arrive() -> None:
    generator = random.Random(5)
    program: list[Instruction] = []
    for kind in unit_kinds(CONFIG):
        values = {}
        for field in fields_of(kind):
            low = -(1 << (field.bits - 1)) if field.signed else 0
            values[field.name] = generator.randrange(low, low + (1 << field.bits))
        values |= {"pop": 0, "push": 0}
        values |= {"expert_enable": 0} if "expert_enable" in values else {}
        program.append(kind(**values))
    harness = Harness([*program, Halt()])
    harness.run_free()
    seen = {name: fields for what, name, fields in harness.events if what == "start"}
    for instruction in program:
        got = seen[type(instruction).__name__.lower()]
        for name, value in got.items():
            assert value == (0 if name == "expert" else getattr(instruction, name)), name


def test_experts() -> None:
    def tile(meta: int, first: int) -> Load:
        return Load(expert_enable=1, meta=meta, first=first, rows=4, words=1)

    cases = [(0, 0), (0, 4), (0, 8), (1, 0), (1, 4), (2, 0)]
    program: list[Instruction] = [tile(*case) for case in cases]
    harness = Harness(
        [*program, Post(expert_enable=1, meta=1, rows=4), Load(rows=3, words=2), Halt()],
        metaqueue=[(3, 6), (7, 4)],
    )
    harness.run_free()
    loads = [fields for what, name, fields in harness.events if (what, name) == ("start", "load")]
    assert [(load["expert"], load["first"], load["rows"]) for load in loads] == [
        (3, 0, 4),
        (3, 4, 2),
        (7, 0, 4),
        (0, 0, 3),
    ]
    posts = [fields for what, name, fields in harness.events if (what, name) == ("start", "post")]
    assert [(post["expert"], post["rows"]) for post in posts] == [(7, 4)]


def test_single_step() -> None:
    program = chain(3)
    harness = Harness(program, seed=1)
    dut = harness.dut

    async def test(ctx: Context) -> None:
        await harness.start(ctx, single_step=1)
        for number in range(len(program)):
            await ctx.tick().until(dut.paused)
            assert ctx.get(dut.pc) == number
            assert len(harness.events) == 2 * number, "one instruction at a time, each to its end"
            ctx.set(dut.step, 1)
            await ctx.tick()
            ctx.set(dut.step, 0)
            await ctx.tick()
        await ctx.tick().until(dut.done)

    harness.bench.run(test)


def test_stops_with_a_cause() -> None:
    unknown = Harness([Norm(dim=3)], after=[UNKNOWN])

    async def test(ctx: Context) -> None:
        await unknown.start(ctx)
        await ctx.tick().until(~unknown.dut.running)
        assert ctx.get(unknown.dut.error)
        assert ctx.get(unknown.dut.cause) == ErrorCause.UNKNOWN_INSTRUCTION
        assert ctx.get(unknown.dut.pc) == 1
        assert not ctx.get(unknown.dut.done)

    unknown.bench.run(test)

    endless = Harness([Norm(dim=1)] * CONFIG.program_words)

    async def end(ctx: Context) -> None:
        await endless.start(ctx, entry=50)
        await ctx.tick().until(~endless.dut.running)
        assert ctx.get(endless.dut.cause) == ErrorCause.END_OF_PROGRAM

    endless.bench.run(end)
