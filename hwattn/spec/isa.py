"""The instruction set: per-tile operations for seven in-order queues, tied together by tokens.

A program is ONE list in sequential order; that order defines its meaning. The dispatcher hands each
instruction to its unit's queue. An instruction starts when one token has come from every queue in `pop`, and
leaves one token for every queue in `push` when its last result is written (the decoupled access-execute
scheme of TVM's VTA, between all pairs of queues). Tokens are derived from the operands by the compiler.

Word addresses count words of ``lanes`` bytes; byte addresses count bytes. An int16 vector of D elements is
stored as ``2 * ceil(D / lanes)`` words: for each group of `lanes` elements the word of low bytes, then the
word of high bytes. ``docs/isa.md`` describes every instruction's arithmetic.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

INSTRUCTION_BITS = 256
OPCODE_BITS = 4
QUEUES = 7
TOKEN_LIMIT = 255
"""Largest number of tokens waiting between two queues."""

PC_BITS = 16
"""Of an instruction's number."""

EXTERNAL_ADDRESS_BITS = 30
"""Of words of `lanes` bytes."""

SOFTMAX_STATES = 4
"""Sets of running maximum, sum and growth that the softmax unit holds, one for each (head, tile) in flight."""


class Queue(IntEnum):
    """The in-order queues, and the bit of each in `pop` and `push`. FETCH and STORE exist in machines with external memory."""

    LOAD = 0
    MATRIX = 1
    POST = 2
    NORM = 3
    SOFTMAX = 4
    FETCH = 5
    STORE = 6


EXTERNAL_QUEUES = (Queue.FETCH, Queue.STORE)
"""Queues of the units at the external memory's port."""


class Opcode(IntEnum):
    """First field of every instruction."""

    HALT = 0
    LOAD = 1
    COPY = 2
    MATMUL = 3
    POST = 4
    SOFTMAX = 5
    NORM = 6
    ROUTE = 7
    FETCH = 8
    STORE = 9


class Memory(IntEnum):
    """Where an operand lies."""

    ACT = 0
    WEIGHT = 1
    PARAM = 2
    """Only FETCH names this and the next."""
    NORM = 3


class Format(IntEnum):
    """How POST writes its result.

    INT8: token-major int8. COLUMNS: int8, each column written as one row (V^T). INT16: token-major int16.
    RESIDUAL: token-major int16, added to what is there, saturating.
    """

    INT8 = 0
    COLUMNS = 1
    INT16 = 2
    RESIDUAL = 3


class Stage2(IntEnum):
    """The second scaling of POST: none, by (m2, s2), or by the token's gate weight with shift 15."""

    NONE = 0
    CONSTANT = 1
    GATE = 2


def _bits(width: int, signed: bool = False) -> Any:
    return dataclasses.field(default=0, metadata={"bits": width, "signed": signed})


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """What every instruction has: an operation code and the queues it waits for and releases."""

    opcode: ClassVar[Opcode]
    queue: ClassVar[Queue]

    pop: int = _bits(QUEUES)
    push: int = _bits(QUEUES)


@dataclass(frozen=True, kw_only=True)
class Halt(Instruction):
    """End of the program: done once every queue is empty and idle."""

    opcode = Opcode.HALT
    queue = Queue.LOAD


@dataclass(frozen=True, kw_only=True)
class Predicated(Instruction):
    """An instruction that may belong to an expert.

    With `expert_enable`, the expert is entry `meta` of the metaqueue; the instruction is skipped when the
    metaqueue is shorter, or when the expert's queue holds `first` tokens or fewer; and ``rows`` (where there
    is such a field) is lowered to what is left after `first`.
    """

    expert_enable: int = _bits(1)
    meta: int = _bits(8)
    first: int = _bits(16)


@dataclass(frozen=True, kw_only=True)
class Load(Predicated):
    """Fill resident rows 0 to rows-1 of a slot.

    Row r starts at byte ``base + ((row_first + r) % row_wrap) * row_stride + ((row_first + r) // row_wrap) *
    row_jump``; with `gather` at ``base + token * row_stride``, token = entry ``first + r`` of the expert's queue.
    A row is n2 x n1 x n0 granules of ``2**granule`` bytes at ``i2 * stride2 + i1 * stride1 + i0 * 2**granule``,
    packed one after the other, then zeros up to `words` words. ``2**granule`` divides `lanes`, `base` and the strides.
    """

    opcode = Opcode.LOAD
    queue = Queue.LOAD

    slot: int = _bits(3)
    rows: int = _bits(8)
    words: int = _bits(12)
    memory: int = _bits(1)
    gather: int = _bits(1)
    base: int = _bits(26)
    row_stride: int = _bits(20)
    row_first: int = _bits(12)
    row_wrap: int = _bits(13)
    row_jump: int = _bits(20)
    granule: int = _bits(3)
    n0: int = _bits(12)
    n1: int = _bits(10)
    stride1: int = _bits(20)
    n2: int = _bits(10)
    stride2: int = _bits(20)


