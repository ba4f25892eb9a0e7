"""The pins of a DDR3 chip, the order in which it is started, and its mode registers."""

from __future__ import annotations

from amaranth.lib.wiring import In, Out, Signature

from hwattn.rtl.sdram_pins import Command, Step
from hwattn.spec.ddr3 import STEPS, Ddr3, Ddr3Timing

MODES = {
    2: 0b001 << 3,  # CWL = 6
    3: 0,
    1: 1,  # DLL off, output drivers of 40 ohms, no termination
    0: 0b010 << 4 | 0b001 << 9,  # bursts of eight, in order, CL = 6
}
"""Contents of the mode registers, in the order in which they are written."""

LONG_CALIBRATION = 1 << 10


def ddr3_power_up(timing: Ddr3Timing) -> list[Step]:
    """Return the commands of a chip's power-up: reset, clock enable, the mode registers, and calibration of the output drivers."""
    last = list(MODES)[-1]
    return [
        Step(Command.NONE, timing.reset, released=False, enabled=False),
        Step(Command.NONE, timing.clock, enabled=False),
        Step(Command.NONE, timing.xpr + 1),
        *(
            Step(Command.MODE, timing.mod if number == last else timing.mrd, bank=number, address=mode)
            for number, mode in MODES.items()
        ),
        Step(Command.CALIBRATE, timing.zq, address=LONG_CALIBRATION),
    ]


def ddr3_pins(chip: Ddr3) -> Signature:
    """Return what goes to a chip's pins and comes from them in each cycle, from the point of view of the controller.

    All are active high but `released`, which ends the chip's reset. The chip takes commands in the middle of the cycle. `output` and `mask`
    are two transfers, the first one in the low half, taken in the middle and at the end of the cycle while `drive` is high; `strobe` is high
    from one cycle before that to one cycle after it. `input` is what the data pins were at `STEPS` moments of a cycle, the first one in the
    lowest bits.
    """
    bits = 8 * chip.pin_bytes
    return Signature(
        {
            "released": Out(1),
            "enabled": Out(1),
            "command": Out(3),
            "bank": Out(chip.bank_bits),
            "address": Out(chip.row_bits),
            "mask": Out(2 * chip.pin_bytes),
            "drive": Out(1),
            "strobe": Out(1),
            "output": Out(2 * bits),
            "input": In(STEPS * bits),
        }
    )
