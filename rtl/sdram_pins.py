"""The pins of an SDRAM chip and its commands."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from amaranth.lib.wiring import In, Out, Signature

from hwattn.spec.sdram import Sdram, SdramTiming

ALL_BANKS = 1 << 10
"""Address bit of a precharge that closes every bank."""


class Command(IntEnum):
    """RAS, CAS and WE from the lowest bit up, 1 where the pin is active."""

    NONE = 0b000
    ACTIVATE = 0b001
    READ = 0b010
    REFRESH = 0b011
    CALIBRATE = 0b100  # of DDR3
    PRECHARGE = 0b101
    WRITE = 0b110
    MODE = 0b111


INITIAL_REFRESHES = 8
CAS_LATENCY_SHIFT = 4
"""Place of the latency in the mode register; all else there is 0: bursts of one column, in order, reads and writes alike."""


@dataclass(frozen=True)
class Step:
    """A command of power-up.

    Parameters
    ----------
    after : int
        Cycles until the next command.
    bank, address : int
    released, enabled : bool
        Pins of DDR3: reset is released, and the chip's clock enabled, from this step on.
    """

    command: Command
    after: int
    bank: int = 0
    address: int = 0
    released: bool = True
    enabled: bool = True


def sdram_power_up(timing: SdramTiming) -> list[Step]:
    """Return the commands of a chip's power-up: after the pause all rows are closed, refreshes, and the mode."""
    return [
        Step(Command.NONE, timing.power_up),
        Step(Command.PRECHARGE, timing.rp, address=ALL_BANKS),
        *[Step(Command.REFRESH, timing.rfc)] * INITIAL_REFRESHES,
        Step(Command.MODE, timing.mrd, address=timing.chip.cas_latency << CAS_LATENCY_SHIFT),
    ]


def sdram_pins(chip: Sdram) -> Signature:
    """Return a chip's pins but clock, clock enable and chip select, which do not change, from the point of view of the controller.

    All are active high. Each output has a flip-flop behind it, and each input one before it: `input` holds a column `cas_latency` + 1
    cycles after its READ. The chip's clock is that of these flip-flops, inverted. `mask` is there where the chip's is connected.
    """
    mask = {"mask": Out(chip.data_bytes)} if chip.masked else {}
    return Signature(
        {
            "command": Out(3),
            "bank": Out(chip.bank_bits),
            "address": Out(chip.row_bits),
            **mask,
            "drive": Out(1),
            "output": Out(8 * chip.data_bytes),
            "input": In(8 * chip.data_bytes),
        }
    )
