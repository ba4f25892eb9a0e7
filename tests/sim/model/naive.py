"""A naive machine: one image, every instruction element by element, as docs/isa.md says it."""

from __future__ import annotations

import numpy as np

from hwattn.sim.model.layernorm import layer_norm
from hwattn.sim.model.post import activate, reciprocal
from hwattn.sim.model.router import route
from hwattn.sim.model.softmax import softmax_block
from hwattn.spec.isa import Format, Memory, Stage2
from hwattn.spec.tables import activation_table

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
            vectors = (np.array(x), np.array(gamma), np.array(beta))
            out, wide = layer_norm(*vectors, i.epsilon, i.shift, zero_mean=bool(i.zero_mean))
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
