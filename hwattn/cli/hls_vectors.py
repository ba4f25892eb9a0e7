"""Golden vectors of an HLS project, from the NumPy model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwattn.hls.project import AttentionCase, AttentionKernel
from hwattn.sim.model.executor import Executor
from hwattn.sim.model.matrix import low_pass, matrix_product, rescale
from hwattn.sim.model.post import reciprocal, stage1
from hwattn.sim.model.softmax import bytes8, high_low, softmax_block
from hwattn.spec.numbers import Int64, saturate
from hwattn.spec.program import Program

SEED = 7


def output_vectors(program: Program, images: NDArray[np.float32]) -> dict[str, NDArray[np.int16]]:
    """Return every output's integers (batch, rows, columns), of all tasks."""
    executor = Executor(program)
    golden: dict[str, NDArray[np.int16]] = {}
    for task in range(len(program.entries)):
        golden |= executor.run(images, task).integers
    return golden


def attention_result(
    q: NDArray[np.int8],
    k: NDArray[np.int8],
    v: NDArray[np.int8],
    scaling: NDArray[np.int64],
    key_block: int,
    p16: bool,
) -> NDArray[np.int8]:
    """Compute attention as the machine does, block of keys by block of keys.

    Parameters
    ----------
    q : ndarray of int8, shape (queries, heads, head_dim)
    k, v : ndarray of int8, shape (keys, heads, head_dim)
    scaling : ndarray of int64, shape (heads, 4)
    key_block : int
    p16 : bool

    Returns
    -------
    ndarray of int8, shape (queries, heads, head_dim)
    """
    result = np.empty(q.shape, np.int8)
    for head, constants in enumerate(scaling.tolist()):
        score_multiplier, score_shift, multiplier, shift = constants
        maximum: Int64 = np.zeros(len(q), np.int64)
        total = np.zeros(len(q), np.int64)
        accumulator = np.zeros((len(q), v.shape[2]), np.int64)
        for first in range(0, len(k), key_block):
            keys, values = k[first : first + key_block, head], v[first : first + key_block, head]
            scores = matrix_product(q[:, head], keys)
            visible = np.ones(scores.shape, np.bool_)
            block = softmax_block(scores, score_multiplier, score_shift, maximum, total, first == 0, visible)
            maximum, total = block.maximum, block.total
            operands = high_low(block.p16) if p16 else (bytes8(block.p16),)
            older = rescale(accumulator, block.growth) if first else accumulator
            columns = np.ascontiguousarray(values.T)
            accumulator = older + matrix_product(operands[0], columns)
            for low_bytes in operands[1:]:
                accumulator += low_pass(matrix_product(low_bytes, columns))
        row_multiplier, row_shift = reciprocal(total, multiplier, shift)
        scaled = stage1(accumulator, 0, row_multiplier[:, None], row_shift[:, None])
        result[:, head] = saturate(scaled, 8).astype(np.int8)
    return result


def attention_cases(kernel: AttentionKernel, rows: int) -> list[AttentionCase]:
    """Return random cases: whole and ragged tiles and blocks, one query, one key, other queries than keys, saturating operands."""
    random = np.random.default_rng(SEED)
    block = kernel.key_block
    shapes = [(block, block), (1, 1), (rows + 1, block), (2 * rows - 1, 2 * block + 1), (3, 3 * block)]
    cases = []
    for index, (queries, keys) in enumerate(2 * shapes):
        heads, p16, span = 1 + index % 3, index % 2 == 1, 128 if index >= len(shapes) else 40
        shape = (heads, kernel.head_dim)
        q, k, v = (
            random.integers(-span, span, (count, *shape)).astype(np.int8) for count in (queries, keys, keys)
        )
        scaling = np.tile(np.array(kernel.scaling, np.int64), (heads, 1))
        result = attention_result(q, k, v, scaling, block, p16)
        cases.append(AttentionCase(q, k, v, result, scaling, p16))
    return cases
