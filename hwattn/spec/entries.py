"""Entries of the parameter and norm memories as a host writes them: two 32-bit units each (`registers.UNITS`), in external memory one after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwattn.spec.isa import Memory
from hwattn.spec.numbers import Int64
from hwattn.spec.registers import UNITS, Region

UNIT_BYTES = 4

ENTRY_BYTES = UNIT_BYTES * UNITS[Region.PARAM]
"""Bytes of an entry; those of both memories are of one size."""

ENTRY_REGIONS = {Memory.PARAM: Region.PARAM, Memory.NORM: Region.NORM}
"""Memories of entries that a Fetch can fill, and what a host calls them."""

_MULTIPLIER_BITS = 16


def pack_entries(memory: Memory, entries: Int64) -> NDArray[np.uint32]:
    """Return entries as units, shape (entries, 2).

    Parameters
    ----------
    memory : Memory
        PARAM: entries of shape (entries, 3), bias, multiplier and shift. NORM: shape (entries,), 48 bits each.
    entries : ndarray of int64
    """
    values = np.asarray(entries, np.int64)
    if memory == Memory.PARAM:
        halves = values[:, 0], values[:, 1] | values[:, 2] << _MULTIPLIER_BITS
    else:
        halves = values, values >> 32
    return (np.stack(halves, axis=1) & 0xFFFFFFFF).astype(np.uint32)


def unpack_entries(memory: Memory, units: NDArray[np.uint32]) -> Int64:
    """Return the entries of units (..., 2): the inverse of `pack_entries`."""
    low, high = units[..., 0].astype(np.int64), units[..., 1].astype(np.int64)
    if memory == Memory.PARAM:
        bias = (low ^ 1 << 31) - (1 << 31)
        return np.stack((bias, high & (1 << _MULTIPLIER_BITS) - 1, high >> _MULTIPLIER_BITS & 63), axis=-1)
    return low | (high << 48) >> 16
