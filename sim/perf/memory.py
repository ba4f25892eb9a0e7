"""External memory: bursts that are read in the order of their addresses, latency, and the words that bandwidth allows.

Whoever uses it does so in the order of time.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.external import ExternalMemory

PAGE_BYTES = 4096
BURST_WORDS_MAX = 256

CREDIT_WORDS = 4
"""Words for which an idle memory saves up bandwidth."""

STALL_RANGE = 256
"""What `ExternalMemory.stall` is a chance in; also the unit of the credit, so that it stays whole."""

NEVER = sys.maxsize
"""Cycle of what waits for something that is not known yet, or has nothing to do."""


def cut_bursts(config: AcceleratorConfig, address: int, words: int, runs: int, stride: int) -> Iterator[int]:
    """Cut runs into bursts that cross no page; yield the words of each."""
    page_words = PAGE_BYTES // config.lanes
    for run in range(runs):
        here, left = address + run * stride, words
        while left:
            burst = min(left, BURST_WORDS_MAX, page_words - here % page_words)
            yield burst
            here += burst
            left -= burst


class Bandwidth:
    """Words that a memory moves: each costs a credit that grows with time.

    Parameters
    ----------
    memory : ExternalMemory
    """

    def __init__(self, memory: ExternalMemory) -> None:
        self.cost = memory.cycles * STALL_RANGE
        self.growth = min(memory.beats * STALL_RANGE, (STALL_RANGE - memory.stall) * memory.cycles)
        self._credit = CREDIT_WORDS * self.cost
        self._at = 0  # cycle of which that is the credit

    @property
    def refill(self) -> int:
        """Cycles after which an idle memory has all its credit."""
        return -(-CREDIT_WORDS * self.cost // self.growth)

    def _credit_at(self, cycle: int) -> int:
        # where it is full, the cycle of the next word adds nothing to it
        return min(self._credit + self.growth * (cycle - self._at), CREDIT_WORDS * self.cost - self.growth)

    def next(self, cycle: int) -> int:
        """Return the first cycle from this one on in which one more word can move."""
        cycle = max(cycle, self._at)
        return cycle + max(0, -((self._credit_at(cycle) - self.cost) // self.growth))

    def fit(self, first: int, end: int) -> int:
        """Return how many words can move from a cycle on and before another one."""
        return min(end - first, (self._credit_at(first) + self.growth * (end - 1 - first)) // self.cost)

    def move(self, first: int, words: int) -> int:
        """Move words one after the other, from a cycle on; return the cycle of the last."""
        credit = self._credit_at(first)
        last = first + max(words - 1, -((credit - self.cost * words) // self.growth))
        self._credit = credit + self.growth * (last + 1 - first) - self.cost * words
        self._at = last + 1
        return last


@dataclass
class Burst:
    """A burst that is read.

    Parameters
    ----------
    words : int
        That have not come yet.
    interval : int
        Cycles in which the reader takes a word.
    whole : bool
        The reader takes a word in every cycle, and only the last one matters.
    receive : callable
        Called with the burst and the cycle in which its last word so far has been taken; returns whether more is known by that.
    answered : int
        Cycle from which the memory may bring the first word.
    """

    words: int
    interval: int
    whole: bool
    receive: Callable[[Burst, int], bool]
    answered: int = 0


class MemoryPort:
    """The state of the port: what has been asked for, and the bandwidth of reads and writes together.

    A burst's words come when those of the one before have been taken. Random back-pressure (`stall`) counts by its mean.

    Parameters
    ----------
    memory : ExternalMemory

    Attributes
    ----------
    bandwidth : Bandwidth
    latency, pause : int
        Cycles: of the memory, and by which back-pressure delays an address.
    end : int
        Cycle in which the last word so far has been taken.
    """

    def __init__(self, memory: ExternalMemory) -> None:
        self.bandwidth = Bandwidth(memory)
        self.latency = memory.latency
        self.pause = round(memory.stall / (STALL_RANGE - memory.stall))
        self.end = 0
        self._bursts: deque[Burst] = deque()
        self._addressed = 0

    def ask(self, burst: Burst, cycle: int) -> None:
        """Ask for a burst in a cycle; its address goes out in the next, or after one that goes out then."""
        self._addressed = max(cycle, self._addressed) + 1
        burst.answered = self._addressed + self.pause + self.latency
        self._bursts.append(burst)

    @property
    def next_read(self) -> int:
        """Cycle from which the next word may come."""
        return max(self._bursts[0].answered, self.end) if self._bursts else NEVER

    def read(self) -> bool:
        """Let that word come, or its whole burst; return whether its reader knows more by that."""
        burst = self._bursts[0]
        words = burst.words if burst.whole else 1
        self.end = self.bandwidth.move(self.next_read, words) + burst.interval
        burst.words -= words
        if not burst.words:
            self._bursts.popleft()
        return burst.receive(burst, self.end)
