"""Every instruction with random fields against a naive machine, byte by byte as docs/isa.md says it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hwattn.sim.model.executor import Executor
from hwattn.sim.model.layernorm import layer_norm
from hwattn.sim.model.post import activate, reciprocal
from hwattn.sim.model.router import route
from hwattn.sim.model.softmax import softmax_block
from hwattn.sim.model.state import State
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import (
    Copy,
    Format,
    Halt,
    Instruction,
    Load,
    Matmul,
    Memory,
    Norm,
    Post,
    Route,
    Softmax,
    Stage2,
)
from hwattn.spec.program import ImagePort, OutputPort, Program
from hwattn.spec.tables import activation_table

CONFIGS = [
    AcceleratorConfig(
        rows=4,
        lanes=8,
        act_banks=2,
        act_words=64,
        weight_words=200,
        acc_columns=16,
        row_words=4,
        experts=5,
        tokens=12,
    ),
    AcceleratorConfig(
        rows=3,
        lanes=4,
        act_banks=1,
        act_words=256,
        weight_words=200,
        acc_columns=32,
        row_words=5,
        experts=3,
        tokens=7,
    ),
    AcceleratorConfig(
        rows=7,
        lanes=16,
        act_banks=4,
        act_words=32,
        weight_words=200,
        acc_columns=16,
        row_words=3,
        experts=8,
        tokens=20,
    ),
]
TABLE = activation_table("gelu")
FIELDS = (
    "memory",
    "slots",
    "accumulators",
    "maximum",
    "total",
    "growth",
    "queue_token",
    "queue_gate",
    "queue_count",
)


def clip(value, bits):
    return max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, value))


def half_up(value, shift):
    return (value + (1 << shift >> 1)) >> shift


def signed8(byte):
    return (int(byte) ^ 128) - 128


def program_of(config, instructions, random):
    gamma, beta = random.integers(-(2**15), 2**15, 40), random.integers(-(2**20), 2**20, 40)
    return Program(
        name="test",
        config=config,
        instructions=(*instructions, Halt()),
        labels=("test",) * (len(instructions) + 1),
        entries=(0,),
        weights=random.integers(-128, 128, (config.weight_words, config.lanes)).astype(np.int8),
        params=np.stack(
            [
                random.integers(-(2**20), 2**20, 99),
                random.integers(2**15, 2**16, 99),
                random.integers(10, 30, 99),
            ],
            axis=1,
        ),
        norm_params=(gamma << 32) + (beta & (2**32 - 1)),
        activation="gelu",
        image=ImagePort("image", 0, (1, 2, 2), 0.5),
        outputs=(OutputPort("y", 0, 0, 2, 1, 3, 0.25, (3,)),),
    )


def random_state(config, random, batch=3):
    state = State(config, batch)
    state.memory[...] = random.integers(0, 256, state.memory.shape)
    state.slots[...] = random.integers(0, 256, state.slots.shape)
    state.accumulators[...] = random.integers(-(2**22), 2**22, state.accumulators.shape)
    state.maximum[...] = random.integers(-20, 20, state.maximum.shape)
    state.total[...] = random.integers(0, 2**24, state.total.shape)
    state.growth[...] = random.integers(0, 12, state.growth.shape)
    for b in range(batch):
        filled = np.flatnonzero(random.integers(0, 2, config.experts))
        state.metaqueue[b, : len(filled)] = filled
        state.metaqueue_length[b] = len(filled)
        for expert in filled:
            count = int(random.integers(1, config.tokens + 1))
            state.queue_count[b, expert] = count
            state.queue_token[b, expert, :count] = random.permutation(config.tokens)[:count]
            state.queue_gate[b, expert, :count] = random.integers(0, 32769, count)
    return state


class Naive:
    """One image of a machine; every instruction element by element."""

    def __init__(self, program, state, image):
        self.program, self.config, self.b = program, program.config, image
        self.L = program.config.lanes
        for name in (*FIELDS, "metaqueue", "metaqueue_length"):
            setattr(self, name, getattr(state, name)[image].copy())

    def predicate(self, i):
        """Return (expert, rows), or None when skipped."""
        rows = getattr(i, "rows", 0)
        if not i.expert_enable:
            return 0, rows
        if i.meta >= self.metaqueue_length:
            return None
        expert = int(self.metaqueue[i.meta])
        left = int(self.queue_count[expert]) - i.first
        return (expert, min(rows, left)) if left > 0 else None

    def byte(self, memory, address):
        return int(
            self.memory[address]
            if memory == Memory.ACT
            else self.program.weights.reshape(-1).view(np.uint8)[address]
        )

    def load(self, i):
        if (found := self.predicate(i)) is None:
            return
        expert, rows = found
        size = 1 << i.granule
        for r in range(rows):
            at = i.row_first + r
            start = i.base + at % i.row_wrap * i.row_stride + at // i.row_wrap * i.row_jump
            if i.gather:
                start = i.base + int(self.queue_token[expert, i.first + r]) * i.row_stride
            data = [
                self.byte(i.memory, start + a * i.stride2 + b * i.stride1 + c * size + d)
                for a in range(i.n2)
                for b in range(i.n1)
                for c in range(i.n0)
                for d in range(size)
            ]
            data += [0] * (i.words * self.L - len(data))
            self.slots[i.slot, r, : len(data)] = data

    def copy(self, i):
        data = [self.byte(i.memory, i.source * self.L + n) for n in range(i.words * self.L)]
        self.memory[i.target * self.L : i.target * self.L + len(data)] = data

    def matmul(self, i):
        if (found := self.predicate(i)) is None:
            return
        for j1 in range(i.n1):
            for j0 in range(i.n0):
                start = (i.base + found[0] * i.expert_stride + j1 * i.stride1 + j0 * i.stride0) * self.L
                streamed = [signed8(self.byte(i.memory, start + n)) for n in range(i.words * self.L)]
                column = i.acc_base + j1 * i.n0 + j0
                for r in range(self.config.rows):
                    row = self.slots[i.slot, r]
                    value = sum(
                        (int(row[n]) if i.resident_unsigned else signed8(row[n])) * streamed[n]
                        for n in range(len(streamed))
                    )
                    value = half_up(value, 8) if i.low_pass else value
                    if i.accumulate:
                        old = int(self.accumulators[r, column])
                        value += half_up(old, int(self.growth[i.state, r])) if i.rescale else old
                    self.accumulators[r, column] = value

    def post(self, i):
        if (found := self.predicate(i)) is None:
            return
        expert, rows = found
        width = -(-i.columns // self.L) * self.L
        for r in range(rows):
            index = int(self.queue_token[expert, i.first + r]) if i.scatter else r
            for c in range(i.columns if i.format == Format.COLUMNS else width):
                v = self.post_value(i, expert, r, c) if c < i.columns else 0
                group, lane = divmod(c, self.L)
                if i.format == Format.COLUMNS:
                    self.memory[i.base + c * i.stride * self.L + r] = clip(v, 8) & 255
                elif i.format == Format.INT8:
                    self.memory[(i.base + index * i.stride + group) * self.L + lane] = clip(v, 8) & 255
                else:
                    low = (i.base + index * i.stride + 2 * group) * self.L + lane
                    high = low + self.L
                    if i.format == Format.RESIDUAL:
                        v += signed8(self.memory[high]) * 256 + int(self.memory[low])
                    v = clip(v, 16)
                    self.memory[low], self.memory[high] = v & 255, v >> 8 & 255

    def post_value(self, i, expert, r, c):
        acc = int(self.accumulators[r, i.acc_base + c])
        bias, multiplier, shift = (
            int(p) for p in self.program.params[i.param_base + expert * i.expert_stride + c]
        )
        if i.row_scale:
            multiplier, shift = (int(p) for p in reciprocal(self.total[i.state, r], i.m2, i.s2))
            bias = 0
        v = clip(half_up((acc + bias) * multiplier, shift), 18 if i.activation else 16)
        if i.activation:
            v = int(activate(np.array([v]), TABLE)[0])
        if i.stage2 == Stage2.CONSTANT:
            v = clip(half_up(v * i.m2, i.s2), 16)
        if i.stage2 == Stage2.GATE:
            v = clip(half_up(v * int(self.queue_gate[expert, i.first + r]), 15), 16)
        return v

    def softmax(self, i):
        padded = -(-i.keys // self.L) * self.L
        for r in range(i.rows):
            visible = [
                i.mask_low + i.slope_low * r <= j < i.mask_high + i.slope_high * r for j in range(i.keys)
            ]
            block = softmax_block(
                self.accumulators[r, i.acc_base : i.acc_base + i.keys].astype(np.int64),
                i.multiplier,
                i.shift,
                self.maximum[i.state, r],
                self.total[i.state, r],
                bool(i.first),
                np.array(visible),
            )
            self.maximum[i.state, r], self.total[i.state, r] = block.maximum, block.total
            self.growth[i.state, r] = block.growth
            for j in range(padded):
                p = int(block.p16[j]) if j < i.keys else 0
                self.slots[i.slot, r, j] = p >> 8 if i.p16 else min(255, (p + 128) >> 8)
                if i.p16:
                    self.slots[i.slot + 1, r, j] = p & 255

    def norm(self, i):
        width = -(-i.dim // self.L) * self.L
        entries = [int(e) for e in self.program.norm_params[i.param_base : i.param_base + i.dim]]
        gamma = [e >> 32 for e in entries]
        beta = [((e & (2**32 - 1)) ^ 2**31) - 2**31 for e in entries]
        for r in range(i.rows):
            x = []
            for c in range(i.dim):
                low = (i.source + r * i.source_stride + c // self.L * 2) * self.L + c % self.L
                x.append(signed8(self.memory[low + self.L]) * 256 + int(self.memory[low]))
            out, wide = layer_norm(np.array(x), np.array(gamma), np.array(beta), i.epsilon, i.shift)
            for c in range(width):
                self.memory[(i.target + r * i.target_stride) * self.L + c] = (
                    int(out[c]) & 255 if c < i.dim else 0
                )
                if i.wide:
                    value = int(wide[c]) if c < i.dim else 0
                    low = ((value + 128) & 255) - 128
                    at = (i.wide_target + r * i.wide_stride) * self.L + c
                    self.memory[at], self.memory[at + width] = low & 255, (value - low) >> 8 & 255

    def route(self, i):
        if i.clear:
            self.queue_count[...] = 0
        for r in range(i.rows):
            score = []
            for e in range(i.experts):
                c = [int(self.accumulators[r, i.acc_base + 3 * e + n]) for n in range(3)]
                total = c[0] + (c[1] << 8) + (c[2] << 16) + int(self.program.norm_params[i.param_base + e])
                score.append((total + 2**47) % 2**48 - 2**47)
            chosen, gates = route(
                np.array(score), i.score_shift, i.multiplier, i.shift, i.k, bool(i.renormalize)
            )
            for expert, gate in zip(chosen, gates, strict=True):
                place = self.queue_count[expert]
                self.queue_token[expert, place], self.queue_gate[expert, place] = i.token + r, gate
                self.queue_count[expert] += 1
        if i.last:
            filled = np.flatnonzero(self.queue_count)
            self.metaqueue[: len(filled)] = filled
            self.metaqueue_length = np.int64(len(filled))


class Draw:
    """Random instructions that stay within a machine."""

    def __init__(self, config, random):
        self.config, self.random = config, random
        self.half = config.act_total_words // 2

    def below(self, limit, low=0):
        return int(self.random.integers(low, limit))

    def flag(self):
        return self.below(2)

    def predicate(self):
        return (
            {
                "expert_enable": 1,
                "meta": self.below(self.config.experts + 1),
                "first": self.below(self.config.tokens),
            }
            if self.flag()
            else {}
        )

    def load(self):
        config, lanes = self.config, self.config.lanes
        granule = self.below(lanes.bit_length())
        size = 1 << granule
        words = self.below(config.row_words + 1, 1)
        n2, n1 = self.below(3, 1), self.below(4, 1)
        n0 = max(1, words * lanes // (n2 * n1 * size))
        if n2 * n1 * n0 * size > words * lanes:
            n2, n1, n0 = 1, 1, 1
        predicate = self.predicate()
        return Load(
            **predicate,
            slot=self.below(config.row_slots),
            rows=self.below(config.rows + 1, 1),
            words=words,
            memory=(memory := self.flag()),
            gather=self.flag() if predicate and not memory else 0,
            base=self.below(40) * size,
            row_stride=self.below(20) * lanes // size * size // 2 // size * size,
            row_first=self.below(9),
            row_wrap=self.below(5, 1),
            row_jump=self.below(4) * size,
            granule=granule,
            n0=n0,
            n1=n1,
            stride1=self.below(5) * size,
            n2=n2,
            stride2=self.below(5) * size,
        )

    def copy(self):
        words = self.below(30, 1)
        source = self.below(min(self.config.weight_words, self.half) - 30)
        return Copy(
            memory=self.flag(), source=source, target=self.half + self.below(self.half - 30), words=words
        )

    def matmul(self):
        config = self.config
        n1 = self.below(3, 1)
        n0 = self.below(6, 1)
        return Matmul(
            **self.predicate(),
            slot=self.below(config.row_slots),
            resident_unsigned=self.flag(),
            words=self.below(config.row_words + 1, 1),
            memory=self.flag(),
            base=self.below(10),
            expert_stride=self.below(3),
            n0=n0,
            stride0=self.below(3),
            n1=n1,
            stride1=self.below(5),
            acc_base=self.below(2 * config.acc_columns - n0 * n1),
            accumulate=self.flag(),
            rescale=self.flag(),
            low_pass=self.flag(),
            state=self.below(4),
        )

    def post(self):
        config, lanes = self.config, self.config.lanes
        predicate = self.predicate()
        stages = [Stage2.NONE, Stage2.CONSTANT, *([Stage2.GATE] if predicate else [])]
        stage2, kind = stages[self.below(len(stages))], Format(self.below(4))
        activation = stage2 == Stage2.CONSTANT and self.flag()
        columns = self.below(14, 1)
        words = -(-columns // lanes) * 2
        return Post(
            **predicate,
            acc_base=self.below(2 * config.acc_columns - columns),
            columns=columns,
            rows=self.below(config.rows + 1, 1),
            param_base=self.below(9),
            expert_stride=self.below(7),
            row_scale=stage2 == Stage2.NONE and self.flag(),
            state=self.below(4),
            activation=activation,
            stage2=stage2,
            m2=self.below(2**16, 2**15),
            s2=self.below(20, 2),
            format=kind,
            scatter=self.flag() if predicate and kind != Format.COLUMNS else 0,
            base=self.below(4 * lanes) if kind == Format.COLUMNS else self.below(4),
            stride=1 if kind == Format.COLUMNS else words,
        )

    def softmax(self):
        config = self.config
        keys = self.below(min(config.row_words * config.lanes, 2 * config.acc_columns) + 1, 1)
        return Softmax(
            acc_base=self.below(2 * config.acc_columns - keys + 1),
            keys=keys,
            rows=self.below(config.rows + 1, 1),
            slot=self.below(config.row_slots - 1),
            p16=self.flag(),
            multiplier=self.below(2**16, 2**15),
            shift=self.below(34, 24),
            state=self.below(4),
            first=self.flag(),
            mask_low=self.below(4, -3),
            mask_high=self.below(keys + 3, -2),
            slope_low=self.flag(),
            slope_high=self.flag(),
        )

    def norm(self):
        lanes = self.config.lanes
        dim = self.below(31, 1)
        groups = -(-dim // lanes)
        rows = self.below(4, 1)
        third = self.config.act_total_words // 4
        rows = min(rows, third // (2 * groups))
        return Norm(
            source=self.below(3),
            source_stride=2 * groups,
            rows=rows,
            dim=dim,
            target=third * 2,
            target_stride=groups,
            param_base=self.below(9),
            epsilon=self.below(2**30, 1),
            shift=self.below(30, 9),
            wide=self.flag(),
            wide_target=third * 3,
            wide_stride=2 * groups,
        )

    def route(self):
        config = self.config
        experts = self.below(config.experts + 1, 1)
        return Route(
            acc_base=self.below(2 * config.acc_columns - 3 * experts + 1),
            rows=self.below(config.rows + 1, 1),
            token=self.below(100),
            experts=experts,
            k=self.below(min(experts, 3) + 1, 1),
            renormalize=self.flag(),
            score_shift=self.below(20),
            multiplier=self.below(2**16, 2**15),
            shift=self.below(34, 16),
            param_base=self.below(9),
            clear=1,
            last=self.flag(),
        )


KINDS = ["load", "copy", "matmul", "post", "softmax", "norm", "route"]


@pytest.mark.parametrize("config", CONFIGS, ids=["4x8", "3x4", "7x16"])
@pytest.mark.parametrize("kind", KINDS)
def test_instruction_equals_the_naive_machine(kind, config):
    random = np.random.default_rng(KINDS.index(kind) * 10 + config.rows)
    draw = Draw(config, random)
    for _ in range(40):
        instruction = getattr(draw, kind)()
        program = program_of(config, [instruction], random)
        state = random_state(config, random)
        naive = [Naive(program, state, b) for b in range(state.batch)]
        Executor(program).execute(state, 0)
        for b, machine in enumerate(naive):
            getattr(machine, kind)(instruction)
            for name in FIELDS:
                assert (getattr(state, name)[b] == getattr(machine, name)).all(), (name, b, instruction)
            length = int(machine.metaqueue_length)
            assert state.metaqueue_length[b] == length
            assert (state.metaqueue[b, :length] == machine.metaqueue[:length]).all()


def test_a_batch_is_the_same_as_its_images_one_by_one():
    config = CONFIGS[0]
    random = np.random.default_rng(9)
    draw = Draw(config, random)
    kinds = ["norm", "load", "matmul", "route", "load", "matmul", "post", "softmax", "matmul", "post"] * 6
    instructions = [getattr(draw, kind)() for kind in kinds]
    executor = Executor(program_of(config, instructions, random))
    images = random.normal(size=(5, 1, 2, 2)).astype(np.float32)
    together = executor.run(images, 0)
    state = executor.start(images)
    seen = []
    executor.execute(state, 0, lambda index, _: seen.append(index))
    assert seen == list(range(len(instructions)))
    for b in range(5):
        alone = executor.run(images[b : b + 1], 0)
        assert (alone.outputs["y"][0] == together.outputs["y"][b]).all()
        for one, group in zip(alone.routing, together.routing, strict=True):
            assert (one[0] == group[b]).all()
        *_, (index, last) = executor.step_through(images[b], 0)
        assert index == len(instructions) - 1
        for name in FIELDS:
            assert (getattr(last, name)[0] == getattr(state, name)[b]).all(), name


def test_long_batches_run_in_parts(monkeypatch):
    random = np.random.default_rng(10)
    draw = Draw(CONFIGS[0], random)
    executor = Executor(program_of(CONFIGS[0], [draw.norm(), draw.copy(), draw.route()], random))
    images = random.normal(size=(7, 1, 2, 2)).astype(np.float32)
    whole = executor.run(images, 0)
    monkeypatch.setattr("hwattn.sim.model.executor.BATCH_MAX", 3)
    parts = executor.run(images, 0)
    assert executor.batch_limit == 3
    assert (parts.integers["y"] == whole.integers["y"]).all()
    assert len(parts.routing) == len(whole.routing)


def test_images_and_outputs():
    config = CONFIGS[0]
    executor = Executor(program_of(config, [], np.random.default_rng(0)))
    image = np.array([[[[0.25, -0.25], [100.0, -100.0]]]], np.float32)
    state = executor.start(image)
    assert state.memory[0, :4].view(np.int8).tolist() == [1, 0, 127, -128]
    result = executor.run(image, 0)
    assert result.integers["y"].tolist() == [[[1, 0, 127]]]
    assert result.outputs["y"].dtype == np.float32
    assert result.outputs["y"].tolist() == [[0.25, 0.0, 31.75]]
    # a second image finds what the first has left
    state.memory[0, 100] = 7
    again = executor.start(image, state)
    assert again.memory[0, 100] == 7


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strange(Instruction):
    opcode = 15
    queue = 0


BAD = [
    (Load(row_wrap=1, slot=4, rows=1, words=1, n0=1, n1=1, n2=1), "4 slots of 4 rows of 4 words"),
    (Load(rows=1, words=1, n0=1, n1=1, n2=1), "row_wrap is 0"),
    (
        Load(row_wrap=1, rows=1, words=1, n0=9, n1=1, n2=1),
        "rows of 9 bytes do not fit into 1 words of 8 bytes",
    ),
    (Load(row_wrap=1, rows=1, words=1, n0=1, n1=1, n2=1, base=4, granule=3), "granules of 8 bytes"),
    (Load(row_wrap=1, rows=1, words=1, n0=1, n1=1, n2=1, base=1024), "out of bounds"),
    (Load(gather=1, rows=1, words=1, n0=1, n1=1, n2=1), "gather without an expert"),
    (Copy(source=127, words=2), "reaches byte 1031 of a memory of 1024 bytes"),
    (Matmul(n0=1, n1=1, words=1, acc_base=32), "accumulator columns 32 to 32 of 4 rows"),
    (Matmul(n0=1, n1=1, words=5), "5 words; the machine has 4 slots of 4 words"),
    (Post(columns=1, rows=5), "of 5 rows; the machine has 32 columns of 4 rows"),
    (Post(columns=1, rows=1, stage2=3), "stage2=3"),
    (Post(columns=1, rows=1, scatter=1), "scatter and gate weights need an expert"),
    (Post(columns=1, rows=1, activation=1), "an activation needs the second stage CONSTANT"),
    (Post(columns=1, rows=1, row_scale=1, stage2=1), "row_scale goes with neither"),
    (Softmax(keys=33, rows=1), "33 keys; the machine has 4 slots of 32 bytes"),
    (Softmax(keys=1, rows=1, bias=1), "bias is reserved"),
    (Norm(rows=1, dim=1, param_base=40, shift=9, epsilon=1), "1 norm parameters from entry 40 of 40"),
    (Route(rows=1, experts=6, k=1), "the machine has 5 experts"),
    (Strange(), "an unknown instruction"),
]


@pytest.mark.parametrize(("instruction", "message"), BAD)
def test_instructions_that_leave_the_machine_are_refused(instruction, message, monkeypatch):
    if isinstance(instruction, Strange):
        monkeypatch.setattr("hwattn.sim.model.executor.disassemble", repr)
    executor = Executor(program_of(CONFIGS[0], [instruction], np.random.default_rng(0)))
    with pytest.raises(ValueError) as caught:
        executor.run(np.zeros((1, 1, 2, 2), np.float32), 0)
    assert message in str(caught.value)
    assert str(caught.value).startswith("instruction 0, ")


def test_a_full_queue_is_refused():
    config = CONFIGS[1]
    fill = [Route(rows=1, token=token, experts=1, k=1, multiplier=1 << 15, shift=20) for token in range(8)]
    executor = Executor(program_of(config, fill, np.random.default_rng(0)))
    with pytest.raises(ValueError, match="queue holds 7 tokens and is full"):
        executor.run(np.zeros((1, 1, 2, 2), np.float32), 0)


def test_bad_calls_are_refused():
    executor = Executor(program_of(CONFIGS[0], [], np.random.default_rng(0)))
    good = np.zeros((2, 1, 2, 2), np.float32)
    with pytest.raises(ValueError, match="task 1 of 1"):
        executor.run(good, 1)
    with pytest.raises(ValueError, match="images of shape"):
        executor.run(good[:, :, :1], 0)
    with pytest.raises(ValueError, match="no images"):
        executor.run(good[:0], 0)
    with pytest.raises(ValueError, match="2 images for a state of 3"):
        executor.start(good, State(CONFIGS[0], 3))
    endless = dataclasses.replace(executor.program, instructions=())
    with pytest.raises(ValueError, match="no HALT"):
        Executor(endless).run(good, 0)
