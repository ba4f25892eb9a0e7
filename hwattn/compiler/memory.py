"""Memories: contents of the read-only ones, shared by all tasks, and the map of the activation memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwattn.compiler.layout import ceil_div
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.entries import ENTRY_BYTES, pack_entries
from hwattn.spec.errors import RefusedError
from hwattn.spec.isa import Memory

POWERS_OF_TWO = ("act_banks", "act_words", "acc_columns")
"""Fields of AcceleratorConfig that only take powers of two."""


class ReadOnlyMemory:
    """Contents of a read-only memory; what is added twice is held once.

    Parameters
    ----------
    field : str
        Field of AcceleratorConfig that holds its size.
    width : tuple of int
        Shape of one entry.
    dtype : type
        Of the entries.
    """

    def __init__(self, field: str, width: tuple[int, ...], dtype: type) -> None:
        self.field = field
        self._blocks: list[NDArray[Any]] = []
        self._width, self._dtype = width, dtype
        self._places: dict[bytes, int] = {}
        self.size = 0

    def add(self, entries: NDArray[Any]) -> int:
        """Add a block of entries, and return the address of the first."""
        block: NDArray[Any] = np.ascontiguousarray(entries, self._dtype).reshape(-1, *self._width)
        key = block.tobytes()
        if key not in self._places:
            self._places[key] = self.size
            self._blocks.append(block)
            self.size += len(block)
        return self._places[key]

    def contents(self, config: AcceleratorConfig) -> NDArray[Any]:
        """Return all entries.

        Raises
        ------
        RefusedError
            If they are more than the memory holds.
        """
        require(config, self.field, self.size, f"the model needs {self.size} entries")
        if not self._blocks:
            return np.zeros((0, *self._width), self._dtype)
        return np.concatenate(self._blocks)


def page_words(memory: Memory, entries: NDArray[np.int64], lanes: int) -> NDArray[np.int8]:
    """Lay out entries as words of external memory (words, lanes), padded with zeros to whole words and whole entries."""
    data = pack_entries(memory, entries).view(np.int8).reshape(-1)
    padded = np.zeros(ceil_div(len(data), max(lanes, ENTRY_BYTES)) * max(lanes, ENTRY_BYTES), np.int8)
    padded[: len(data)] = data
    return padded.reshape(-1, lanes)


def require(config: AcceleratorConfig, field: str, needed: int, reason: str) -> None:
    """Refuse unless a field of the configuration is at least `needed`.

    Raises
    ------
    RefusedError
        Names the field and the value that it needs.
    """
    available = getattr(config, field)
    if needed > available:
        if field in POWERS_OF_TWO:
            needed = 1 << (needed - 1).bit_length()
        raise RefusedError(
            f"{field}={available}, too small by {needed - available}: {reason}",
            f"{field} of {needed} or more",
            f"raise it with --set {field}={needed}",
        )


@dataclass
class Buffer:
    """A piece of the activation memory.

    Parameters
    ----------
    name : str
    words : int
    first, last : int
        Steps of the schedule between which it holds something that is still needed.
    apart : frozenset of str
        Buffers that are read at the same time; other banks are preferred.
    """

    name: str
    words: int
    first: int
    last: int
    apart: frozenset[str] = frozenset()
    base: int = -1


def place_buffers(buffers: list[Buffer], config: AcceleratorConfig) -> None:
    """Give every buffer its base address: those in use at the same time do not overlap.

    What is there before the first step (the image) lies at 0, so that all tasks find it in the same place.

    Buffers are placed in order of first use, longest-lived first, each where it shares banks with the fewest others that are read at
    the same time, then with the fewest others, then as low as possible.

    Raises
    ------
    RefusedError
        If the activation memory is too small; names the value of `act_words` that serves.
    """
    if try_place_buffers(buffers, config):
        return
    act_words = config.act_words
    while not try_place_buffers(buffers, config.replace(act_words=act_words)):
        act_words *= 2
    require(
        config,
        "act_words",
        act_words,
        f"the activations that live at the same time do not fit {config.act_banks} banks",
    )


def try_place_buffers(buffers: list[Buffer], config: AcceleratorConfig) -> bool:
    """Give every buffer its base address as `place_buffers` does; return whether they fit."""
    order = sorted(buffers, key=lambda buffer: (buffer.first, -buffer.last, -buffer.words))
    return _place_any(order, config.act_words, config.act_banks)


def pack_buffers(buffers: list[Buffer], start: int) -> int:
    """Give every buffer a base address from `start` on, as low as possible; return the words that they take in all."""
    order = sorted(buffers, key=lambda buffer: (buffer.first, -buffer.last, -buffer.words))
    _place(order, sum(buffer.words for buffer in buffers), 1, spread=False)
    for buffer in order:
        buffer.base += start
    return max((buffer.base + buffer.words for buffer in order), default=start) - start


def _place_any(order: list[Buffer], bank_words: int, banks: int) -> bool:
    """Place all buffers, spread over the banks if that fits, else packed; False if neither does."""
    largest_first = sorted(order, key=lambda buffer: (buffer.first >= 0, -buffer.words, buffer.first))
    return (
        _place(order, bank_words, banks, spread=True)
        or _place(order, bank_words, banks, spread=False)
        or _place(largest_first, bank_words, banks, spread=False)
    )


def _place(order: list[Buffer], bank_words: int, banks: int, spread: bool) -> bool:
    placed: list[Buffer] = []
    for buffer in order:
        alive = [other for other in placed if other.first <= buffer.last and buffer.first <= other.last]
        starts = {0} | {other.base + other.words for other in alive}
        if spread:
            starts |= {bank * bank_words for bank in range(banks)}
        free = [
            start
            for start in sorted(starts)
            if start + buffer.words <= banks * bank_words
            and all(
                start + buffer.words <= other.base or other.base + other.words <= start for other in alive
            )
        ]
        if not free:
            return False
        costs = {start: _sharing(buffer, start, alive, bank_words) if spread else (0, 0) for start in free}
        buffer.base = min(free, key=lambda start: costs[start])
        placed.append(buffer)
    return True


def _sharing(buffer: Buffer, start: int, alive: list[Buffer], bank_words: int) -> tuple[int, int]:
    """Buffers read at the same time, and all live ones, that would share a bank with a buffer at `start`."""
    banks = set(_banks(start, buffer.words, bank_words))
    sharing = [other for other in alive if banks & set(_banks(other.base, other.words, bank_words))]
    rivals = sum(other.name in buffer.apart or buffer.name in other.apart for other in sharing)
    return rivals, len(sharing)


def _banks(base: int, words: int, bank_words: int) -> range:
    return range(base // bank_words, ceil_div(base + words, bank_words))
