"""External memory and the two units at its port, burst by burst: bursts asked for ahead, latency, and the words that bandwidth allows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.external import ExternalMemory
from hwattn.spec.isa import Fetch, Store

PAGE_BYTES = 4096
BURST_WORDS_MAX = 256
BURSTS_AHEAD = 16
"""Bursts that the fetcher asks for before they are complete."""

CREDIT_WORDS = 4
"""Words for which an idle memory saves up bandwidth."""

STALL_RANGE = 256
"""What `ExternalMemory.stall` is a chance in; also the unit of the credit, so that it stays whole."""


@dataclass(frozen=True)
class FetchTimes:
    """When a Fetch frees its unit for the next command, and when its last word has come.

    Parameters
    ----------
    free, done : int
        Cycles.
    behind : bool
        Its first word waited for the words of the Fetch before.
    """

    free: int
    done: int
    behind: bool


class MemoryPort:
    """The state of the port: what it has been asked for, and its credit of bandwidth.

    Reads and writes share the bandwidth; here each has all of it, so that a Store costs a Fetch that runs at the same time nothing.
    Random back-pressure (`stall`) counts by its mean.

    Parameters
    ----------
    config : AcceleratorConfig
    memory : ExternalMemory
    """

    def __init__(self, config: AcceleratorConfig, memory: ExternalMemory) -> None:
        self._page_words = PAGE_BYTES // config.lanes
        self._memory = memory
        ready = STALL_RANGE - memory.stall
        self._cost = memory.cycles * STALL_RANGE
        self._beats = min(memory.beats * STALL_RANGE, ready * memory.cycles)
        self._pause = round(memory.stall / ready)
        self._ends: deque[int] = deque(maxlen=BURSTS_AHEAD)
        self.rest()

    def rest(self) -> None:
        """Let the memory come to rest, as it is between two single steps: all its credit is there."""
        self._credit = CREDIT_WORDS * self._cost
        self._at = 0  # cycle of which that is the credit
        self._ends.clear()

    def fetch(self, fetch: Fetch, source: int, accepted: int) -> FetchTimes:
        """Run a Fetch that starts at external word `source` and is accepted in a cycle."""
        take = accepted + 3
        behind = False
        last = self._ends[-1] if self._ends else -1
        end = last
        for number, words in enumerate(self._bursts(source, fetch.words, fetch.runs, fetch.source_stride)):
            if number:
                take += 2
            if len(self._ends) == BURSTS_AHEAD:
                take = max(take, self._ends[0] + 1)
            asked = take + 1 + self._pause
            first = max(asked + self._memory.latency, end)
            behind = behind or (number == 0 and end > asked + self._memory.latency)
            # a word is on the bus one cycle after the memory has spent bandwidth on it
            end = self._spend(first, words) + 1
            self._ends.append(end)
        return FetchTimes(take + 1, end, behind)

    def store(self, store: Store, accepted: int) -> int:
        """Return when the memory has acknowledged the last burst of a Store that is accepted in a cycle."""
        free = accepted + 2
        memory_free, acknowledged = 0, accepted
        bursts = self._bursts(store.target, store.words, store.runs, store.target_stride)
        for words in bursts:
            take = free
            address = max(take + 1, memory_free) + self._pause
            first = max(take + 3, address + 1)
            last = first + max(words - 1, (words - 1) * self._cost // self._beats)
            acknowledged = last + self._memory.latency + 1
            memory_free = acknowledged
            free = last + 2
        return acknowledged + 1

    def _spend(self, first: int, words: int) -> int:
        """Return when the last of `words` words leaves, the first in cycle `first` at the earliest."""
        cost, beats = self._cost, self._beats
        credit = min(self._credit + beats * (first - self._at), CREDIT_WORDS * cost - beats)
        last = first + max(words - 1, -((credit - cost * words) // beats))
        self._credit = credit + beats * (last + 1 - first) - cost * words
        self._at = last + 1
        return last

    def _bursts(self, address: int, words: int, runs: int, stride: int) -> Iterator[int]:
        """Cut runs into bursts that cross no page; yield the words of each."""
        for run in range(runs):
            here, left = address + run * stride, words
            while left:
                burst = min(left, BURST_WORDS_MAX, self._page_words - here % self._page_words)
                yield burst
                here += burst
                left -= burst
