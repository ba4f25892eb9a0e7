"""The storer: writes the bursts of one Store after the other, in the cycles that reads leave it."""

from __future__ import annotations

from collections.abc import Iterator

from hwattn.sim.perf.events import Event, Moment
from hwattn.sim.perf.memory import NEVER, MemoryPort, cut_bursts
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Store

FIRST_CYCLES = 2
"""Cycles from acceptance until the first burst begins."""

NEXT_CYCLES = 2
"""Cycles from a burst's last word until the next burst begins."""

WORD_CYCLES = 3
"""Cycles from there to its first word."""


class Storer:
    """Writes words when no word is read.

    Parameters
    ----------
    config : AcceleratorConfig
    port : MemoryPort
    """

    def __init__(self, config: AcceleratorConfig, port: MemoryPort) -> None:
        self.config = config
        self._port = port
        self._event: Event | None = None
        self._bursts: Iterator[int] = iter(())
        self._words = 0  # of this burst, still to be written
        self._first = 0  # cycle from which they can be

    def start(self, event: Event) -> None:
        """Begin with a Store that has been accepted."""
        instruction = event.instruction
        assert isinstance(instruction, Store)
        self._event = event
        self._bursts = cut_bursts(
            self.config, instruction.target, instruction.words, instruction.runs, instruction.target_stride
        )
        self._words = next(self._bursts)
        self._begin(event.times[Moment.ACCEPTED] + FIRST_CYCLES, 0)

    def _begin(self, cycle: int, acknowledged: int) -> None:
        """Begin a burst; the memory takes its address when it has acknowledged the one before."""
        address = max(cycle + 1, acknowledged) + self._port.pause
        self._first = max(cycle + WORD_CYCLES, address + 1)

    @property
    def next_write(self) -> int:
        """Cycle in which the next word is written if none is read."""
        return self._port.bandwidth.next(self._first) if self._words else NEVER

    def write(self, end: int) -> bool:
        """Write what can be written before a cycle; return whether that has ended the Store."""
        first, bandwidth = self.next_write, self._port.bandwidth
        words = min(self._words, bandwidth.fit(first, end))
        last = bandwidth.move(first, words)
        self._first = last + 1
        self._words -= words
        if self._words:
            return False
        acknowledged = last + self._port.latency + 1
        self._words = next(self._bursts, 0)
        if self._words:
            self._begin(last + NEXT_CYCLES, acknowledged)
            return False
        event = self._event
        assert event is not None
        event.times[Moment.DONE] = acknowledged + 1
        event.causes[Moment.DONE] = (event, Moment.ACCEPTED)
        return True
