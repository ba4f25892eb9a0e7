"""Predication: the images for which an instruction runs, and the expert and rows it has there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwattn.sim.model.state import State
from hwattn.spec.isa import Predicated
from hwattn.spec.numbers import Int64


@dataclass(frozen=True)
class Active:
    """The images in which an instruction with `expert_enable` runs.

    Parameters
    ----------
    images : ndarray of int64, shape (n,)
        Indexes into the batch, ascending.
    expert : ndarray of int64, shape (n,)
        The expert of each.
    left : ndarray of int64, shape (n,)
        Tokens of the expert's queue from entry `first` on, at least 1.
    """

    images: Int64
    expert: Int64
    left: Int64

    def rows(self, rows: int) -> tuple[Int64, Int64]:
        """Return the pairs (position in `images`, row) that exist when `rows` is lowered to what is left."""
        position, row = np.nonzero(np.arange(rows) < self.left[:, None])
        return position, row

    def entries(self, queue: Int64, first: int, rows: int) -> Int64:
        """Return entries first to first+rows-1 of the experts' queues (n, rows); those that do not exist repeat others."""
        index = np.minimum(first + np.arange(rows), queue.shape[2] - 1)
        entries: Int64 = queue[self.images[:, None], self.expert[:, None], index]
        return entries


def active(state: State, instruction: Predicated) -> Active | None:
    """Return where an instruction with `expert_enable` runs; None if it is skipped in every image."""
    if instruction.meta >= state.config.experts:
        return None
    expert = state.metaqueue[:, instruction.meta]
    left = state.queue_count[np.arange(state.batch), expert] - instruction.first
    images = np.flatnonzero((instruction.meta < state.metaqueue_length) & (left > 0))
    return Active(images, expert[images], left[images]) if len(images) else None
