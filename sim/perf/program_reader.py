"""The program reader: when each instruction of a program that is read from external memory while it runs is there."""

from __future__ import annotations

from hwattn.sim.perf.memory import NEVER, Burst, MemoryPort
from hwattn.spec.config import INSTRUCTION_BYTES, AcceleratorConfig

READY_CYCLES = 3
"""Cycles from an instruction's last word to its dispatch."""


class ProgramReader:
    """Asks for one burst at a time, the next one as soon as there is room for all of it.

    Parameters
    ----------
    config : AcceleratorConfig
    port : MemoryPort
    entry : int
        The task's first instruction.

    Attributes
    ----------
    end : int
        Cycle in which the last word so far has come.
    stop : int
        Last cycle in which it may ask.
    """

    def __init__(self, config: AcceleratorConfig, port: MemoryPort, entry: int) -> None:
        self.config = config
        self._port = port
        self._entry = self._following = entry
        self._dispatched: list[int] = []
        self._ready: list[int] = []
        self._receiving = False
        self._word = 0  # that comes next
        self.end = 0
        self.stop = NEVER

    def ready(self, number: int) -> int:
        """Cycle in which the task's instruction of that number can be dispatched at the earliest, or NEVER while that is not known."""
        return self._ready[number] if number < len(self._ready) else NEVER

    def dispatched(self, cycle: int) -> None:
        """Note that the next instruction has been dispatched."""
        self._dispatched.append(cycle)

    @property
    def next_ask(self) -> int:
        """Cycle in which the next burst is asked for."""
        if self._receiving or self._following >= self.config.program_capacity:
            return NEVER
        cycle = self.end + 1
        leaver = self._behind - self.config.program_words - self._entry
        if leaver > len(self._dispatched):
            return NEVER
        if leaver > 0:
            cycle = max(cycle, self._dispatched[leaver - 1] + 1)
        return cycle if cycle <= self.stop else NEVER

    @property
    def _behind(self) -> int:
        """The instruction behind the next burst."""
        burst = self.config.program_burst
        return self._following - self._following % burst + burst

    def ask(self) -> bool:
        """Ask for it; return whether an instruction is there by that, which is never so."""
        config, cycle = self.config, self.next_ask
        first, stop = (place * INSTRUCTION_BYTES // config.lanes for place in (self._following, self._behind))
        interval = max(1, config.lanes // INSTRUCTION_BYTES)
        self._receiving = True
        self._word = first
        self._port.ask(Burst(stop - first, interval, False, self._receive), cycle)
        return False

    def _receive(self, burst: Burst, cycle: int) -> bool:
        """Note that a word has come; return whether an instruction has."""
        lanes = self.config.lanes
        self._word += 1
        complete = self._word * lanes // INSTRUCTION_BYTES
        known = self._following < complete
        for index in range(self._following, complete):
            # of a word that holds several, one is taken in each cycle
            self._ready.append(cycle - (complete - 1 - index) + READY_CYCLES)
        self._following = complete
        if not burst.words:
            self.end = cycle
            self._receiving = False
        return known or not burst.words
