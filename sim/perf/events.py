"""The course of an instruction through the machine: when it is dispatched, accepted and done, and what each of these waited for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from hwattn.spec.isa import Instruction

UNKNOWN = -1
"""A time that is not known yet."""


class Moment(IntEnum):
    """What happens to an instruction: the dispatcher hands it over, its unit accepts it, it ends."""

    DISPATCHED = 0
    ACCEPTED = 1
    DONE = 2


@dataclass(eq=False)
class Event:
    """An instruction's course through the machine.

    Parameters
    ----------
    index : int
        In the program.
    instruction : Instruction
    skipped : bool
        Its expert's queue was too short.
    rows : int
        Rows that it works on, if it has such a field.
    expert : int
        Whose turn it is, where it is predicated.
    givers : list of Event
        Those whose tokens it takes.
    times : list of int
        Cycle of each `Moment`, or `UNKNOWN`.
    causes : list of (Event, Moment) or None
        What each moment waited for: of all that had to come before, the last; None at the start of the program.
    held : int
        Cycles from its acceptance in which its unit can accept no other command, or `UNKNOWN`.
    """

    index: int
    instruction: Instruction
    skipped: bool = False
    rows: int = 0
    expert: int = 0
    givers: list[Event] = field(default_factory=list)
    times: list[int] = field(default_factory=lambda: [UNKNOWN] * 3)
    causes: list[tuple[Event, Moment] | None] = field(default_factory=lambda: [None] * 3)
    held: int = 0

    def settle(self, moment: Moment, waits: Iterable[Wait]) -> bool:
        """Set a moment to the latest of what it waits for; return whether all of that is known."""
        latest, last = UNKNOWN, None
        for cause, when, cycles in waits:
            time = cause.times[when]
            if time == UNKNOWN:
                return False
            if time + cycles > latest:
                latest, last = time + cycles, (cause, when)
        self.times[moment], self.causes[moment] = latest, last
        return True


Wait = tuple[Event, Moment, int]
"""A moment of an event, and the cycles that pass after it."""
