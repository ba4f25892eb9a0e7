"""What every instruction reads and writes, as numbered locations: the ground on which tokens stand.

Locations are the words of the activation memory, then resident slots, accumulator banks, softmax states and the experts' queues; with
external memory the words of the weight buffer, the entries of the parameter and the norm memory, and of external memory those that change from image to image. What is only read has none. An
accumulator bank counts as written by every use: only one unit may be at a bank.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwattn.compiler.layout import ceil_div, int16_words
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.entries import ENTRY_BYTES, ENTRY_REGIONS
from hwattn.spec.isa import (
    EXTERNAL_ADDRESS_BITS,
    SOFTMAX_STATES,
    Copy,
    Fetch,
    Format,
    Instruction,
    Load,
    Matmul,
    Memory,
    Norm,
    Post,
    Predicated,
    Route,
    Softmax,
    Store,
)

Locations = NDArray[np.int64]
MAX_SLOTS = 8


@dataclass(frozen=True)
class Access:
    """Locations that an instruction reads, and those that it writes (or uses alone); some may be listed twice."""

    reads: Locations
    writes: Locations


class AccessMap:
    """Finds the accesses of instructions in program order.

    Tokens of gathers and scatters are known only when running: they count as all tokens routed since the queues were cleared.

    Parameters
    ----------
    config : AcceleratorConfig
    scratch : tuple of int
        First external word that changes from image to image, and the number of those words.
    """

    def __init__(self, config: AcceleratorConfig, scratch: tuple[int, int] = (0, 0)) -> None:
        self.config = config
        self.scratch_base, scratch_words = scratch if scratch[1] else (1 << EXTERNAL_ADDRESS_BITS, 0)
        self.slots = config.act_total_words
        self.banks = self.slots + MAX_SLOTS
        self.states = self.banks + config.acc_banks
        self.queues = self.states + SOFTMAX_STATES
        self.buffer = self.queues + 1
        fetched = bool(config.external_words)
        self.params = self.buffer + fetched * config.weight_words
        self.norms = self.params + fetched * config.param_words
        self.scratch = self.norms + fetched * config.norm_words
        self.count = self.scratch + scratch_words
        self._routed = (0, 0)

    def name(self, location: int) -> str:
        """Describe a location for a message."""
        kinds = (
            (self.scratch, "external word"),
            (self.norms, "norm memory entry"),
            (self.params, "parameter entry"),
            (self.buffer, "weight buffer word"),
            (self.queues, "expert queues"),
            (self.states, "softmax state"),
            (self.banks, "accumulator bank"),
            (self.slots, "resident slot"),
            (0, "activation word"),
        )
        base, kind = next((base, kind) for base, kind in kinds if location >= base)
        return f"{kind} {location - base}"

    def walk(self, instructions: Iterable[Instruction]) -> Iterator[Access]:
        """Yield the accesses of each instruction of one task, in program order."""
        self._routed = (0, 0)
        for instruction in instructions:
            reads, writes = self._access(instruction)
            if isinstance(instruction, Predicated) and instruction.expert_enable:
                reads.append(np.array([self.queues]))
            yield Access(_union(reads), _union(writes))

    def _access(self, one: Instruction) -> tuple[list[Locations], list[Locations]]:
        match one:
            case Load():
                return self._in(one.memory, self._load(one)), [self._slot(one.slot)]
            case Copy():
                return self._in(one.memory, _run(one.source, one.words)), [_run(one.target, one.words)]
            case Fetch():
                starts = one.target + np.arange(one.runs) * one.target_stride
                source = one.source + np.arange(one.runs) * one.source_stride
                entries = one.memory in ENTRY_REGIONS
                count = one.words * self.config.lanes // ENTRY_BYTES if entries else one.words
                return self._external(source, one.words), self._in(one.memory, _runs(starts, count))
            case Store():
                source = one.source + np.arange(one.runs) * one.source_stride
                starts = one.target + np.arange(one.runs) * one.target_stride
                return [_runs(source, one.words)], self._external(starts, one.words)
            case Matmul():
                starts = _grid(one.base, (one.n1, one.stride1), (one.n0, one.stride0))
                reads = [self._slot(one.slot), *self._in(one.memory, _runs(starts, one.words))]
                if one.rescale:
                    reads.append(np.array([self.states + one.state]))
                return reads, [self._bank(one.acc_base, one.n1 * one.n0)]
            case Softmax():
                slots = [self._slot(one.slot + index) for index in range(1 + one.p16)]
                state = np.array([self.states + one.state])
                return [state], [self._bank(one.acc_base, one.keys), state, *slots]
            case Post():
                return self._post(one)
            case Norm():
                return self._norm(one)
            case Route():
                low, high = (one.token, one.token) if one.clear else self._routed
                self._routed = min(low, one.token), max(high, one.token + one.rows)
                bias = self._in(Memory.NORM, _run(one.param_base, one.experts))
                return bias, [self._bank(one.acc_base, 3 * one.experts), np.array([self.queues])]
        return [], []

    def _in(self, memory: int, words: Locations) -> list[Locations]:
        """Locations of words or entries of a memory; those that no instruction writes have none."""
        if memory == Memory.ACT:
            return [words]
        base = {Memory.WEIGHT: self.buffer, Memory.PARAM: self.params, Memory.NORM: self.norms}
        return [base[Memory(memory)] + words] if self.config.external_words else []

    def _external(self, starts: Locations, words: int) -> list[Locations]:
        """Locations of runs of external words, as far as the program writes there."""
        inside = starts >= self.scratch_base
        return [self.scratch - self.scratch_base + _runs(starts[inside], words)] if inside.any() else []

    def _slot(self, slot: int) -> Locations:
        return np.array([self.slots + slot])

    def _bank(self, base: int, columns: int) -> Locations:
        bank = base // self.config.acc_columns
        if (base + columns - 1) // self.config.acc_columns != bank:
            raise ValueError(f"columns {base} to {base + columns - 1} lie in two accumulator banks")
        return np.array([self.banks + bank])

    def _load(self, one: Load) -> Locations:
        lanes = self.config.lanes
        if one.gather:
            rows = np.arange(*self._routed) * one.row_stride
        else:
            index = one.row_first + np.arange(one.rows)
            rows = index % one.row_wrap * one.row_stride + index // one.row_wrap * one.row_jump
        starts = one.base + rows[:, None] + _grid(0, (one.n2, one.stride2), (one.n1, one.stride1))
        length = one.n0 << one.granule
        first, last = starts // lanes, (starts + length - 1) // lanes
        span = np.arange(int((last - first).max(initial=0)) + 1)
        words = first[..., None] + span
        return words[words <= last[..., None]]

    def _rows(self, one: Post) -> Locations:
        return np.arange(*self._routed) if one.scatter else np.arange(one.rows)

    def _post(self, one: Post) -> tuple[list[Locations], list[Locations]]:
        lanes = self.config.lanes
        if one.row_scale:
            state = [np.array([self.states + one.state])]
        else:
            state = self._in(Memory.PARAM, _run(one.param_base, one.columns))
        bank = self._bank(one.acc_base, one.columns)
        if one.format == Format.COLUMNS:
            starts = one.base + np.arange(one.columns) * one.stride * lanes
            return state, [bank, ((starts[:, None] + self._rows(one)) // lanes).reshape(-1)]
        int8 = one.format == Format.INT8
        words = ceil_div(one.columns, lanes) if int8 else int16_words(one.columns, lanes)
        written = _runs(one.base + self._rows(one) * one.stride, words)
        return [*state, *([written] if one.format == Format.RESIDUAL else [])], [bank, written]

    def _norm(self, one: Norm) -> tuple[list[Locations], list[Locations]]:
        rows, lanes = np.arange(one.rows), self.config.lanes
        source = _runs(one.source + rows * one.source_stride, int16_words(one.dim, lanes))
        writes = [_runs(one.target + rows * one.target_stride, ceil_div(one.dim, lanes))]
        if one.wide:
            writes.append(_runs(one.wide_target + rows * one.wide_stride, 2 * ceil_div(one.dim, lanes)))
        return [source, *self._in(Memory.NORM, _run(one.param_base, one.dim))], writes


def _run(base: int, words: int) -> Locations:
    return np.arange(base, base + words)


def _runs(starts: Locations, words: int) -> Locations:
    return (starts[:, None] + np.arange(words)).reshape(-1)


def _grid(base: int, outer: tuple[int, int], inner: tuple[int, int]) -> Locations:
    """Addresses ``base + i * stride1 + j * stride0``, flat."""
    rows = np.arange(outer[0]) * outer[1]
    return (base + rows[:, None] + np.arange(inner[0]) * inner[1]).reshape(-1)


def _union(parts: list[Locations]) -> Locations:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


class LastAccess:
    """The last read and the last write of every location by each queue, as indices of instructions (-1: none)."""

    def __init__(self, locations: int, queues: int) -> None:
        self._read = np.full((queues, locations), -1, np.int64)
        self._written = np.full((queues, locations), -1, np.int64)

    def conflicts(self, access: Access) -> Locations:
        """Return for each queue its last instruction that must come before this access, or -1."""
        before_read = self._written[:, access.reads].max(axis=1, initial=-1)
        used = np.maximum(self._written[:, access.writes], self._read[:, access.writes])
        return np.asarray(np.maximum(before_read, used.max(axis=1, initial=-1)), np.int64)

    def record(self, queue: int, index: int, access: Access) -> None:
        """Note the accesses of instruction `index`."""
        self._read[queue, access.reads] = index
        self._written[queue, access.writes] = index
