"""Random programs, states and instructions that stay within a machine."""

from __future__ import annotations

import numpy as np

from hwattn.sim.model.state import State
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Copy, Format, Halt, Load, Matmul, Norm, Post, Route, Softmax, Stage2
from hwattn.spec.program import ImagePort, OutputPort, Program

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
            zero_mean=(rows + dim) % 2,
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
