"""Which keys a query sees, and why: the rule spelled out for one query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from hwattn.sim.gna.axis import Axis, window_ends, window_starts
from hwattn.sim.gna.pattern import Pattern, per_axis
from hwattn.spec.errors import RefusedError


@dataclass(frozen=True)
class AxisExplanation:
    """The rule along one axis.

    Attributes
    ----------
    query : int
        Coordinate of the query.
    dilation_group, position, group_length : int
        Its dilation group, its place in the group, and how many tokens the group has.
    stride_group : tuple of int
        First and last position that share the window.
    leader : int
        Position of the query whose window all of them use.
    start, stop, step : int
        The keys: ``range(start, stop, step)``, in coordinates of the axis.
    reason : str
        A sentence.
    """

    query: int
    dilation_group: int
    position: int
    group_length: int
    stride_group: tuple[int, int]
    leader: int
    start: int
    stop: int
    step: int
    reason: str

    @property
    def keys(self) -> range:
        """Coordinates of the visible keys."""
        return range(self.start, self.stop, self.step)


@dataclass(frozen=True)
class Explanation:
    """What one query sees.

    Attributes
    ----------
    query : tuple of int
    axes : tuple of AxisExplanation
    """

    query: tuple[int, ...]
    axes: tuple[AxisExplanation, ...]

    @property
    def key_count(self) -> int:
        """Keys that the query sees."""
        return prod(len(axis.keys) for axis in self.axes)

    def sees(self, key: Sequence[int]) -> list[str]:
        """Why the query does not see a key, a sentence per failing axis; empty when it does."""
        failures = []
        for index, (axis, coordinate) in enumerate(zip(self.axes, key, strict=True)):
            if coordinate in axis.keys:
                continue
            if coordinate % axis.step != axis.dilation_group:
                why = f"is in dilation group {coordinate % axis.step}, the query in {axis.dilation_group}"
            else:
                why = f"is outside the keys {axis.start} to {axis.stop - 1}"
            failures.append(f"axis {index}: key {coordinate} {why}")
        return failures


def _explain_axis(axis: Axis, query: int) -> AxisExplanation:
    group, position = query % axis.dilation, query // axis.dilation
    n = axis.group_length(group)
    first = position // axis.stride * axis.stride
    last = min(first + axis.stride, n) - 1
    wanted = first + (axis.stride - 1 if axis.causal else axis.stride // 2)
    leader = min(wanted, n - 1)
    begin, end = int(window_starts(position, n, axis)), int(window_ends(position, n, axis))
    return AxisExplanation(
        query=query,
        dilation_group=group,
        position=position,
        group_length=n,
        stride_group=(first, last),
        leader=leader,
        start=begin * axis.dilation + group,
        stop=(end - 1) * axis.dilation + group + 1,
        step=axis.dilation,
        reason=_reason(axis, n, position, first, last, leader, begin, end),
    )


def _reason(
    axis: Axis, n: int, position: int, first: int, last: int, leader: int, begin: int, end: int
) -> str:
    if axis.is_dense:
        return "the window spans the axis: every key is visible"
    parts = []
    if axis.stride > 1:
        kind = "last" if axis.causal else "centre"
        cut = (
            ", clamped to the axis"
            if leader != first + (axis.stride - 1 if axis.causal else axis.stride // 2)
            else ""
        )
        parts.append(f"positions {first} to {last} share the window of their {kind} query {leader}{cut}")
    if axis.causal:
        wish = leader - axis.window + 1
        parts.append(
            f"the window starts at {begin}" + (f" (not {wish}, before the axis)" if wish < 0 else "")
        )
        parts.append(f"and causality ends it at the query itself, position {position}: {end - begin} keys")
    else:
        wish = leader - axis.window // 2
        parts.append(f"{axis.window} keys around position {leader}")
        if wish != begin:
            parts.append(f"shifted from {wish} to {begin} to stay inside the axis")
    if axis.dilation > 1:
        parts.append(f"every {axis.dilation}th token of the axis ({n} in this dilation group)")
    return "; ".join(parts)


def explain(pattern: Pattern, query: int | Sequence[int]) -> Explanation:
    """Explain what one query sees.

    Parameters
    ----------
    pattern : Pattern
    query : int or sequence of int
        Coordinates of the query, one per axis.
    """
    coordinates = per_axis(query if isinstance(query, int) else tuple(query), pattern.rank, "query")
    for index, (coordinate, length) in enumerate(zip(coordinates, pattern.layout, strict=True)):
        if not 0 <= coordinate < length:
            raise RefusedError(
                f"query coordinate {coordinate} on axis {index}", f"0 to {length - 1}", "correct the query"
            )
    axes = tuple(_explain_axis(axis, c) for axis, c in zip(pattern.axes, coordinates, strict=True))
    return Explanation(coordinates, axes)
