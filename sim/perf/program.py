"""A program that is read from external memory while it runs: when each instruction is there."""

from __future__ import annotations

from hwattn.sim.perf.memory import MemoryPort
from hwattn.spec.config import INSTRUCTION_BYTES, AcceleratorConfig

FIRST_ASK = 1
"""Cycle in which the reader asks for the first burst."""

READY_CYCLES = 3
"""Cycles from an instruction's last word to its dispatch."""


class ProgramStream:
    """The bursts in which a task's program is read: one at a time, the next one as soon as there is room for all of it.

    Parameters
    ----------
    config : AcceleratorConfig
    port : MemoryPort
    entry : int
        The task's first instruction.
    """

    def __init__(self, config: AcceleratorConfig, port: MemoryPort, entry: int) -> None:
        self.config = config
        self._port = port
        self._following, self._end = entry, 0
        self._consumed = entry
        self._ready: dict[int, int] = {}
        self._bursts: list[tuple[int, int]] = []
        self._ask(FIRST_ASK)

    def ready(self, index: int) -> int:
        """Cycle in which an instruction can be dispatched at the earliest; every one before it has been."""
        return self._ready.pop(index)

    def consume(self, index: int, cycle: int) -> None:
        """Note that an instruction has been dispatched, and ask for what then fits."""
        self._consumed = index + 1
        self._ask(cycle + 1)

    def moved(self, port: MemoryPort, cycle: int) -> None:
        """Go on at another port, on which nothing is under way, from a cycle on."""
        self._port, self._end = port, cycle

    def settled(self, halt: int) -> int:
        """Cycle of the last word that comes, if the program ends with a cycle."""
        return max((end for take, end in self._bursts if take <= halt), default=0)

    def _ask(self, cycle: int) -> None:
        config, lanes = self.config, self.config.lanes
        while self._following < config.program_capacity:
            behind = self._following - self._following % config.program_burst + config.program_burst
            if behind - self._consumed > config.program_words:
                return
            first, stop = (place * INSTRUCTION_BYTES // lanes for place in (self._following, behind))
            halves = max(1, lanes // INSTRUCTION_BYTES)
            take = max(cycle, self._end + 1)
            times = self._port.program(take, stop - first, halves)
            self._bursts.append((take, times[-1]))
            for index in range(self._following, behind):
                word = ((index + 1) * INSTRUCTION_BYTES - 1) // lanes - first
                early = halves - 1 - index % halves
                self._ready[index] = times[word] - early + READY_CYCLES
            self._following, self._end = behind, times[-1]