@dataclass(frozen=True, kw_only=True)
class Copy(Instruction):
    """Copy `words` words from `source` in `memory` to `target` in the activation memory."""

    opcode = Opcode.COPY
    queue = Queue.LOAD

    memory: int = _bits(1)
    source: int = _bits(20)
    target: int = _bits(20)
    words: int = _bits(16)


@dataclass(frozen=True, kw_only=True)
class Matmul(Predicated):
    """Stream ``n1 * n0`` rows past the resident rows of a slot; one accumulator column each.

    Streamed row (j1, j0) starts at word ``base + expert * expert_stride + j1 * stride1 + j0 * stride0`` and has
    `words` words. Column ``acc_base + j1 * n0 + j0`` receives for each resident row
    ``old' + dot'``: dot' is the dot product, with `low_pass` shifted right by 8 bits (rounded); old' is 0, with
    `accumulate` the old content, with `rescale` that content shifted right by the growth d of softmax state `state`.
    """

    opcode = Opcode.MATMUL
    queue = Queue.MATRIX

    slot: int = _bits(3)
    resident_unsigned: int = _bits(1)
    words: int = _bits(12)
    memory: int = _bits(1)
    base: int = _bits(20)
    expert_stride: int = _bits(20)
    n0: int = _bits(16)
    stride0: int = _bits(16)
    n1: int = _bits(12)
    stride1: int = _bits(20)
    acc_base: int = _bits(14)
    accumulate: int = _bits(1)
    rescale: int = _bits(1)
    low_pass: int = _bits(1)
    state: int = _bits(2)


@dataclass(frozen=True, kw_only=True)
class Post(Predicated):
    """Requantize `columns` accumulator columns of `rows` rows, and write them.

    Stage 1: ``v = requantize(acc + bias, M, S)`` with (bias, M, S) = parameter entry
    ``param_base + expert * expert_stride + column``; with `row_scale` bias is 0 and (M, S) come from the reciprocal of the
    sum in softmax state `state`, times (m2, s2). 18 bits with `activation`, else 16.
    Activation: ``v = f(v)`` by the table, 19 fraction bits.
    Stage 2: nothing, ``requantize(v, m2, s2)``, or ``requantize(v, gate weight of the row, 15)``.
    Then saturate to 8 or 16 bits as `format` says and write at word ``base + index * stride`` (index = row, with
    `scatter` the token of entry ``first + row``), columns grouped `lanes` to a word, the last group padded with zeros; in
    format COLUMNS at BYTE ``base + column * stride * lanes + row``.
    """

    opcode = Opcode.POST
    queue = Queue.POST

    acc_base: int = _bits(14)
    columns: int = _bits(14)
    rows: int = _bits(8)
    param_base: int = _bits(18)
    expert_stride: int = _bits(16)
    row_scale: int = _bits(1)
    state: int = _bits(2)
    activation: int = _bits(1)
    stage2: int = _bits(2)
    m2: int = _bits(16)
    s2: int = _bits(6)
    format: int = _bits(2)
    scatter: int = _bits(1)
    base: int = _bits(26)
    stride: int = _bits(16)


@dataclass(frozen=True, kw_only=True)
class Softmax(Instruction):
    """Turn a block of `keys` score columns into probabilities in resident slot `slot`.

    ``y = requantize(acc, multiplier, shift, 16)``. Row r sees key j of the block where
    ``mask_low + slope_low * r <= j < mask_high + slope_high * r``. `p16` writes high bytes to `slot` and low bytes to ``slot + 1``.
    Keys up to the next whole word are written as zero. `first` starts the state afresh.
    """

    opcode = Opcode.SOFTMAX
    queue = Queue.SOFTMAX

    acc_base: int = _bits(14)
    keys: int = _bits(14)
    rows: int = _bits(8)
    slot: int = _bits(3)
    p16: int = _bits(1)
    multiplier: int = _bits(16)
    shift: int = _bits(6)
    state: int = _bits(2)
    first: int = _bits(1)
    mask_low: int = _bits(17, signed=True)
    mask_high: int = _bits(17, signed=True)
    slope_low: int = _bits(1)
    slope_high: int = _bits(1)
    bias: int = _bits(1)


