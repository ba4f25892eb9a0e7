"""The machine as its host sees it: address regions, registers and counters, shared by hardware, drivers and testbenches.

A host reads and writes 32-bit units at 32-bit addresses; the upper four bits choose a region, the rest number the region's units. A
memory word of `lanes` bytes is ``lanes / 4`` units, least significant first. Entries of the other memories are written as a whole when
their last unit arrives. Region EXTERNAL shows 2**28 units of external memory, of machines that have a port to it and stand still: while
one runs, writes there are dropped and reads give 0.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

IDENTIFICATION = int.from_bytes(b"hwat", "little")
VERSION = 1
REGION_SHIFT = 28


BUS_TIMEOUT_CYCLES = 1 << 20


class Region(IntEnum):
    """Where an address points; `ACT` and `EXTERNAL` can be read and written, `CSR` as its registers say, the others be written."""

    CSR = 0
    ACT = 1
    WEIGHT = 2
    PARAM = 3
    NORM = 4
    TABLE = 5
    PROGRAM = 6
    EXTERNAL = 7


UNITS = {Region.PARAM: 2, Region.NORM: 2, Region.TABLE: 2, Region.PROGRAM: 8}
"""Units of one entry: bias, then multiplier and shift << 16; beta, then gamma; value, then difference; 256 bits."""


class Register(IntEnum):
    """Unit numbers of region CSR."""

    IDENTIFICATION = 0
    VERSION = 1
    CONFIG_HASH = 2
    PROGRAM_HASH = 3
    """Written by the host after it has written a program; the machine starts with that of its initial contents, or 0."""
    CONTROL = 4
    """Write only; bits of `Control`."""
    ENTRY = 5
    """Instruction at which a start begins."""
    STATUS = 6
    """Bits of `Status`."""
    ERROR = 7
    """One of `ErrorCause`."""
    PC = 8
    """Next instruction to be fetched."""
    INTERVAL_SHIFT = 9
    """log2 of the activation table's interval: 6 or 7."""
    SCAN_BASE = 10
    """First word of a scan: of the activation memory, or of external memory."""
    SCAN_WORDS = 11
    """Number of words of a scan, at least 1."""
    SCAN_CRC = 12
    """CRC-32 (that of zlib) of the bytes of the last scan."""
    BUS_TIMEOUT = 13
    """Cycles without progress of a transfer from or to external memory after which the machine stops; at first `BUS_TIMEOUT_CYCLES`."""
    EXTERNAL_PAGE = 14
    """Where external memory starts, in pages of 4 KiB; with several ports, that address times their number (`hwattn.spec.stripes`)."""
    EXTERNAL_WINDOW = 15
    """Which part of external memory region EXTERNAL shows: that from unit EXTERNAL_WINDOW << 28 on."""
    HEAD = 16
    """HEAD + queue: the oldest instruction of a queue that has not ended, with bit 16 set if there is one, bit 17 if its unit works on it."""
    CYCLES = 32
    """Counters start at 0 with every start and count while the machine runs."""
    MATRIX_ACTIVE = 33
    """Cycles in which the multipliers worked on a streamed word."""
    ISSUED = 34
    """Instructions issued, skipped ones among them."""
    SKIPPED = 35
    """Instructions skipped because their expert's queue was too short."""
    BUSY = 36
    """BUSY + queue: cycles in which the queue's unit worked."""
    WAITING = 44
    """WAITING + queue: cycles in which the queue's head waited for a token and its unit was idle."""
    READ_STALL = 52
    """READ_STALL + reader of `ActReader`: cycles lost to a reader of higher priority in the same bank."""
    WRITE_STALL = 60
    """WRITE_STALL + writer of `ActWriter`."""
    WEIGHT_STALL = 68
    """WEIGHT_STALL + reader of `WeightReader`."""
    READ_BEATS = 70
    """Words that came from external memory."""
    WRITE_BEATS = 71
    """Words that went to external memory."""


AXI_BYTES = 4096
"""Bytes of the window of the AXI4-Lite port (``rtl.axi_lite``)."""

AXI_CSR_BYTES = 2048
"""The registers lie in the window's first bytes, register n at byte 4 n."""

AXI_ADDRESS = 2048
"""Byte of the window that holds the address of the unit that AXI_DATA reads or writes."""

AXI_DATA = 2052
"""Byte of the window through which any unit is read or written; the address then counts up."""


class Control(IntFlag):
    """What a write to `CONTROL` does."""

    START = 1
    """Begin at ENTRY."""
    SINGLE_STEP = 2
    """With START: stop before every instruction until STEP, and let each end before the next begins."""
    STEP = 4
    """Run the next instruction."""
    RESET = 8
    """Stop at once and bring every unit to rest; memories keep their contents."""
    SCAN = 16
    """Compute the CRC-32 of SCAN_WORDS activation words from SCAN_BASE. The next request is answered when it is there."""
    CLEAR = 32
    """Write zeros to SCAN_WORDS activation words from SCAN_BASE; the next request waits for the last one."""
    SCAN_EXTERNAL = 64
    """As SCAN, of words of external memory."""


class Status(IntFlag):
    """Bits of `STATUS`."""

    RUNNING = 1
    PAUSED = 2
    """Single-step: everything has come to rest before the instruction at PC."""
    DONE = 4
    ERROR = 8


class ErrorCause(IntEnum):
    """Why a machine stopped with `Status.ERROR`."""

    NONE = 0
    UNKNOWN_INSTRUCTION = 1
    END_OF_PROGRAM = 2
    """No Halt before the end of the program memory."""
    BUS_READ = 3
    """External memory answered a read with an error."""
    BUS_WRITE = 4
    """External memory answered a write with an error."""
    BUS_TIMEOUT = 5
    """External memory did not go on with a transfer for BUS_TIMEOUT cycles."""


class ActReader(IntEnum):
    """Readers of the activation memory, the highest priority first."""

    MATRIX = 0
    POST = 1
    NORM = 2
    LOAD = 3
    STORE = 4
    HOST = 5


class ActWriter(IntEnum):
    """Writers of the activation memory, the highest priority first."""

    POST = 0
    NORM = 1
    LOAD = 2
    FETCH = 3
    HOST = 4


class WeightReader(IntEnum):
    """Readers of the weight memory, the highest priority first."""

    MATRIX = 0
    LOAD = 1


WINDOW_UNITS = 1 << REGION_SHIFT
"""Units of external memory that region EXTERNAL shows."""

COUNTERS = range(Register.CYCLES, Register.WRITE_BEATS + 1)
"""Every counter of the machine; numbers in between that have no counter read 0."""


def address(region: Region, unit: int) -> int:
    """Return the 32-bit address of a unit."""
    return (int(region) << REGION_SHIFT) | unit
