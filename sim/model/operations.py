"""What each instruction of the matrix, post-processing, LayerNorm and routing queues does to the state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwattn.sim.model.external import buffered_rows, norm_parameters
from hwattn.sim.model.layernorm import layer_norm
from hwattn.sim.model.matrix import low_pass, matrix_product, rescale
from hwattn.sim.model.predicate import Active
from hwattn.sim.model.router import combine, route
from hwattn.sim.model.softmax import bytes8, high_low, softmax_block, visible_keys
from hwattn.sim.model.state import State, join_halves, strided_view
from hwattn.spec.isa import Matmul, Memory, Norm, Route, Softmax
from hwattn.spec.numbers import Int64, signed_digits
from hwattn.spec.program import Program


def matmul(instruction: Matmul, program: Program, state: State, where: Active | None) -> None:
    """Stream rows past the resident rows of a slot into accumulator columns."""
    config = state.config
    if instruction.slot >= config.row_slots or instruction.words > config.row_words:
        raise ValueError(
            f"slot {instruction.slot}, {instruction.words} words; the machine has {config.row_slots} slots "
            f"of {config.row_words} words"
        )
    slot = state.slots[:, instruction.slot, :, : instruction.words * config.lanes]
    resident = slot if instruction.resident_unsigned else slot.view(np.int8)
    columns = state.column_view(instruction.acc_base, instruction.n0 * instruction.n1)
    growth = state.growth[:, instruction.state]
    for images, streamed in _streams(instruction, program, state, where):
        if images is None:
            old = columns if instruction.accumulate else None
            columns[...] = _accumulated(instruction, old, growth, resident, streamed)
        else:
            old = columns[images] if instruction.accumulate else None
            columns[images] = _accumulated(instruction, old, growth[images], resident[images], streamed)


def _streams(
    instruction: Matmul, program: Program, state: State, where: Active | None
) -> Iterator[tuple[Int64 | None, NDArray[np.int8]]]:
    """Yield images (None for all) and the rows streamed in them: (columns, length), or (images, columns, length) of activations."""
    if instruction.memory == Memory.WEIGHT and state.config.external_words:
        yield from buffered_rows(instruction, program, state, None if where is None else where.images)
    elif where is None:
        yield None, _streamed(instruction, program, state, 0, None)
    else:
        for expert in np.unique(where.expert).tolist():
            images = where.images[where.expert == expert]
            yield images, _streamed(instruction, program, state, expert, images)


def _streamed(
    instruction: Matmul, program: Program, state: State, expert: int, images: Int64 | None
) -> NDArray[np.int8]:
    """Return the streamed rows: (columns, length) of the weights, or (images, columns, length) of the activations."""
    lanes = state.config.lanes
    base = (instruction.base + expert * instruction.expert_stride) * lanes
    length = instruction.words * lanes
    shape = (instruction.n1, instruction.n0, length)
    strides = (instruction.stride1 * lanes, instruction.stride0 * lanes, 1)
    if instruction.memory == Memory.WEIGHT:
        rows = strided_view(program.weights.reshape(1, -1), base, shape, strides)
        return rows.reshape(-1, length).view(np.int8)
    rows = state.view(base, shape, strides)
    rows = rows if images is None else rows[images]
    return rows.reshape(len(rows), -1, length).view(np.int8)


def _accumulated(
    instruction: Matmul,
    old: NDArray[np.int32] | None,
    growth: Int64,
    resident: NDArray[Any],
    streamed: NDArray[np.int8],
) -> Int64:
    dot = matrix_product(resident, streamed)
    if instruction.low_pass:
        dot = low_pass(dot)
    if old is None:
        return dot
    return dot + (rescale(old.astype(np.int64), growth) if instruction.rescale else old)


def softmax(instruction: Softmax, state: State) -> None:
    """Turn score columns into probabilities in a resident slot (and the next one, with 16 bits)."""
    rows, keys, lanes = instruction.rows, instruction.keys, state.config.lanes
    padded = -(-keys // lanes) * lanes
    last_slot = instruction.slot + instruction.p16
    if last_slot >= state.config.row_slots or padded > state.slots.shape[3]:
        raise ValueError(
            f"slot {last_slot}, {keys} keys; the machine has {state.config.row_slots} slots of "
            f"{state.slots.shape[3]} bytes"
        )
    if instruction.bias:
        raise ValueError("bias is reserved and must be 0")
    visible = visible_keys(
        rows, keys, instruction.mask_low, instruction.mask_high, instruction.slope_low, instruction.slope_high
    )
    block = softmax_block(
        state.column_view(instruction.acc_base, keys, rows).astype(np.int64),
        instruction.multiplier,
        instruction.shift,
        state.maximum[:, instruction.state, :rows],
        state.total[:, instruction.state, :rows],
        bool(instruction.first),
        visible,
    )
    state.maximum[:, instruction.state, :rows] = block.maximum
    state.total[:, instruction.state, :rows] = block.total
    state.growth[:, instruction.state, :rows] = block.growth
    operands = high_low(block.p16) if instruction.p16 else (bytes8(block.p16),)
    for offset, operand in enumerate(operands):
        slot = state.slots[:, instruction.slot + offset, :rows]
        slot[:, :, :keys] = operand
        slot[:, :, keys:padded] = 0


def norm(instruction: Norm, program: Program, state: State) -> None:
    """Normalize int16 vectors of the activation memory into int8, and into gate digits."""
    lanes, rows, dim = state.config.lanes, instruction.rows, instruction.dim
    groups = -(-dim // lanes)
    source = state.view(
        instruction.source * lanes, (rows, 2 * groups * lanes), (instruction.source_stride * lanes, 1)
    )
    x = join_halves(source, lanes)[..., :dim].astype(np.int64)
    entries = norm_parameters(program, state, instruction.param_base, dim)
    gamma, beta = (entries << 16) >> 48, (entries << 32) >> 32
    zero_mean = bool(instruction.zero_mean)
    out, wide = layer_norm(x, gamma, beta, instruction.epsilon, instruction.shift, zero_mean=zero_mean)
    target = state.view(
        instruction.target * lanes, (rows, groups * lanes), (instruction.target_stride * lanes, 1)
    )
    target[..., :dim], target[..., dim:] = out, 0
    if instruction.wide:
        copies = state.view(
            instruction.wide_target * lanes,
            (rows, 2, groups * lanes),
            (instruction.wide_stride * lanes, groups * lanes, 1),
        )
        copies[..., 0, :dim], copies[..., 1, :dim] = signed_digits(wide)
        copies[..., dim:] = 0


def route_tokens(instruction: Route, program: Program, state: State) -> None:
    """Choose experts for a tile of tokens and append the tokens to the experts' queues."""
    experts, rows = instruction.experts, instruction.rows
    if experts > state.config.experts or not 1 <= instruction.k <= experts:
        raise ValueError(
            f"{instruction.k} of {experts} experts; the machine has {state.config.experts} experts"
        )
    bias = norm_parameters(program, state, instruction.param_base, experts)
    if instruction.clear:
        state.queue_count[...] = 0
        state.routed.clear()
    score = combine(state.column_view(instruction.acc_base, 3 * experts, rows).astype(np.int64), bias)
    chosen, gates = route(
        score,
        instruction.score_shift,
        instruction.multiplier,
        instruction.shift,
        instruction.k,
        bool(instruction.renormalize),
    )
    for row in range(rows):
        state.routed[instruction.token + row] = chosen[:, row]
        for rank in range(instruction.k):
            _append(state, chosen[:, row, rank], instruction.token + row, gates[:, row, rank])
    if instruction.last:
        filled = state.queue_count > 0
        state.metaqueue[...] = np.argsort(~filled, axis=1, kind="stable")
        state.metaqueue_length[...] = filled.sum(axis=1)
        state.routing.append(np.stack([state.routed[token] for token in sorted(state.routed)], axis=1))


def _append(state: State, expert: Int64, token: int, gate: Int64) -> None:
    """Append a token to one expert's queue in each image."""
    images = np.arange(state.batch)
    place = state.queue_count[images, expert]
    if place.max() >= state.config.tokens:
        raise ValueError(f"an expert's queue holds {state.config.tokens} tokens and is full")
    state.queue_token[images, expert, place] = token
    state.queue_gate[images, expert, place] = gate
    state.queue_count[images, expert] += 1
