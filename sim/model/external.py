"""External memory: fetches into the weight buffer, the activation memory and the memories of parameters, and stores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwattn.sim.model.predicate import Active
from hwattn.sim.model.state import State, strided_view
from hwattn.spec.entries import ENTRY_BYTES, ENTRY_REGIONS, unpack_entries
from hwattn.spec.isa import Fetch, Matmul, Memory, Store
from hwattn.spec.numbers import Int64
from hwattn.spec.program import Program


def fetch(instruction: Fetch, program: Program, state: State, where: Active | None) -> None:
    """Copy runs of external words; `where` says in which images, None for all without an expert.

    Weights never change: of those in the buffer only the place that they came from is noted.
    """
    images = np.arange(state.batch) if where is None else where.images
    expert = np.zeros(len(images), np.int64) if where is None else where.expert
    starts = instruction.source + expert * instruction.expert_stride
    offset = np.arange(instruction.words)
    for run in range(instruction.runs):
        source = starts + run * instruction.source_stride
        target = instruction.target + run * instruction.target_stride
        weights = _of_weights(source, instruction.words, program)
        if instruction.memory == Memory.WEIGHT:
            if target + instruction.words > state.config.weight_words:
                raise ValueError(f"reaches word {target + instruction.words - 1} of the weight buffer")
            noted = source[:, None] + offset if weights else -1
            state.buffer_source[images, target : target + instruction.words] = noted
            if not weights:
                first = int(source[0]) - program.scratch[0]
                state.buffer[images, target : target + instruction.words] = state.scratch[
                    images, first : first + instruction.words
                ]
        elif instruction.memory in ENTRY_REGIONS:
            words = _external_words(source, instruction.words, images, program, state)
            _put_entries(Memory(instruction.memory), target, words, images, program, state)
        else:
            words = _external_words(source, instruction.words, images, program, state)
            if target + instruction.words > state.config.act_total_words:
                raise ValueError(f"reaches word {target + instruction.words - 1} of the activation memory")
            state.words[images, target : target + instruction.words] = words


def _put_entries(
    memory: Memory, target: int, words: NDArray[np.uint8], images: Int64, program: Program, state: State
) -> None:
    """Write the entries that lie in words (images, words, lanes) into a memory from entry `target` on."""
    size = state.config.param_words if memory == Memory.PARAM else state.config.norm_words
    if words[0].size % ENTRY_BYTES:
        raise ValueError(f"{words[0].size} bytes are no whole number of entries")
    units = np.ascontiguousarray(words).reshape(len(images), -1).view("<u4").reshape(len(images), -1, 2)
    if target + units.shape[1] > size:
        raise ValueError(f"reaches entry {target + units.shape[1] - 1} of {size}")
    if memory not in state.entries:
        own = program.params if memory == Memory.PARAM else program.norm_params
        entries = np.zeros((state.batch, size, *own.shape[1:]), np.int64)
        entries[:, : len(own)] = own
        state.entries[memory] = entries
    state.entries[memory][images, target : target + units.shape[1]] = unpack_entries(memory, units)


def parameters(program: Program, state: State, index: Int64, images: Int64 | None = None) -> Int64:
    """Read bias, multiplier and shift from the parameter memory.

    Parameters
    ----------
    program : Program
    state : State
    index : ndarray of int64, shape (columns,) or (images, 1, columns)
        Entries.
    images : ndarray of int64, optional
        Indexes into the batch; all by default.

    Returns
    -------
    ndarray of int64, shape (columns, 3) or (images, 1, columns, 3)
    """
    if Memory.PARAM not in state.entries:
        return np.asarray(program.params[index])
    chosen = np.arange(state.batch) if images is None else images
    return np.asarray(state.entries[Memory.PARAM][chosen[:, None, None], index])


def norm_parameters(program: Program, state: State, first: int, count: int) -> Int64:
    """Read entries of the norm memory: int64 (count,), or (batch, 1, count) where they were fetched."""
    if Memory.NORM not in state.entries:
        entries = np.asarray(program.norm_params)
    else:
        entries = np.asarray(state.entries[Memory.NORM])[:, None]
    size = entries.shape[-1]
    if first + count > size:
        raise ValueError(f"{count} norm parameters from entry {first} of {size}")
    return np.asarray(entries[..., first : first + count])


def store(instruction: Store, program: Program, state: State) -> None:
    """Copy runs of words of the activation memory to external memory."""
    base = instruction.target - program.scratch[0]
    for run in range(instruction.runs):
        source = instruction.source + run * instruction.source_stride
        target = base + run * instruction.target_stride
        if target < 0 or target + instruction.words > state.scratch.shape[1]:
            raise ValueError(f"writes external word {target + program.scratch[0]}, outside the program's own")
        state.scratch[:, target : target + instruction.words] = state.words[
            :, source : source + instruction.words
        ]


def buffered_rows(
    instruction: Matmul, program: Program, state: State, images: Int64 | None
) -> Iterator[tuple[Int64 | None, NDArray[np.int8]]]:
    """Yield the rows that a Matmul streams from the weight buffer, images with the same ones together.

    Yields
    ------
    images : ndarray of int64 or None
        Indexes into the batch; None for all.
    rows : ndarray of int8, shape (n1 * n0, length) or (images, n1 * n0, length)
    """
    lanes = state.config.lanes
    shape = (instruction.n1, instruction.n0, instruction.words * lanes)
    strides = (instruction.stride1 * lanes, instruction.stride0 * lanes, 1)
    span = (instruction.n1 - 1) * instruction.stride1 + (instruction.n0 - 1) * instruction.stride0
    last = instruction.base + span + instruction.words - 1
    if last >= state.config.weight_words:
        raise ValueError(f"reaches word {last} of a weight buffer of {state.config.weight_words} words")
    chosen = np.arange(state.batch) if images is None else images
    first = state.buffer_source[chosen, instruction.base]
    if np.any((first >= 0) & (state.buffer_source[chosen, last] != first + last - instruction.base)):
        raise ValueError("streams words of the weight buffer that were not fetched together")
    for source in np.unique(first).tolist():
        group = chosen[first == source]
        everything = images is None and len(group) == state.batch
        if source >= 0:
            rows = strided_view(program.weights.reshape(1, -1), source * lanes, shape, strides)
            found: NDArray[Any] = rows.reshape(shape[0] * shape[1], -1)
        else:
            rows = strided_view(
                state.buffer.reshape(state.batch, -1), instruction.base * lanes, shape, strides
            )
            found = (rows if everything else rows[group]).reshape(len(group), shape[0] * shape[1], -1)
        yield None if everything else group, found.view(np.int8)


def _of_weights(source: Int64, words: int, program: Program) -> bool:
    """Whether runs lie in the weights; else in what the program writes.

    Raises
    ------
    ValueError
        They lie in neither.
    """
    if source.max() + words <= len(program.weights):
        return True
    if source.min() < program.scratch[0] or source.max() + words > program.config.external_words:
        raise ValueError(f"fetches {words} external words from {source.min()} on, which hold nothing")
    return False


def _external_words(
    source: Int64, words: int, images: Int64, program: Program, state: State
) -> NDArray[np.uint8]:
    """Read runs of external words: uint8 (images, words, lanes)."""
    index = source[:, None] + np.arange(words)
    if _of_weights(source, words, program):
        return np.asarray(program.weights.view(np.uint8)[index])
    found: NDArray[np.uint8] = state.scratch[images[:, None], index - program.scratch[0]]
    return found
