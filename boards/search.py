"""Which machines to try on a board, the largest first, for ``hwattn build --auto``."""

from __future__ import annotations

from dataclasses import dataclass

from hwattn.boards.board import Board
from hwattn.boards.flow import BuildResult
from hwattn.spec.config import AcceleratorConfig

LANES = (4, 8, 16, 32, 64)
ROWS_MAX = 64

MISSED_CLOCK_STEP = 0.75
"""After a machine that misses its clock, the next has at most this share of its multipliers."""

OVERFULL_STEP = 0.95
"""After a machine that does not fit, the next is scaled to the device, and a little further: not everything shrinks with the array."""


@dataclass(frozen=True)
class Shape:
    """What of the model bears on the machine's other units: its smallest inner dimension, and that of one head."""

    dim: int
    head_dim: int


def candidates(board: Board) -> list[tuple[int, int]]:
    """Return (rows, lanes) of every array that the device has multipliers for, the most multipliers first, then the squarest."""
    found = [
        (rows, lanes)
        for lanes in LANES
        for rows in range(1, ROWS_MAX + 1)
        if rows * lanes <= board.resources.dsp
    ]
    return sorted(found, key=lambda shape: (-shape[0] * shape[1], abs(shape[0] - shape[1])))


def machine(base: AcceleratorConfig, rows: int, lanes: int, shape: Shape) -> AcceleratorConfig:
    """Return the configuration of an array whose other units keep up with it (design rules of docs/architecture.md).

    Parameters
    ----------
    base : AcceleratorConfig
        For every field that the array does not decide.
    rows, lanes : int
    shape : Shape
        Of the model.
    """
    words, head_words = max(1, shape.dim // lanes), max(1, shape.head_dim // lanes)
    return base.replace(
        rows=rows,
        lanes=lanes,
        post_lanes=min(rows, -(-rows // words)),
        # scores arrive during the score pass and the pass over the values, which take about as long
        softmax_lanes=min(rows, -(-rows // (2 * head_words))),
        norm_lanes=max(1, lanes // 4),
    )


def next_limit(multipliers: int, result: BuildResult) -> int:
    """Return how many multipliers the next machine may have, after one with `multipliers` has failed with `result`."""
    shares = [entry.used / entry.available for entry in result.resources.values() if entry.available]
    fullest = max(shares, default=0.0)
    if result.attempts or fullest <= 1:
        limit = int(multipliers * MISSED_CLOCK_STEP)
    else:
        limit = int(multipliers / fullest * OVERFULL_STEP)
    return min(limit, multipliers - 1)
