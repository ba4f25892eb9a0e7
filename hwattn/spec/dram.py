"""What all kinds of SDRAM have in common: a chip's times in cycles of a clock, and how fast it is behind its controller."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from fractions import Fraction
from typing import Protocol

from hwattn.spec.external import ExternalMemory

CYCLES_MAX = 255
"""Largest `ExternalMemory.cycles`."""


def whole_cycles(clock_mhz: float, nanoseconds: float) -> int:
    """Return how many cycles of a clock a time takes, at least 1."""
    # a time of whole cycles must not become one more by rounding
    return max(1, math.ceil(nanoseconds * clock_mhz / 1000 - 1e-9))


class Dram(Protocol):
    """A chip as its controller sees it. A column is what one READ or WRITE moves."""

    @property
    def bank_bits(self) -> int:
        """Bits of a bank's number."""

    @property
    def row_bits(self) -> int:
        """Bits of a row's number."""

    @property
    def column_bits(self) -> int:
        """Bits of a column's number in its row."""

    @property
    def burst_bits(self) -> int:
        """Bits of an address below a column's number."""

    @property
    def data_bytes(self) -> int:
        """Bytes of a column."""

    @property
    def masked(self) -> bool:
        """Whether bytes of a column can be left as they are."""

    @property
    def address_bits(self) -> int:
        """Bits of a column's number in the whole memory: row, bank, column, from the highest down."""

    @property
    def bytes(self) -> int:
        """Bytes of the whole memory."""


class DramTiming(ABC):
    """A chip at one clock: times in cycles, as `rtl.sdram_sequencer` keeps them.

    Notes
    -----
    Subclasses have fields `chip`, `rcd`, `rp`, `ras`, `rfc` (row to column, precharge, row open at least, refresh) and `refresh`, the cycles from one
    refresh to the next at most, where all are spread evenly.
    """

    chip: Dram
    rcd: int
    rp: int
    ras: int
    rfc: int
    refresh: int
    ccd: int = 1
    """From one column to the next."""

    @property
    def read_to_close(self) -> int:
        """Cycles from a READ to the closing of its row."""
        return 1

    @property
    def write_to_read(self) -> int:
        """Cycles from a WRITE to a READ."""
        return 1

    @property
    @abstractmethod
    def read_latency(self) -> int:
        """Cycles from a column's READ to the column at the reader."""

    @property
    @abstractmethod
    def opening(self) -> int:
        """Cycles from the opening of a row to that of another one."""

    @property
    @abstractmethod
    def write_to_close(self) -> int:
        """Cycles from a WRITE to the closing of its row."""

    def columns(self, lanes: int) -> int:
        """Columns of a word of `lanes` bytes.

        Raises
        ------
        ValueError
            A column is longer than a word.
        """
        if lanes < self.chip.data_bytes:
            raise ValueError(f"words of {lanes} bytes in columns of {self.chip.data_bytes}")
        return lanes // self.chip.data_bytes

    def refresh_period(self, lanes: int) -> int:
        """Cycles after which the controller wants the next refresh.

        Less than `refresh` by the longest time that it may have to wait for it: until a word has passed, or the row for one is open, and
        then until all rows may be closed and are.
        """
        closing = 3 + self.ras + self.write_to_close + self.rp
        return self.refresh - self.columns(lanes) * self.ccd - (closing + self.opening + self.rcd) - closing

    def external_memory(self, lanes: int) -> ExternalMemory:
        """How fast the memory behind its controller is, for words of `lanes` bytes read in long bursts.

        From a burst's address to its first word, of an idle memory whose bank has another row open, three cycles of the controller pass
        (queue, burst, row), the chip's precharge and activation, the latency of a READ, and the other columns of the word. Bandwidth: in
        each period of refresh the time of the refresh, of closing all rows and of opening one is lost, and in each row the time of opening
        the next. Words that are shorter than a column come as many to it as fit.
        """
        wide = max(lanes, self.chip.data_bytes)
        columns = self.columns(wide)
        # a refresh closes all banks, and a stream comes to each of them in turn; a row is opened beside the last column of the one before
        opening = max(0, 2 + self.rcd - self.ccd)
        period = self.refresh_period(wide)
        refreshing = max(2, self.read_to_close) - self.ccd + self.rp + self.rfc + 1 + self.rcd
        row = self.ccd << self.chip.column_bits
        rows = Fraction(period, opening + row)
        share = (period - refreshing - rows * opening) / (period * columns * self.ccd) * (wide // lanes)
        ratio = min(share, Fraction(1)).limit_denominator(CYCLES_MAX)
        latency = 3 + self.rp + self.rcd + self.read_latency + (columns - 1) * self.ccd
        return ExternalMemory(latency=latency, beats=ratio.numerator, cycles=ratio.denominator)
