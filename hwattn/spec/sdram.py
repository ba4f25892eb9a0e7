"""Sdram: a single-data-rate SDRAM chip, its times in cycles of a clock, and how fast it is behind `rtl.sdram`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from hwattn.spec.dram import DramTiming, whole_cycles
from hwattn.spec.errors import RefusedError


@dataclass(frozen=True)
class Sdram:
    """A chip, as its datasheet describes it.

    Parameters
    ----------
    bank_bits, row_bits, column_bits : int
        Bits of each part of an address.
    data_bytes : int
        Bytes of a column.
    cas_latency : int
        Cycles from a read to its data, 2 or 3.
    rcd, rp, ras, rc, rfc, wr : float
        Nanoseconds: row to column, precharge, row open at least, row to row of a bank, refresh, last write to precharge.
    wr_cycles : int
        Cycles from the last write to a precharge at least, whatever `wr` is.
    refresh_us : float
        From one refresh to the next, where all are spread evenly.
    power_up_us : float
        Pause before the first command.
    masked : bool
        The pins that mask bytes are connected. Else a column is written whole or not at all, and a write of a part of one is refused.
    read_ns : float
        From the chip's clock edge inside the FPGA until read data are at the input's flip-flop: out of the pin, through the chip, and in
        again. The chip's clock is the machine's, inverted, so this must be less than half a cycle.

    Notes
    -----
    A column's number in memory is row, bank, column, from the highest bit down, so that a row of one bank is followed by one of the next.
    """

    bank_bits: int = 2
    row_bits: int = 13
    column_bits: int = 9
    data_bytes: int = 2
    cas_latency: int = 2
    rcd: float = 20.0
    rp: float = 20.0
    ras: float = 45.0
    rc: float = 70.0
    rfc: float = 70.0
    wr: float = 20.0
    wr_cycles: int = 1
    refresh_us: float = 7.8125
    power_up_us: float = 200.0
    masked: bool = True
    read_ns: float = 15.0

    @property
    def burst_bits(self) -> int:
        """Bits of an address below a column's number: none, because it moves at once."""
        return 0

    @property
    def address_bits(self) -> int:
        """Bits of a column's number in the whole memory."""
        return self.row_bits + self.bank_bits + self.column_bits

    @property
    def bytes(self) -> int:
        """Bytes of the whole memory."""
        return self.data_bytes << self.address_bits

    def at(self, clock_mhz: float) -> SdramTiming:
        """Return the chip's times in cycles of a clock.

        Raises
        ------
        RefusedError
            The clock is too fast for read data to come in time.
        """
        limit = 500 / self.read_ns
        if clock_mhz > limit:
            raise RefusedError(
                f"a clock of {clock_mhz:g} MHz for a machine with SDRAM",
                f"{limit:.1f} MHz or less: read data take up to {self.read_ns:g} ns, and have half a cycle",
                "take a slower --clock",
            )

        cycles = partial(whole_cycles, clock_mhz)
        return SdramTiming(
            chip=self,
            power_up=cycles(self.power_up_us * 1000),
            rcd=cycles(self.rcd),
            rp=cycles(self.rp),
            ras=cycles(self.ras),
            rc=cycles(self.rc),
            rfc=cycles(self.rfc),
            wr=max(self.wr_cycles, cycles(self.wr)),
            refresh=int(self.refresh_us * clock_mhz),
        )


SDRAM_2M_X_32 = Sdram(
    row_bits=11,
    column_bits=8,
    data_bytes=4,
    rcd=21.0,
    rp=21.0,
    ras=49.0,
    wr_cycles=2,
    refresh_us=15.625,
)
"""A chip of 64 Mbit with 32 pins of data: 4 banks x 2048 rows x 256 columns, 4096 refreshes in 64 ms. Times are at least those of the slowest
of Etron EM638325, ESMT M12L64322A and the die inside Gowin's GW2AR-18, for which LiteDRAM's `modules.py` and its users take the latter's."""


@dataclass(frozen=True)
class SdramTiming(DramTiming):
    """A chip at one clock: its times in cycles, all at least 1.

    Parameters
    ----------
    chip : Sdram
    power_up, rcd, rp, ras, rc, rfc, wr : int
        As of the chip.
    refresh : int
        Cycles from one refresh to the next at most, where all are spread evenly.
    mrd : int
        From the write of the mode register to the next command.
    """

    chip: Sdram
    power_up: int
    rcd: int
    rp: int
    ras: int
    rc: int
    rfc: int
    wr: int
    refresh: int
    mrd: int = 2

    @property
    def read_latency(self) -> int:
        """Cycles from a column's READ to the column at the reader: the chip's, and a flip-flop at the pin."""
        return self.chip.cas_latency + 1

    @property
    def opening(self) -> int:
        """Cycles from the opening of a row to that of another one."""
        return self.rc

    @property
    def write_to_close(self) -> int:
        """Cycles from a WRITE to the closing of its row."""
        return self.wr
