"""State of the machine for a batch of images: memories, resident rows, accumulators, softmax state and queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import SOFTMAX_STATES, Memory
from hwattn.spec.numbers import Int64


class State:
    """Everything that instructions read and write, for `batch` images at once; all zero at first.

    Parameters
    ----------
    config : AcceleratorConfig
    batch : int
        Images side by side.
    scratch_words : int
        External words that the program writes.

    Attributes
    ----------
    memory : ndarray of uint8, shape (batch, act_total_words * lanes)
        Activation memory by bytes.
    slots : ndarray of uint8, shape (batch, row_slots, rows, row_words * lanes)
        Resident rows.
    accumulators : ndarray of int32, shape (batch, rows, acc_banks * acc_columns)
    buffer_source : ndarray of int64, shape (batch, weight_words)
        With external memory: the external word of the weights that lies in each word of the weight buffer, -1 where it holds
        a copy of what the program itself has written.
    buffer : ndarray of uint8, shape (batch, weight_words, lanes)
        Those copies.
    scratch : ndarray of uint8, shape (batch, scratch_words, lanes)
        External words that the program writes.
    entries : dict of Memory to ndarray of int64, shape (batch, param_words, 3) or (batch, norm_words)
        The parameter and the norm memory, once something has been fetched into it; before that they hold the program's own entries.
    maximum, total, growth : ndarray of int64, shape (batch, SOFTMAX_STATES, rows)
        Softmax state.
    queue_token, queue_gate : ndarray of int64, shape (batch, experts, tokens)
        Queues of the experts.
    queue_count : ndarray of int64, shape (batch, experts)
    metaqueue : ndarray of int64, shape (batch, experts)
        Experts that are not empty, in ascending order; only the first `metaqueue_length` count.
    metaqueue_length : ndarray of int64, shape (batch,)
    routing : list of ndarray of int64, shape (batch, tokens, k)
        For each finished routing, the chosen experts of every token in order of rank.
    """

    def __init__(self, config: AcceleratorConfig, batch: int, scratch_words: int = 0) -> None:
        self.config = config
        self.batch = batch
        self.memory: NDArray[np.uint8] = np.zeros((batch, config.act_total_words * config.lanes), np.uint8)
        self.slots: NDArray[np.uint8] = np.zeros(
            (batch, config.row_slots, config.rows, config.row_words * config.lanes), np.uint8
        )
        self.accumulators: NDArray[np.int32] = np.zeros(
            (batch, config.rows, config.acc_banks * config.acc_columns), np.int32
        )
        buffered = config.weight_words if config.external_words else 0
        self.buffer_source: Int64 = np.full((batch, buffered), -1, np.int64)
        copied = buffered if scratch_words else 0
        self.buffer: NDArray[np.uint8] = np.zeros((batch, copied, config.lanes), np.uint8)
        self.scratch: NDArray[np.uint8] = np.zeros((batch, scratch_words, config.lanes), np.uint8)
        self.entries: dict[Memory, Int64] = {}
        self.maximum: Int64 = np.zeros((batch, SOFTMAX_STATES, config.rows), np.int64)
        self.total = np.zeros_like(self.maximum)
        self.growth = np.zeros_like(self.maximum)
        self.queue_token: Int64 = np.zeros((batch, config.experts, config.tokens), np.int64)
        self.queue_gate = np.zeros_like(self.queue_token)
        self.queue_count: Int64 = np.zeros((batch, config.experts), np.int64)
        self.metaqueue = np.zeros_like(self.queue_count)
        self.metaqueue_length: Int64 = np.zeros(batch, np.int64)
        self.routing: list[Int64] = []
        self.routed: dict[int, Int64] = {}
        """Choices of the routing under way, by token."""

    @property
    def words(self) -> NDArray[np.uint8]:
        """Activation memory by words: a view of shape (batch, act_total_words, lanes)."""
        return self.memory.reshape(self.batch, -1, self.config.lanes)

    def view(self, base: int, shape: Sequence[int], strides: Sequence[int]) -> NDArray[np.uint8]:
        """Return bytes of every image's activation memory as a view of shape (batch, *shape).

        Parameters
        ----------
        base : int
            Byte address of the first element.
        shape, strides : sequence of int
            Counts, and bytes from one element to the next.

        Raises
        ------
        ValueError
            The view leaves the memory.
        """
        return strided_view(self.memory, base, shape, strides)

    def column_view(self, first: int, columns: int, rows: int | None = None) -> NDArray[np.int32]:
        """Return accumulator columns of the first `rows` rows (all by default): a view (batch, rows, columns).

        Raises
        ------
        ValueError
            There are no such columns or rows.
        """
        rows = self.config.rows if rows is None else rows
        if first + columns > self.accumulators.shape[2] or rows > self.config.rows:
            raise ValueError(
                f"accumulator columns {first} to {first + columns - 1} of {rows} rows; the machine has "
                f"{self.accumulators.shape[2]} columns of {self.config.rows} rows"
            )
        return self.accumulators[:, :rows, first : first + columns]


def strided_view(
    memory: NDArray[Any], base: int, shape: Sequence[int], strides: Sequence[int]
) -> NDArray[np.uint8]:
    """Return bytes of `memory` (batch, bytes) as a view of shape (batch, *shape) from byte `base`; see :meth:`State.view`."""
    last = base + sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True))
    if last >= memory.shape[1]:
        raise ValueError(f"reaches byte {last} of a memory of {memory.shape[1]} bytes")
    return np.ndarray((len(memory), *shape), np.uint8, memory.data, base, (memory.strides[0], *strides))


def join_halves(words: NDArray[np.uint8], lanes: int) -> NDArray[np.int16]:
    """Return the int16 vectors (..., elements) of bytes (..., 2 * elements): words of low and of high bytes in turn."""
    halves = words.reshape(*words.shape[:-1], -1, 2, lanes)
    elements: NDArray[np.int16] = np.ascontiguousarray(np.swapaxes(halves, -1, -2)).view("<i2")
    return elements.reshape(*words.shape[:-1], -1)


def split_halves(elements: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Return int16 vectors (..., groups, lanes) as bytes (..., groups, 2, lanes), low bytes first."""
    pairs = elements.view(np.uint8).reshape(*elements.shape, 2)
    return np.swapaxes(pairs, -1, -2)