@dataclass(frozen=True, kw_only=True)
class Norm(Instruction):
    """LayerNorm of `rows` int16 vectors of `dim` elements into int8, and with `wide` into gate digits too.

    With `zero_mean` the mean is taken as zero (RMSNorm): S is 0, and `dim` at most 4095. Source row r at word ``source + r * source_stride`` (int16), result at ``target + r * target_stride`` (int8). Feature i
    uses entry ``param_base + i`` (gamma, beta) of the norm memory; `epsilon` is added to D*SS - S^2; results are shifted
    right by `shift`. The wide copy, shifted by `shift` - 8, goes to ``wide_target + r * wide_stride``: ceil(D / lanes) words of low
    digits, then as many of high digits.
    """

    opcode = Opcode.NORM
    queue = Queue.NORM

    source: int = _bits(20)
    source_stride: int = _bits(12)
    rows: int = _bits(14)
    dim: int = _bits(13)
    target: int = _bits(20)
    target_stride: int = _bits(12)
    param_base: int = _bits(16)
    epsilon: int = _bits(52)
    shift: int = _bits(6)
    wide: int = _bits(1)
    wide_target: int = _bits(20)
    wide_stride: int = _bits(12)
    zero_mean: int = _bits(1)


@dataclass(frozen=True, kw_only=True)
class Route(Instruction):
    """Choose `k` of `experts` for each of `rows` tokens and append them to the experts' queues.

    ``score = c0 + (c1 << 8) + (c2 << 16) + bias`` with columns ``acc_base + 3 * e + (0, 1, 2)`` and bias the 48-bit entry
    ``param_base + e`` of the norm memory. ``y = requantize(saturate(round_shift(score, score_shift), 32), multiplier, shift, 16)``.
    `clear` empties the queues first; `last` builds the metaqueue (non-empty experts in ascending order).
    `renormalize` takes the softmax over the chosen experts only.
    """

    opcode = Opcode.ROUTE
    queue = Queue.NORM

    acc_base: int = _bits(14)
    rows: int = _bits(8)
    token: int = _bits(16)
    experts: int = _bits(8)
    k: int = _bits(4)
    renormalize: int = _bits(1)
    score_shift: int = _bits(6)
    multiplier: int = _bits(16)
    shift: int = _bits(6)
    param_base: int = _bits(16)
    clear: int = _bits(1)
    last: int = _bits(1)


@dataclass(frozen=True, kw_only=True)
class Fetch(Predicated):
    """Copy `runs` runs of `words` words from external memory into another memory.

    Run r goes from external word ``source + expert * expert_stride + r * source_stride`` to word ``target + r * target_stride`` of `memory`.
    In the parameter and the norm memory `target` and `target_stride` count entries; external words then hold entries one after the other as the
    host writes them, two 32-bit units each, and sources, their strides and `words` are those of whole entries.
    """

    opcode = Opcode.FETCH
    queue = Queue.FETCH

    memory: int = _bits(2)
    source: int = _bits(EXTERNAL_ADDRESS_BITS)
    expert_stride: int = _bits(24)
    target: int = _bits(20)
    words: int = _bits(16)
    runs: int = _bits(14)
    source_stride: int = _bits(24)
    target_stride: int = _bits(16)


@dataclass(frozen=True, kw_only=True)
class Store(Instruction):
    """Copy `runs` runs of `words` words of the activation memory into external memory.

    Run r goes from word ``source + r * source_stride`` to external word ``target + r * target_stride``.
    """

    opcode = Opcode.STORE
    queue = Queue.STORE

    source: int = _bits(20)
    target: int = _bits(EXTERNAL_ADDRESS_BITS)
    words: int = _bits(16)
    runs: int = _bits(14)
    source_stride: int = _bits(16)
    target_stride: int = _bits(24)


INSTRUCTIONS: dict[Opcode, type[Instruction]] = {
    kind.opcode: kind for kind in (Halt, Load, Copy, Matmul, Post, Softmax, Norm, Route, Fetch, Store)
}
