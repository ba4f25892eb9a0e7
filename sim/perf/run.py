"""The machine in the order of time: when the dispatcher, the queues, the units and external memory do their part of every instruction.

Whatever waits for no memory is followed as far as it goes. Then the earliest step at external memory is made, one only: an address, words
that are read, or words that are written. What is not known yet waits for such a step and comes after it, so every step finds the memory as
it is in that cycle. Cycle 0 is the first in which the machine runs.

What is left out, because it is small: two units that want the same bank of a memory in the same cycle (the one of lower priority waits). A
machine whose units always find their banks free is predicted to the cycle.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hwattn.sim.perf.events import Event, Moment
from hwattn.sim.perf.fetcher import Fetcher
from hwattn.sim.perf.memory import NEVER, MemoryPort
from hwattn.sim.perf.program_reader import ProgramReader
from hwattn.sim.perf.queue import InstructionQueue, start_unit
from hwattn.sim.perf.storer import Storer
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.external import ExternalMemory
from hwattn.spec.isa import Queue


class Run:
    """Queues, units and external memory at work.

    Parameters
    ----------
    config : AcceleratorConfig
    memory : ExternalMemory
    entry : int
        First instruction of the task.

    Attributes
    ----------
    port : MemoryPort
    reader : ProgramReader or None
        Of a program that is streamed.
    queues : dict of Queue to InstructionQueue
    """

    def __init__(self, config: AcceleratorConfig, memory: ExternalMemory, entry: int) -> None:
        self.port = MemoryPort(memory)
        self.reader = ProgramReader(config, self.port, entry) if config.program_streamed else None
        self._fetcher, self._storer = Fetcher(config, self.port), Storer(config, self.port)
        starts: dict[Queue, Callable[[Event], None]] = {
            Queue.FETCH: self._fetcher.start,
            Queue.STORE: self._storer.start,
        }
        self.queues = {
            queue: InstructionQueue(config, queue, starts.get(queue, partial(start_unit, config)))
            for queue in Queue
        }

    def put(self, event: Event, cycle: int) -> None:
        """Hand over an instruction in a cycle."""
        event.times[Moment.DISPATCHED] = cycle
        self.queues[event.instruction.queue].put(event)
        if self.reader:
            self.reader.dispatched(cycle)

    def advance(self, dispatch: Callable[[], bool] = lambda: False) -> None:
        """Go on until nothing moves any more.

        Parameters
        ----------
        dispatch : callable
            Hands over what can be; returns whether that was any.
        """
        more = True
        while more:
            while dispatch() | self._accept():
                pass
            more = self._access()

    def _accept(self) -> bool:
        """Let every unit accept what it can; return whether that was any."""
        moved = False
        for queue in self.queues.values():
            moved |= queue.advance()
        return moved

    def _access(self) -> bool:
        """Make steps at external memory, the earliest first, until one lets others go on; return whether there was one."""
        while True:
            program = self.reader.next_ask if self.reader else NEVER
            fetch, read, write = self._fetcher.next_ask, self.port.next_read, self._storer.next_write
            earliest = min(program, fetch, read, write)
            if earliest == NEVER:
                return False
            if earliest == read:
                known = self.port.read()
            elif self.reader and earliest == program:
                # of two addresses in the same cycle the program's goes first
                known = self.reader.ask()
            elif earliest == fetch:
                known = self._fetcher.ask()
            else:
                # before the next word that may be read
                known = self._storer.write(min(read, min(program, fetch) + 1 + self.port.latency))
            if known:
                return True
