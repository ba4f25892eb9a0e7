"""The fetcher: bursts of Fetches, asked for ahead of their words and across commands."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial

from hwattn.sim.perf.events import UNKNOWN, Event, Moment
from hwattn.sim.perf.memory import NEVER, Burst, MemoryPort, cut_bursts
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.entries import ENTRY_REGIONS, UNIT_BYTES
from hwattn.spec.isa import Fetch

BURSTS_AHEAD = 16
"""Bursts that the fetcher asks for before they are complete."""

FIRST_CYCLES = 3
"""Cycles from acceptance until the first burst is asked for."""

NEXT_CYCLES = 2
"""Cycles from one burst to the next."""


class Fetcher:
    """Asks for the bursts of one Fetch after the other; the end of each is known when its last word has come.

    Parameters
    ----------
    config : AcceleratorConfig
    port : MemoryPort
    """

    def __init__(self, config: AcceleratorConfig, port: MemoryPort) -> None:
        self.config = config
        self._port = port
        self._event: Event | None = None  # whose bursts are asked for
        self._received: Event | None = None  # whose words have come
        self._interval = 1
        self._bursts: Iterator[int] = iter(())
        self._words = 0  # of the next burst
        self._ready = 0  # cycle in which that is cut
        self._pending = 0  # bursts asked for and not complete
        self._ends: deque[int] = deque([-1] * BURSTS_AHEAD, maxlen=BURSTS_AHEAD)

    def start(self, event: Event) -> None:
        """Begin with a Fetch that has been accepted."""
        instruction = event.instruction
        assert isinstance(instruction, Fetch)
        source = instruction.source + event.expert * instruction.expert_stride
        self._bursts = cut_bursts(
            self.config, source, instruction.words, instruction.runs, instruction.source_stride
        )
        self._words = next(self._bursts)
        self._ready = event.times[Moment.ACCEPTED] + FIRST_CYCLES
        self._interval = self.config.lanes // UNIT_BYTES if instruction.memory in ENTRY_REGIONS else 1
        self._event = event
        event.held = UNKNOWN

    @property
    def next_ask(self) -> int:
        """Cycle in which the next burst is asked for."""
        if not self._words or self._pending == BURSTS_AHEAD:
            return NEVER
        return max(self._ready, self._ends[self._pending] + 1)

    def ask(self) -> bool:
        """Ask for it; return whether it is known by that when the next command can be accepted."""
        cycle, words, event = self.next_ask, self._words, self._event
        assert event is not None
        self._words = next(self._bursts, 0)
        self._pending += 1
        self._ready = cycle + NEXT_CYCLES
        receive = partial(self._receive, event, not self._words)
        self._port.ask(Burst(words, self._interval, self._interval == 1, receive), cycle)
        if self._words:
            return False
        event.held = cycle + 1 - event.times[Moment.ACCEPTED]
        return True

    def _receive(self, event: Event, last: bool, burst: Burst, cycle: int) -> bool:
        """Note that a word has come; return whether it was the last of a Fetch."""
        if burst.words:
            return False
        if event.causes[Moment.DONE] is None:
            # the words of the Fetch before were still coming when its own could have come
            behind = self._received if self._ends[-1] > burst.answered else None
            event.causes[Moment.DONE] = (behind, Moment.DONE) if behind else (event, Moment.ACCEPTED)
        self._pending -= 1
        self._ends.append(cycle)
        if last:
            event.times[Moment.DONE] = cycle
            self._received = event
        return last
