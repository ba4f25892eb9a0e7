"""The cycle model against measured cycles: per kind of instruction, and for whole runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwattn.sim.perf.events import Event

TOLERANCE = 0.01
"""Largest relative error that the cycle model may have."""


@dataclass(frozen=True)
class Comparison:
    """Predicted and measured cycles.

    Parameters
    ----------
    name : str
        A kind of instruction, or ``free run``.
    instructions : int
    predicted, measured : int
        Cycles in all.
    worst : float
        Largest relative error of one instruction.
    """

    name: str
    instructions: int
    predicted: int
    measured: int
    worst: float

    @property
    def error(self) -> float:
        """Relative error of the sum."""
        return self.predicted / self.measured - 1

    @property
    def good(self) -> bool:
        """Whether every error is within `TOLERANCE`."""
        return max(abs(self.error), self.worst) <= TOLERANCE


def compare_steps(predicted: Sequence[tuple[Event, int]], measured: Sequence[int]) -> list[Comparison]:
    """Compare single steps, kind by kind; skipped instructions are a kind of their own.

    Parameters
    ----------
    predicted : sequence of (Event, int)
        Of `Machine.single_steps`.
    measured : sequence of int
        Cycles of the same steps.

    Raises
    ------
    ValueError
        There are more of one than of the other.
    """
    pairs: dict[str, list[tuple[int, int]]] = {}
    for (event, cycles), found in zip(predicted, measured, strict=True):
        name = type(event.instruction).__name__.upper()
        pairs.setdefault("skipped" if event.skipped else name, []).append((cycles, found))
    return [
        Comparison(
            name,
            len(rows),
            sum(cycles for cycles, _ in rows),
            sum(found for _, found in rows),
            max(abs(cycles / found - 1) for cycles, found in rows),
        )
        for name, rows in sorted(pairs.items())
    ]


def compare_run(instructions: int, predicted: int, measured: int) -> Comparison:
    """Compare a free run."""
    return Comparison("free run", instructions, predicted, measured, abs(predicted / measured - 1))
