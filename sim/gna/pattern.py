"""A Generalized Neighborhood Attention pattern: layout, window, stride, dilation, causality."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from hwattn.sim.gna import tiles
from hwattn.sim.gna.axis import Axis, IntArray, axis_locality, axis_mask, axis_pairs, axis_windows
from hwattn.sim.gna.speedup import Speedup, measure_speedup
from hwattn.spec.errors import RefusedError

MAX_MASK_TOKENS = 1 << 16
MAX_AXIS_TOKENS = 1 << 24


def _items(value: Any, rank: int) -> tuple[Any, ...]:
    """A scalar ``rank`` times, or the entries of a sequence or array."""
    if isinstance(value, (list, tuple)):
        return tuple(value)
    return (value,) * rank if np.ndim(value) == 0 else tuple(value)


def per_axis(value: Any, rank: int, name: str) -> tuple[int, ...]:
    """Integers for every axis: a scalar is broadcast, a sequence must have ``rank`` entries."""
    items = _items(value, rank)
    if len(items) == rank and all(type(item) is int for item in items):
        return items
    if len(items) != rank:
        raise RefusedError(
            f"{name} {tuple(items)} for a layout of {rank} axes",
            "one integer per axis, or one for all",
            f"give {rank} values for {name}",
        )
    try:
        if any(isinstance(item, (bool, np.bool_)) for item in items):
            raise TypeError
        return tuple(operator.index(item) for item in items)
    except TypeError:
        raise RefusedError(f"{name} {items!r}", "integers", f"give whole numbers for {name}") from None


def _per_axis_bool(value: Any, rank: int) -> tuple[bool, ...]:
    items = _items(value, rank)
    if len(items) != rank or not all(isinstance(item, (bool, np.bool_)) for item in items):
        raise RefusedError(
            f"causal {items!r} for a layout of {rank} axes",
            "one bool per axis, or one for all",
            "use True or False",
        )
    return tuple(bool(item) for item in items)


@dataclass(frozen=True, init=False)
class Pattern:
    """A valid pattern; scalars are broadcast to every axis.

    Parameters
    ----------
    layout : sequence of int
        Tokens per axis, 1 to 3 axes, last axis fastest.
    window : int or sequence of int
        Keys per axis that a query sees (NATTEN's ``kernel_size``); at least 2.
    stride : int or sequence of int
        Queries per axis that share a window; 1 is neighborhood attention, ``window`` is blocked.
    dilation : int or sequence of int
        Step between keys; ``window * dilation <= layout``.
    causal : bool or sequence of bool
        Hide keys after the query on an axis.

    Raises
    ------
    RefusedError
        For exactly what NATTEN refuses.
    """

    layout: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    causal: tuple[bool, ...]

    def __init__(
        self,
        layout: int | Sequence[int],
        window: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        causal: bool | Sequence[bool] = False,
    ) -> None:
        shape = _items(layout, 1)
        if not 1 <= len(shape) <= 3:
            raise RefusedError(
                f"a layout of {len(shape)} axes", "1, 2 or 3 axes", "flatten or split the layout"
            )
        rank = len(shape)
        object.__setattr__(self, "layout", per_axis(shape, rank, "layout"))
        for name, value in (("window", window), ("stride", stride), ("dilation", dilation)):
            object.__setattr__(self, name, per_axis(value, rank, name))
        object.__setattr__(self, "causal", _per_axis_bool(causal, rank))
        for index in range(rank):
            self._check_axis(index)

    def _check_axis(self, index: int) -> None:
        length, window = self.layout[index], self.window[index]
        stride, dilation = self.stride[index], self.dilation[index]
        where = f"axis {index}"
        if length > MAX_AXIS_TOKENS:
            raise RefusedError(
                f"{where}: length {length}", f"at most {MAX_AXIS_TOKENS} tokens", "shorten the axis"
            )
        if length < 2:
            raise RefusedError(
                f"{where}: length {length}", "at least 2 tokens", "drop the axis from the layout"
            )
        if window < 2:
            raise RefusedError(f"{where}: window {window}", "a window of at least 2", "widen the window")
        if dilation < 1:
            raise RefusedError(f"{where}: dilation {dilation}", "a dilation of at least 1", "use dilation 1")
        if stride < 1:
            raise RefusedError(f"{where}: stride {stride}", "a stride of at least 1", "use stride 1")
        if window * dilation > length:
            raise RefusedError(
                f"{where}: window {window} with dilation {dilation} spans {window * dilation} tokens of {length}",
                "window * dilation within the layout",
                f"use a window of at most {length // dilation} or a smaller dilation",
            )
        if stride > window:
            raise RefusedError(
                f"{where}: stride {stride} with window {window}",
                "a stride no greater than the window",
                f"use a stride of at most {window}",
            )

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.layout)

    @property
    def tokens(self) -> int:
        """Tokens of the layout, N."""
        return prod(self.layout)

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """The pattern axis by axis."""
        columns = zip(self.layout, self.window, self.stride, self.dilation, self.causal, strict=True)
        return tuple(Axis(*column) for column in columns)

    @property
    def is_dense(self) -> bool:
        """Whether the pattern is full self-attention (NATTEN's fast path).

        True when every window spans its axis without causality; a 1-D causal pattern whose window
        is the whole sequence takes the fast path too, but is causal attention, not dense.
        """
        return all(axis.is_dense for axis in self.axes)

    @property
    def takes_fast_path(self) -> bool:
        """Whether NATTEN hands the pattern to an ordinary (causal) attention kernel."""
        return self.is_dense or (self.rank == 1 and self.window == self.layout)

    @property
    def sparsity(self) -> float:
        """1 - (window volume) / N, as the paper defines it (causality not counted)."""
        return 1.0 - prod(self.window) / self.tokens

    @cached_property
    def unmasked_pairs(self) -> int:
        """Visible (query, key) pairs of the whole mask, counted in closed form."""
        return prod(axis_pairs(axis) for axis in self.axes)

    @cached_property
    def locality(self) -> float:
        """Share of the stride-1 neighborhood that the stride keeps, mean over queries (0..1]."""
        return float(np.prod([axis_locality(axis) for axis in self.axes]))

    def windows(self, axis: int) -> IntArray:
        """Keys of every query along one axis.

        Returns
        -------
        numpy.ndarray of int64, shape (layout[axis], 3)
            Start, stop (exclusive) and step: ``range(*windows[i])`` lists the keys of query ``i``.
        """
        try:
            return axis_windows(self.axes[operator.index(axis)])
        except (IndexError, TypeError):
            raise RefusedError(
                f"axis {axis!r} of a layout of {self.rank} axes",
                f"0 to {self.rank - 1}",
                "name an axis of the layout",
            ) from None

    def mask(self, additional_kv: int = 0) -> npt.NDArray[np.bool_]:
        """The exact mask, bool (N, N + additional_kv); row: query, column: key, both row-major.

        Extra context tokens, which every query sees, are the last columns.
        """
        if self.tokens > MAX_MASK_TOKENS:
            raise RefusedError(
                f"a mask of {self.tokens} x {self.tokens} tokens",
                f"at most {MAX_MASK_TOKENS} tokens for a mask held in memory",
                "use windows(), visited_kv_tiles() or speedup(), which need no mask",
            )
        mask = axis_mask(self.axes[0])
        for axis in self.axes[1:]:
            other = axis_mask(axis)
            size = mask.shape[0] * other.shape[0]
            mask = (mask[:, None, :, None] & other[None, :, None, :]).reshape(size, size)
        if tiles.check_additional(additional_kv):
            mask = np.concatenate([mask, np.ones((self.tokens, additional_kv), dtype=np.bool_)], axis=1)
        return mask

    def visited_kv_tiles(
        self, q_tile: Any, kv_tile: Any, tiling: str = "static", additional_kv: int = 0
    ) -> IntArray:
        """KV tiles visited by each Q tile.

        Parameters
        ----------
        q_tile, kv_tile : int or sequence of int
            Tile shapes; for ``tiling="flat"`` the product is the number of consecutive tokens.
        tiling : {"static", "dynamic", "flat"}
            Multi-dimensional with KV tiles on a grid, multi-dimensional with KV tiles starting at the
            first key needed, or single-dimensional over the flattened layout.
        additional_kv : int
            Extra context tokens, visited by every Q tile in tiles of their own.

        Returns
        -------
        numpy.ndarray of int64, shape (Q tiles,)
            Row-major over Q tiles, dilation groups outermost (flat: no groups).
        """
        q_shape, kv_shape = self.tile_shapes(q_tile, kv_tile, tiling)
        if tiling == "flat":
            touched = tiles.flat_visit_matrix(self.axes, prod(q_shape), prod(kv_shape))
            counts: IntArray = touched.sum(axis=1, dtype=np.int64)
        else:
            counts = tiles.group_products(self.axes, self.axis_counts(q_shape, kv_shape, tiling))
        counts = counts + -(-tiles.check_additional(additional_kv) // prod(kv_shape))
        return counts

    def visited_q_tiles(self, q_tile: Any, kv_tile: Any, tiling: str = "static") -> IntArray:
        """Q tiles met by each KV tile, as the backward pass walks them; int64 (KV tiles,)."""
        q_shape, kv_shape = self.tile_shapes(q_tile, kv_tile, tiling)
        if tiling == "flat":
            touched = tiles.flat_visit_matrix(self.axes, prod(q_shape), prod(kv_shape))
            counts: IntArray = touched.sum(axis=0, dtype=np.int64)
            return counts
        return tiles.group_products(self.axes, self.axis_counts(q_shape, kv_shape, tiling, backward=True))

    def axis_counts(
        self,
        q_tile: tuple[int, ...],
        kv_tile: tuple[int, ...],
        tiling: str = "static",
        backward: bool = False,
    ) -> list[list[IntArray]]:
        """Visits per axis and dilation group, whose products are the visits of the tiles."""
        count = tiles.axis_visits_backward if backward else tiles.axis_visits
        return [
            [count(axis, n, tq, tkv, tiling) for n in axis.group_lengths().tolist()]
            for axis, tq, tkv in zip(self.axes, q_tile, kv_tile, strict=True)
        ]

    def tile_shapes(self, q_tile: Any, kv_tile: Any, tiling: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Q and KV tile shapes as tuples, checked."""
        if tiling not in tiles.TILINGS:
            raise RefusedError(f"tiling {tiling!r}", "one of " + ", ".join(tiles.TILINGS), "choose a tiling")
        shapes = []
        for name, value in (("q_tile", q_tile), ("kv_tile", kv_tile)):
            rank = 1 if tiling == "flat" and np.ndim(value) == 0 else self.rank
            shape = tuple(value) if tiling == "flat" and np.ndim(value) else per_axis(value, rank, name)
            if any(extent < 1 for extent in shape):
                raise RefusedError(f"{name} {shape}", "extents of at least 1", f"correct {name}")
            shapes.append(shape)
        return shapes[0], shapes[1]

    def speedup(
        self,
        q_tile: Any,
        kv_tile: Any,
        tiling: str = "static",
        additional_kv: int = 0,
        backward: bool = False,
    ) -> Speedup:
        """Speedups over dense self-attention that the tiling allows; see :class:`Speedup`."""
        return measure_speedup(self, q_tile, kv_tile, tiling, additional_kv, backward)
