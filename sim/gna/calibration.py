"""Tile times from published kernel times: dense attention and 1-D neighborhood attention, nothing else.

The model of a kernel's time, in microseconds::

    time = launch + busiest SM's sum over its Q tiles of (visits + FILL_TILES) * (tile(time) + mask)

``launch`` and the tile time of short kernels solve the 1-D rows (block-sparse and dense) exactly.
``tile(time)`` then grows with the logarithm of the kernel's own duration, a least-squares line through
the dense rows: long kernels run into the power limit and lose clock, and both GPUs lose about 0.08 us
per e-fold. ``mask`` is what the masked 1-D row adds to every tile. See ``docs/gna.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import log, prod
from typing import Any

import numpy as np

from hwattn.sim.gna.data import load
from hwattn.sim.gna.pattern import Pattern
from hwattn.sim.gna.schedule import makespan

FILL_TILES = 1
"""KV tiles of time that a Q tile spends filling and draining its software pipeline."""

REFERENCE_HEAD_DIM = 128

_KERNELS: dict[str, tuple[tuple[int, int], int, str]] = {
    "B200": ((256, 128), 148, "persistent"),
    "H100": ((128, 128), 132, "greedy"),
}


@dataclass(frozen=True)
class TileTime:
    """Time of one (Q tile, KV tile) at ``head_dim`` 128 in fp16.

    Attributes
    ----------
    q_rows, kv_rows : int
        Tile size that the times hold for.
    launch_us : float
        Fixed time of a kernel.
    base_us, slope_us : float
        ``tile(t) = base + slope * ln(t in ms)``, held within ``fastest_us`` and ``slowest_us``.
    fastest_us, slowest_us : float
        The extremes of the dense rows: the range that the calibration leaves open.
    mask_us : float
        Added to every tile when the kernel masks.
    mask_low_us, mask_high_us : float
        The same from the other readings of the 1-D rows (see :func:`calibrate`).
    """

    q_rows: int
    kv_rows: int
    launch_us: float
    base_us: float
    slope_us: float
    fastest_us: float
    slowest_us: float
    mask_us: float
    mask_low_us: float
    mask_high_us: float

    def tile_us(self, duration_ms: float) -> float:
        """Time of one unmasked tile in a kernel of this duration."""
        value = self.base_us + self.slope_us * log(max(duration_ms, 1e-6))
        return min(max(value, self.fastest_us), self.slowest_us)


def _busy_tiles(row: dict[str, Any], name: str) -> int:
    """Tiles, with pipeline fill, of the busiest SM in a calibration row."""
    (q_rows, kv_rows), sms, scheduler = _KERNELS[name]
    if row["backend"] == "cudnn":
        tokens = prod(row["problem_size"])
        visits = np.full(-(-tokens // q_rows), -(-tokens // kv_rows), dtype=np.int64)
    else:
        pattern = Pattern(row["problem_size"], row["window"], row["stride"])
        visits = pattern.visited_kv_tiles(row["q_tile"], row["kv_tile"])
    return makespan(visits + FILL_TILES, sms, scheduler, row["heads"])


@lru_cache(maxsize=8)
def calibrate(name: str) -> TileTime:
    """Fit the model to the rows of one GPU of ``calibration.json``.

    Parameters
    ----------
    name : {"B200", "H100"}

    Notes
    -----
    Two unknowns (launch, short tile time) from the mean of the two block-sparse 1-D rows and the dense
    1-D row. The low mask cost is measured against the slower block-sparse row, the high one scales
    with the tile (as if the mask cost a factor, not a time) up to the slowest dense tile.
    """
    rows = [row for row in load("calibration.json")["measurements"] if row["gpu"] == name]
    dense = sorted((row for row in rows if row["backend"] == "cudnn"), key=lambda row: float(row["total_ms"]))
    windowed = [row for row in rows if row["backend"] != "cudnn"]
    masked = next(row for row in windowed if row["stride"] == [1])
    sparse = [row for row in windowed if row is not masked]
    sparse_us = float(np.mean([row["total_ms"] for row in sparse])) * 1e3
    sparse_busy = float(np.mean([_busy_tiles(row, name) for row in sparse]))
    short_us = (dense[0]["total_ms"] * 1e3 - sparse_us) / (_busy_tiles(dense[0], name) - sparse_busy)
    launch_us = sparse_us - sparse_busy * short_us
    tiles_us = np.array([(row["total_ms"] * 1e3 - launch_us) / _busy_tiles(row, name) for row in dense])
    slope, base = np.polyfit(np.log([row["total_ms"] for row in dense]), tiles_us, 1)
    masked_us, masked_busy = masked["total_ms"] * 1e3, _busy_tiles(masked, name)
    mask_us = (masked_us - launch_us) / masked_busy - short_us
    spread_us = max(row["total_ms"] for row in sparse) * 1e3 - sparse_us
    slowest_us = float(tiles_us.max())
    (q_rows, kv_rows), _, _ = _KERNELS[name]
    return TileTime(
        q_rows=q_rows,
        kv_rows=kv_rows,
        launch_us=launch_us,
        base_us=float(base),
        slope_us=float(slope),
        fastest_us=float(tiles_us.min()),
        slowest_us=slowest_us,
        mask_us=mask_us,
        mask_low_us=mask_us - spread_us / masked_busy,
        mask_high_us=mask_us * slowest_us / short_us,
    )
