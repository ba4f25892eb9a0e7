"""The instruction queues: when the unit of each accepts an instruction, and when that ends."""

from __future__ import annotations

from collections.abc import Callable

from hwattn.sim.perf.events import UNKNOWN, Event, Moment, Wait
from hwattn.sim.perf.units import MATRIX_SETUP, stream_cycles, unit_cycles
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.encoding import disassemble
from hwattn.spec.errors import RefusedError
from hwattn.spec.isa import Matmul, Queue

OVERLAPPING = (Queue.MATRIX, Queue.FETCH)
"""Queues whose unit takes a command before it has ended the one before."""

OUTSTANDING = 4
"""Commands that such a unit may hold."""

FETCH_DEPTH = 16
"""Least depth of the FETCH queue."""

MATRIX_IN_FLIGHT = 3
"""Matmuls whose last word has been asked for and whose last column is on its way."""


class InstructionQueue:
    """Instructions of a queue in order, and the unit behind it.

    Parameters
    ----------
    config : AcceleratorConfig
    queue : Queue
    start : callable
        Called with each event that is accepted and not skipped: lets its unit begin.
    """

    def __init__(self, config: AcceleratorConfig, queue: Queue, start: Callable[[Event], None]) -> None:
        self._depth = max(config.queue_depth, FETCH_DEPTH if queue == Queue.FETCH else 0)
        self._overlapping = queue in OVERLAPPING
        self._start = start
        self._events: list[Event] = []
        self._accepted = 0
        self._accumulates = False  # the last Matmul that was not skipped

    def room(self) -> list[Wait]:
        """Return what the next instruction waits for to enter."""
        if len(self._events) < self._depth:
            return []
        # the oldest of `depth` has left, and the next one has moved into the output register
        return [(self._events[-self._depth], Moment.ACCEPTED, 1)]

    def put(self, event: Event) -> None:
        """Let an instruction enter that has been dispatched."""
        self._events.append(event)

    def advance(self) -> bool:
        """Let the unit accept what it can; return whether that was any."""
        before = self._accepted
        while self._accepted < len(self._events) and self._accept(self._events[self._accepted]):
            self._accepted += 1
        return self._accepted > before

    def _older(self, count: int) -> Event | None:
        """Return the event that many before the next one to be accepted."""
        return self._events[self._accepted - count] if self._accepted >= count else None

    def _accept(self, event: Event) -> bool:
        """Pass an instruction from the queue's head to its unit, if it is known when."""
        before = self._older(1)
        if before is not None and before.held == UNKNOWN:
            return False
        # through the memory before the output register, where there is one
        to_head = 1 if self._depth == 1 else 2
        waits: list[Wait] = [
            (event, Moment.DISPATCHED, to_head),
            *((giver, Moment.DONE, 1) for giver in event.givers),
        ]
        if before is not None:
            waits.append((before, Moment.ACCEPTED, 1))
            older = self._older(OUTSTANDING)
            if event.skipped or not self._overlapping:
                waits.append((before, Moment.DONE, 1))
            elif older is not None:
                waits.append((older, Moment.DONE, 1))
        # from the head, one cycle to the unit
        waits = [(cause, moment, cycles + 1) for cause, moment, cycles in waits]
        if not event.skipped and before is not None:
            waits += self._unit_free(event, before)
        if not event.settle(Moment.ACCEPTED, waits):
            return False
        if event.skipped:
            event.settle(Moment.DONE, [(event, Moment.ACCEPTED, 0)])
        else:
            self._accumulates = isinstance(event.instruction, Matmul) and bool(event.instruction.accumulate)
            self._start(event)
        return True

    def _unit_free(self, event: Event, before: Event) -> list[Wait]:
        """What the unit itself waits for."""
        waits: list[Wait] = [(before, Moment.ACCEPTED, before.held)]
        if isinstance(event.instruction, Matmul):
            if event.instruction.accumulate or self._accumulates:
                waits.append((before, Moment.DONE, 1))
            older = self._older(MATRIX_IN_FLIGHT)
            if older is not None:
                waits.append((older, Moment.DONE, 1))
        return waits


def start_unit(config: AcceleratorConfig, event: Event) -> None:
    """Let a unit begin whose time is its own.

    Raises
    ------
    RefusedError
        Nothing is known of the instruction's cycles.
    """
    cycles = unit_cycles(event.instruction, config, event.rows)
    if cycles is None:
        raise RefusedError(
            f"instruction {event.index} ({disassemble(event.instruction)}), whose cycles nothing is known of",
            "an instruction with a cost in hwattn.sim.perf.units",
            "report it",
        )
    if isinstance(event.instruction, Matmul):
        event.held = MATRIX_SETUP + stream_cycles(event.instruction)
    event.settle(Moment.DONE, [(event, Moment.ACCEPTED, cycles)])
