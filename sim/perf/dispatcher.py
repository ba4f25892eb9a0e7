"""The dispatcher: hands the instructions over in order, as they come and as queues have room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwattn.sim.perf.events import UNKNOWN, Event, Moment, Wait
from hwattn.sim.perf.memory import NEVER
from hwattn.sim.perf.program_reader import ProgramReader
from hwattn.sim.perf.queue import InstructionQueue
from hwattn.spec.isa import Queue

DISPATCH_CYCLES = 2
FIRST_DISPATCH = 2


class Dispatcher:
    """Hands over one instruction in two cycles.

    Parameters
    ----------
    events : sequence of Event
        All of a task's instructions but the Halt.
    queues : mapping of Queue to InstructionQueue
    reader : ProgramReader, optional
        Of a program that is streamed.

    Attributes
    ----------
    halt : int
        Cycle in which it comes to the Halt, or `UNKNOWN`.
    """

    def __init__(
        self,
        events: Sequence[Event],
        queues: Mapping[Queue, InstructionQueue],
        reader: ProgramReader | None = None,
    ) -> None:
        self._events, self._queues, self._reader = events, queues, reader
        self._number = 0
        self.halt = UNKNOWN

    def advance(self) -> bool:
        """Hand over what can be; return whether that was any."""
        before = self._number
        while self._number < len(self._events) and self._dispatch(self._events[self._number]):
            self._number += 1
        if self._number == len(self._events) and self.halt == UNKNOWN:
            self._come_to_halt()
        return self._number > before

    def _earliest(self) -> int:
        """Cycle from which the next instruction could be handed over to a queue with room, or NEVER."""
        earliest = FIRST_DISPATCH
        if self._number:
            earliest = self._events[self._number - 1].times[Moment.DISPATCHED] + DISPATCH_CYCLES
        return max(earliest, self._reader.ready(self._number)) if self._reader else earliest

    def _dispatch(self, event: Event) -> bool:
        earliest = self._earliest()
        if earliest == NEVER:
            return False
        queue = self._queues[event.instruction.queue]
        if not self._number:
            event.times[Moment.DISPATCHED] = earliest
        else:
            before = self._events[self._number - 1]
            waits: list[Wait] = [
                (before, Moment.DISPATCHED, earliest - before.times[Moment.DISPATCHED]),
                *queue.room(),
            ]
            if not event.settle(Moment.DISPATCHED, waits):
                return False
        queue.put(event)
        if self._reader:
            self._reader.dispatched(event.times[Moment.DISPATCHED])
        return True

    def _come_to_halt(self) -> None:
        earliest = self._earliest()
        if earliest == NEVER:
            return
        self.halt = earliest
        if self._reader:
            self._reader.stop = earliest
