"""The loader: fills resident rows, and copies words into the activation memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwattn.sim.model.predicate import Active
from hwattn.sim.model.state import State, strided_view
from hwattn.spec.isa import Copy, Load, Memory
from hwattn.spec.program import Program


def copy(instruction: Copy, program: Program, state: State) -> None:
    """Copy words into the activation memory."""
    source = _source(instruction.memory, program, state)
    lanes = state.config.lanes
    shape = (instruction.words * lanes,)
    target = state.view(instruction.target * lanes, shape, (1,))
    target[...] = strided_view(source, instruction.source * lanes, shape, (1,)).copy()


def load(instruction: Load, program: Program, state: State, where: Active | None) -> None:
    """Fill resident rows of a slot; `where` says in which images, None for all without an expert."""
    granule = 1 << instruction.granule
    counts = (instruction.n2, instruction.n1, instruction.n0)
    length, words = int(np.prod(counts)) * granule, instruction.words * state.config.lanes
    _check(instruction, state, granule, length, words)
    source = _source(instruction.memory, program, state)
    unit = 8 if _divides(8, granule, instruction, source.shape[1]) else 1
    inner = np.array(0)
    for count, stride in zip(counts, (instruction.stride2, instruction.stride1, granule), strict=True):
        inner = inner[..., None] + np.arange(count) * stride
    inner = (inner.reshape(-1, 1) + np.arange(0, granule, unit)).reshape(-1)
    slot = state.slots[:, instruction.slot]
    if instruction.gather:
        assert where is not None
        first = where.entries(state.queue_token, instruction.first, instruction.rows)
        starts = instruction.base + first * instruction.row_stride
    else:
        row = instruction.row_first + np.arange(instruction.rows)
        jump, step = np.divmod(row, instruction.row_wrap)
        starts = instruction.base + step * instruction.row_stride + jump * instruction.row_jump
    bytes_of = source.view(f"u{unit}")
    if where is None:
        index = (starts[:, None] + inner) // unit
        slot[:, : instruction.rows, :length].view(f"u{unit}")[...] = np.take(bytes_of, index, axis=1)
        slot[:, : instruction.rows, length:words] = 0
        return
    position, row = where.rows(instruction.rows)
    start = starts[position, row] if instruction.gather else starts[row]
    image = where.images[position]
    origin = image if len(bytes_of) == state.batch else np.zeros_like(image)
    found = bytes_of[origin[:, None], (start[:, None] + inner) // unit].view(np.uint8)
    slot[image, row, :length] = found
    slot[image, row, length:words] = 0


def _source(memory: int, program: Program, state: State) -> NDArray[Any]:
    """Return a memory by bytes, (batch, bytes), or (1, bytes) where all images share it."""
    if memory == Memory.ACT:
        return state.memory
    if state.config.external_words:
        raise ValueError("the weight buffer is for the matrix unit: fetch into the activation memory")
    return program.weights.reshape(1, -1).view(np.uint8)


def _divides(unit: int, granule: int, instruction: Load, size: int) -> bool:
    """Return whether whole units of `unit` bytes may be moved instead of single bytes."""
    addresses = (granule, size, instruction.base, instruction.row_stride, instruction.row_jump)
    return not any(value % unit for value in (*addresses, instruction.stride1, instruction.stride2))


def _check(instruction: Load, state: State, granule: int, length: int, words: int) -> None:
    config = state.config
    if instruction.slot >= config.row_slots or instruction.rows > config.rows or words > state.slots.shape[3]:
        raise ValueError(
            f"slot {instruction.slot}, {instruction.rows} rows of {instruction.words} words; the machine has "
            f"{config.row_slots} slots of {config.rows} rows of {config.row_words} words"
        )
    if length > words:
        raise ValueError(
            f"rows of {length} bytes do not fit into {instruction.words} words of {config.lanes} bytes"
        )
    if not instruction.gather and not instruction.row_wrap:
        raise ValueError("row_wrap is 0")
    if instruction.gather and not instruction.expert_enable:
        raise ValueError("gather without an expert")
    addresses = (config.lanes, instruction.base, instruction.row_stride, instruction.row_jump)
    if any(value % granule for value in (*addresses, instruction.stride1, instruction.stride2)):
        raise ValueError(f"granules of {granule} bytes do not divide the lanes, the base and the strides")
