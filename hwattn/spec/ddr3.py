"""Ddr3: a DDR3 chip that runs without its DLL at the machine's clock, its times in cycles, and how fast it is behind `rtl.ddr3`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from hwattn.spec.dram import DramTiming, whole_cycles
from hwattn.spec.errors import RefusedError

BURST = 8
"""Transfers of a READ or WRITE, two in each cycle."""

LATENCY = 6
"""Cycles from a WRITE to its data; those of a READ come one cycle earlier, and later by the chip's delay (JESD79-3, DLL-off mode)."""

STEPS = 8
"""Moments in a cycle at which the data pins are looked at."""

FIRST_CYCLE = 8
"""Earliest cycle after a READ from which its data may be looked at: `LATENCY` - 1, and three on the way to the chip and back."""

WINDOW = 4
"""Cycles in which the data may begin; the training looks at `STEPS` moments of each."""

CLOCK_MHZ = (1000 / 7800, 40.0)
"""Slowest and fastest clock: the first by Micron's data sheets (tCK in DLL disable mode), the second so that the pins' clock, four times as
fast, stays at 160 MHz."""


@dataclass(frozen=True)
class Ddr3:
    """A chip with 16 pins of data, as its datasheet describes it; the DLL is off, which JEDEC leaves to the makers to support.

    Parameters
    ----------
    bank_bits, row_bits, burst_column_bits : int
        Bits of each part of an address; the last one counts columns of 16 bits, of which a burst moves eight.
    rcd, rp, ras, rc, wr, rfc, faw : float
        Nanoseconds: row to column, precharge, row open at least, row to row of a bank, last write to precharge, refresh, four rows.
    rrd, rtp, wtr : float
        Nanoseconds, of which each is also 4 cycles at least: row to row of two banks, read to precharge, last write to read.
    refresh_us : float
        From one refresh to the next.
    reset_us, clock_us : float
        Reset is held so long after power-up, and the clock disabled after that.

    Notes
    -----
    Times of the slowest grade, and `rfc` of the largest chip, in Micron's data sheets of MT41K64M16, MT41K128M16, MT41K256M16 and MT41K512M16.
    """

    bank_bits: int = 3
    row_bits: int = 13
    burst_column_bits: int = 10
    rcd: float = 15.0
    rp: float = 15.0
    ras: float = 37.5
    rc: float = 52.5
    wr: float = 15.0
    rfc: float = 350.0
    faw: float = 50.0
    rrd: float = 10.0
    rtp: float = 7.5
    wtr: float = 7.5
    refresh_us: float = 7.8
    reset_us: float = 200.0
    clock_us: float = 500.0

    @property
    def pin_bytes(self) -> int:
        """Bytes that the pins move at a time."""
        return 2

    @property
    def burst_bits(self) -> int:
        """Bits of an address below a burst's number."""
        return int(math.log2(BURST))

    @property
    def column_bits(self) -> int:
        """Bits of a burst's number in its row."""
        return self.burst_column_bits - self.burst_bits

    @property
    def data_bytes(self) -> int:
        """Bytes of a burst."""
        return self.pin_bytes * BURST

    @property
    def masked(self) -> bool:
        """Pins DM mask bytes."""
        return True

    @property
    def address_bits(self) -> int:
        """Bits of a burst's number in the whole memory."""
        return self.row_bits + self.bank_bits + self.column_bits

    @property
    def bytes(self) -> int:
        """Bytes of the whole memory."""
        return self.data_bytes << self.address_bits

    def at(self, clock_mhz: float) -> Ddr3Timing:
        """Return the chip's times in cycles of a clock.

        Raises
        ------
        RefusedError
            The chip does not run at that clock, or the pins do not.
        """
        slowest, fastest = CLOCK_MHZ
        if not slowest <= clock_mhz <= fastest:
            raise RefusedError(
                f"a clock of {clock_mhz:g} MHz for a machine with DDR3",
                f"{slowest:.2f} to {fastest:g} MHz, of which the pins' clock is four times",
                "take another --clock",
            )
        cycles = partial(whole_cycles, clock_mhz)
        return Ddr3Timing(
            chip=self,
            rcd=cycles(self.rcd),
            rp=cycles(self.rp),
            ras=cycles(self.ras),
            rc=cycles(self.rc),
            wr=cycles(self.wr),
            rfc=cycles(self.rfc),
            faw=cycles(self.faw),
            rrd=max(4, cycles(self.rrd)),
            rtp=max(4, cycles(self.rtp)),
            wtr=max(4, cycles(self.wtr)),
            refresh=int(self.refresh_us * clock_mhz),
            reset=cycles(self.reset_us * 1000),
            clock=cycles(self.clock_us * 1000),
            xpr=max(5, cycles(self.rfc + 10)),
            mod=max(12, cycles(15)),
        )


@dataclass(frozen=True)
class Ddr3Timing(DramTiming):
    """A chip at one clock: its times in cycles.

    Parameters
    ----------
    chip : Ddr3
    rcd, rp, ras, rc, wr, rfc, faw, rrd, rtp, wtr, refresh, reset, clock : int
        As of the chip.
    xpr, mrd, mod, zq : int
        From the clock's enabling to the first command, from one mode register to the next, from the last one on, of a calibration.
    """

    chip: Ddr3
    rcd: int
    rp: int
    ras: int
    rc: int
    wr: int
    rfc: int
    faw: int
    rrd: int
    rtp: int
    wtr: int
    refresh: int
    reset: int
    clock: int
    xpr: int
    mod: int
    mrd: int = 4
    zq: int = 512

    ccd = BURST // 2

    @property
    def read_latency(self) -> int:
        """Cycles from a READ to its burst at the reader, whatever the training has found."""
        return FIRST_CYCLE + WINDOW + 1 + BURST // 2

    @property
    def opening(self) -> int:
        """Cycles from the opening of a row to that of another one."""
        return max(self.rc, self.rrd, -(-self.faw // 4))

    @property
    def read_to_close(self) -> int:
        """Cycles from a READ to the closing of its row."""
        return self.rtp

    @property
    def write_to_close(self) -> int:
        """Cycles from a WRITE to the closing of its row."""
        return LATENCY + BURST // 2 + self.wr

    @property
    def write_to_read(self) -> int:
        """Cycles from a WRITE to a READ."""
        return LATENCY + BURST // 2 + self.wtr
