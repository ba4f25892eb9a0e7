"""The instruction POST: accumulator columns through post-processing into the activation memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwattn.sim.model.external import parameters
from hwattn.sim.model.post import reciprocal, stage1, stage2_constant, stage2_gate
from hwattn.sim.model.predicate import Active
from hwattn.sim.model.state import State, join_halves, split_halves
from hwattn.spec.isa import Format, Post, Stage2
from hwattn.spec.numbers import Int64, saturate
from hwattn.spec.program import Program
from hwattn.spec.tables import ActivationTable


def post(
    instruction: Post, program: Program, table: ActivationTable, state: State, where: Active | None
) -> None:
    """Requantize accumulator columns and write them; `where` says in which images, None for all without an expert."""
    _check(instruction)
    columns = state.column_view(instruction.acc_base, instruction.columns, instruction.rows)
    acc = columns if where is None else columns[where.images]
    v = _scaled(instruction, program, table, state, where, acc.astype(np.int64))
    if instruction.format == Format.COLUMNS:
        _write_columns(instruction, state, where, saturate(v, 8).astype(np.int8).view(np.uint8))
    else:
        _write_rows(instruction, state, where, v)


def _check(instruction: Post) -> None:
    if instruction.stage2 not in set(Stage2):
        raise ValueError(f"stage2={instruction.stage2}")
    if instruction.row_scale and (instruction.stage2 or instruction.activation):
        raise ValueError("row_scale goes with neither an activation nor a second stage")
    if instruction.activation and instruction.stage2 != Stage2.CONSTANT:
        raise ValueError("an activation needs the second stage CONSTANT")
    if (instruction.scatter or instruction.stage2 == Stage2.GATE) and not instruction.expert_enable:
        raise ValueError("scatter and gate weights need an expert")
    if instruction.scatter and instruction.format == Format.COLUMNS:
        raise ValueError("scatter does not go with COLUMNS")


def _scaled(
    instruction: Post,
    program: Program,
    table: ActivationTable,
    state: State,
    where: Active | None,
    acc: Int64,
) -> Int64:
    """Return the values before the last saturation: (images, rows, columns)."""
    if instruction.row_scale:
        total = state.total[:, instruction.state, : instruction.rows]
        total = total if where is None else total[where.images]
        multiplier, shift = reciprocal(total, instruction.m2, instruction.s2)
        return stage1(acc, 0, multiplier[..., None], shift[..., None])
    index = instruction.param_base + np.arange(instruction.columns)
    if where is not None and instruction.expert_stride:
        index = index + (where.expert * instruction.expert_stride)[:, None, None]
    entries = parameters(program, state, index, None if where is None else where.images)
    bias, multiplier, shift = np.moveaxis(entries, -1, 0)
    v = stage1(acc, bias, multiplier, shift, table if instruction.activation else None)
    if instruction.stage2 == Stage2.CONSTANT:
        return stage2_constant(v, instruction.m2, instruction.s2)
    if instruction.stage2 == Stage2.GATE:
        assert where is not None
        gate = where.entries(state.queue_gate, instruction.first, instruction.rows)
        return stage2_gate(v, gate[..., None])
    return v


def _write_columns(instruction: Post, state: State, where: Active | None, result: NDArray[np.uint8]) -> None:
    """Write column c, row r to byte ``base + c * stride * lanes + r``."""
    step = instruction.stride * state.config.lanes
    target = state.view(instruction.base, (instruction.rows, instruction.columns), (1, step))
    if where is None:
        target[...] = result
        return
    position, row = where.rows(instruction.rows)
    target[where.images[position], row] = result[position, row]


def _write_rows(instruction: Post, state: State, where: Active | None, v: Int64) -> None:
    """Write rows word by word, to the token's place with `scatter`."""
    lanes, wide = state.config.lanes, instruction.format != Format.INT8
    groups = -(-instruction.columns // lanes)
    length = groups * lanes * (2 if wide else 1)
    if where is None:
        target = state.view(
            instruction.base * lanes, (instruction.rows, length), (instruction.stride * lanes, 1)
        )
        target[...] = _encoded(instruction, lanes, v, target)
        return
    position, row = where.rows(instruction.rows)
    index = row
    if instruction.scatter:
        index = where.entries(state.queue_token, instruction.first, instruction.rows)[position, row]
    places = state.view(
        instruction.base * lanes, (int(index.max()) + 1, length), (instruction.stride * lanes, 1)
    )
    image = where.images[position]
    old = places[image, index]
    places[image, index] = _encoded(instruction, lanes, v[position, row], old)


def _encoded(instruction: Post, lanes: int, v: Int64, old: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return rows of values (..., columns) as the bytes (..., length) that replace the bytes `old`."""
    columns = v.shape[-1]
    shape = (*v.shape[:-1], -(-columns // lanes), lanes)
    padded = np.zeros((*v.shape[:-1], shape[-2] * lanes), np.int64)
    padded[..., :columns] = v
    if instruction.format == Format.INT8:
        return saturate(padded, 8).astype(np.int8).view(np.uint8)
    if instruction.format == Format.RESIDUAL:
        padded += join_halves(old, lanes)
    return split_halves(saturate(padded, 16).astype("<i2").reshape(shape)).reshape(old.shape)
