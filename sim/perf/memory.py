"""External memory and the two units at its port, burst by burst: bursts asked for ahead, latency, and the words that bandwidth allows."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.entries import ENTRY_REGIONS, UNIT_BYTES
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

Span = tuple[int, int]
"""First and last cycle of a burst's words."""


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
        self.at = 0
        """Cycle up to which words have been moved."""

    def spend(self, first: int, words: int, interval: int = 1) -> int:
        """Return when the last of `words` words leaves, the first in cycle `first` at the earliest, one in `interval` cycles at most."""
        cost, growth = self.cost, self.growth
        credit = min(self._credit + growth * (first - self.at), CREDIT_WORDS * cost - growth)
        last = first + max((words - 1) * interval, -((credit - cost * words) // growth))
        self._credit = min(credit + growth * (last + 1 - first) - cost * words, CREDIT_WORDS * cost)
        self.at = last + 1
        return last

    def insert(self, first: int, words: int, interval: int) -> int:
        """Return when the last of some words leaves that moved before others which are known already: those that follow pay for it."""
        self._credit -= self.cost * words
        return first + max((words - 1) * interval, -(-words * self.cost // self.growth) - 1)


class MemoryPort:
    """The state of the port: what it has been asked for, and its bandwidth.

    Reads go before writes, which wait while the words of a burst come. Beside that, each has the whole bandwidth. Random back-pressure
    (`stall`) counts by its mean.

    Parameters
    ----------
    config : AcceleratorConfig
    memory : ExternalMemory
    reads : sequence of Span
        Known bursts, in order, that writes wait for.

    Attributes
    ----------
    spans : list of Span
        Bursts that have been read.
    """

    def __init__(self, config: AcceleratorConfig, memory: ExternalMemory, reads: Sequence[Span] = ()) -> None:
        self._page_words = PAGE_BYTES // config.lanes
        self._units = config.lanes // UNIT_BYTES
        self._latency = memory.latency
        self._pause = round(memory.stall / (STALL_RANGE - memory.stall))
        self._reading, self._writing = Bandwidth(memory), Bandwidth(memory)
        self._ends: deque[int] = deque(maxlen=BURSTS_AHEAD)
        self._reads = reads
        self.spans: list[Span] = []
        self._asked: list[Span] = []
        self._program: list[Span] = []

    def fetch(self, fetch: Fetch, source: int, accepted: int) -> FetchTimes:
        """Run a Fetch that starts at external word `source` and is accepted in a cycle."""
        take = accepted + 3
        behind = False
        interval = self._units if fetch.memory in ENTRY_REGIONS else 1
        end = self._ends[-1] if self._ends else -1
        for number, words in enumerate(self._bursts(source, fetch.words, fetch.runs, fetch.source_stride)):
            if number:
                take += 2
            if len(self._ends) == BURSTS_AHEAD:
                take = max(take, self._ends[0] + 1)
            answered = take + 1 + self._pause + self._latency
            behind = behind or (number == 0 and end > answered)
            first = max(answered, end, _busy_until(self._program, take))
            last = self._reading.spend(first, words, interval)
            self.spans.append((first, last))
            # a word is on the bus one cycle after the memory has spent bandwidth on it, until it has been taken
            end = last + interval
            self._asked.append((take, end))
            self._ends.append(end)
        return FetchTimes(take + 1, end, behind)

    def program(self, take: int, words: int, interval: int) -> list[int]:
        """Return when each word of a burst of the program has been taken, whose address goes out as that of a Fetch would.

        It may come before bursts that are known already. Those of a Fetch that were asked for before go first.
        """
        answered = take + 1 + self._pause + self._latency
        first = max(answered, _busy_until(self._asked, take), _busy_until(self._program, take))
        move = self._reading.spend if first >= self._reading.at else self._reading.insert
        last = move(first, words, interval)
        end = last + interval
        self._program.append((take, end))
        return [end - (last - first) * (words - 1 - word) // max(1, words - 1) for word in range(words)]

    def store(self, store: Store, accepted: int) -> int:
        """Return when a Store that is accepted in a cycle has ended: the memory has acknowledged its last burst."""
        take, acknowledged = accepted + 2, 0
        for words in self._bursts(store.target, store.words, store.runs, store.target_stride):
            # the memory takes the next address when it has acknowledged the burst before
            address = max(take + 1, acknowledged) + self._pause
            last = self._write(max(take + 3, address + 1), words)
            acknowledged = last + self._latency + 1
            take = last + 2
        return acknowledged + 1

    def _write(self, first: int, words: int) -> int:
        """Return when the last of `words` words is written, between the bursts that are read."""
        place = bisect_left(self._reads, (first, first))
        if place and self._reads[place - 1][1] >= first:
            first = self._reads[place - 1][1] + 1
        for begins, ends in self._reads[place:]:
            room = max(0, begins - first) * self._writing.growth // self._writing.cost
            if words <= room:
                break
            if room:
                self._writing.spend(first, room)
                words -= room
            first = max(first, ends + 1)
        return self._writing.spend(first, words)

    def _bursts(self, address: int, words: int, runs: int, stride: int) -> Iterator[int]:
        """Cut runs into bursts that cross no page; yield the words of each."""
        for run in range(runs):
            here, left = address + run * stride, words
            while left:
                burst = min(left, BURST_WORDS_MAX, self._page_words - here % self._page_words)
                yield burst
                here += burst
                left -= burst


def _busy_until(bursts: list[Span], take: int) -> int:
    """End of the last of some bursts, (address, end) in order, whose address was out by a cycle; -1 without one."""
    index = bisect_right(bursts, take, key=lambda burst: burst[0])
    return bursts[index - 1][1] if index else -1
