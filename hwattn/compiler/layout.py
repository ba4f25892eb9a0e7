"""How tensors lie in memory: words of `lanes` bytes, features in groups padded to whole words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def ceil_div(value: int, divisor: int) -> int:
    """Quotient, rounded up."""
    return -(-value // divisor)


@dataclass(frozen=True)
class RowLayout:
    """One int8 vector.

    Parameters
    ----------
    features : int
        Elements of the vector.
    group : int
        Elements after which padding to a whole word follows: the head dimension for operands of attention, else `features`.
    lanes : int
        Bytes of a word.
    """

    features: int
    group: int
    lanes: int

    @property
    def group_words(self) -> int:
        """Words of one group."""
        return ceil_div(self.group, self.lanes)

    @property
    def words(self) -> int:
        """Words of the vector."""
        return self.features // self.group * self.group_words

    @property
    def plain(self) -> bool:
        """Whether no padding lies between features."""
        return self.group == self.features or self.group % self.lanes == 0

    def word(self, feature: int) -> int:
        """Word in which the first feature of a piece lies; the feature starts a word."""
        group, offset = divmod(feature, self.group)
        return group * self.group_words + offset // self.lanes

    def pack(self, matrix: NDArray[np.int8]) -> NDArray[np.int8]:
        """Lay out vectors (rows, features) as words (rows, words, lanes)."""
        rows = matrix.shape[0]
        groups = matrix.reshape(rows, -1, self.group)
        padded = np.zeros((rows, groups.shape[1], self.group_words * self.lanes), np.int8)
        padded[:, :, : self.group] = groups
        return padded.reshape(rows, self.words, self.lanes)


def int16_words(features: int, lanes: int) -> int:
    """Words of one int16 vector: for each group of `lanes` elements the low bytes, then the high bytes."""
    return 2 * ceil_div(features, lanes)


def pack_int16(matrix: NDArray[np.int16], lanes: int) -> NDArray[np.int8]:
    """Lay out int16 vectors (rows, features) as words (rows * words, lanes)."""
    rows, features = matrix.shape
    padded = np.zeros((rows, ceil_div(features, lanes) * lanes), np.int64)
    padded[:, :features] = matrix
    groups = padded.reshape(rows, -1, 1, lanes)
    halves = np.concatenate((groups & 255, (groups >> 8) & 255), axis=2)
    return halves.astype(np.uint8).view(np.int8).reshape(-1, lanes)


def split_evenly(total: int, largest: int, unit: int) -> list[tuple[int, int]]:
    """Cut ``range(total)`` into as few pieces of at most `largest` as possible, of even size.

    Parameters
    ----------
    total, largest : int
        `largest` is at least `unit`.
    unit : int
        Every piece but the last is a multiple of it.

    Returns
    -------
    list of (start, length)
    """
    pieces = ceil_div(total, largest // unit * unit)
    size = ceil_div(ceil_div(total, pieces), unit) * unit
    return [(start, min(size, total - start)) for start in range(0, total, size)]
