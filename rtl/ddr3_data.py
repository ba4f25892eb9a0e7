"""Bursts of a DDR3 chip as what its pins carry in each cycle: `Ddr3Output` and `Ddr3Input`."""

from __future__ import annotations

import itertools

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from hwattn.spec.ddr3 import BURST, LATENCY, STEPS, WINDOW, Ddr3


class Ddr3Output(Component):
    """Sends a burst `LATENCY` cycles after its WRITE, two transfers in each cycle.

    Parameters
    ----------
    chip : Ddr3

    Members
    -------
    write : In(1), burst, burst_mask : In
        A burst is written in this cycle; its data, and a bit for each byte that is not to be written. The next one comes four cycles later
        at the earliest.
    output, mask, drive, strobe : Out
        As of `ddr3_pins`.

    Latency
    -------
    `LATENCY` cycles.
    """

    def __init__(self, chip: Ddr3) -> None:
        self.chip = chip
        pin = chip.pin_bytes
        super().__init__(
            {
                "write": In(1),
                "burst": In(8 * chip.data_bytes),
                "burst_mask": In(chip.data_bytes),
                "output": Out(2 * 8 * pin),
                "mask": Out(2 * pin),
                "drive": Out(1),
                "strobe": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rest, rest_mask = Signal.like(self.burst), Signal.like(self.burst_mask)
        left = Signal(range(BURST // 2))
        pair = data.StructLayout({"output": len(self.output), "mask": len(self.mask), "drive": 1})
        # one more than on the way: the strobe begins a cycle earlier
        stages = [Signal(pair, name=f"pair_{age}") for age in range(LATENCY + 2)]
        with m.If(self.write):
            m.d.comb += [stages[0].output.eq(self.burst), stages[0].mask.eq(self.burst_mask)]
            m.d.sync += [
                rest.eq(self.burst >> len(self.output)),
                rest_mask.eq(self.burst_mask >> len(self.mask)),
                left.eq(BURST // 2 - 1),
            ]
        with m.Elif(left.any()):
            m.d.comb += [stages[0].output.eq(rest), stages[0].mask.eq(rest_mask)]
            m.d.sync += [
                rest.eq(rest >> len(self.output)),
                rest_mask.eq(rest_mask >> len(self.mask)),
                left.eq(left - 1),
            ]
        m.d.comb += stages[0].drive.eq(self.write | left.any())
        m.d.sync += [older.eq(younger) for younger, older in itertools.pairwise(stages)]
        before, now, after = stages[LATENCY - 1 :]
        m.d.comb += [
            self.output.eq(now.output),
            self.mask.eq(now.mask),
            self.drive.eq(now.drive),
            self.strobe.eq(before.drive | now.drive | after.drive),
        ]
        return m


class Ddr3Input(Component):
    """Gathers bursts from what the pins were, beginning with one of the moments in `WINDOW` cycles.

    Parameters
    ----------
    chip : Ddr3

    Members
    -------
    input : In
        As of `ddr3_pins`.
    moment : In(range(STEPS * WINDOW))
        The one at which a burst's first transfer is taken; the others follow it by half a cycle each.
    burst : Out
        The burst whose first cycle of the window was `WINDOW` + 1 + 4 cycles ago.
    """

    def __init__(self, chip: Ddr3) -> None:
        self.chip = chip
        super().__init__(
            {
                "input": In(STEPS * 8 * chip.pin_bytes),
                "moment": In(range(STEPS * WINDOW)),
                "burst": Out(8 * chip.data_bytes),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = 8 * self.chip.pin_bytes
        before = Signal.like(self.input)
        moments = [Cat(before, self.input).word_select(at, bits) for at in range(STEPS + STEPS // 2)]
        step, cycle = self.moment[: (STEPS - 1).bit_length()], self.moment[(STEPS - 1).bit_length() :]
        first, second = (Array(moments[half : half + STEPS])[step] for half in (0, STEPS // 2))
        pairs = [Signal(2 * bits, name=f"pair_{age}") for age in range(WINDOW)]
        m.d.sync += [before.eq(self.input), pairs[0].eq(Cat(first, second))]
        m.d.sync += [older.eq(younger) for younger, older in itertools.pairwise(pairs)]
        chosen = Array(reversed(pairs))[cycle]
        m.d.sync += self.burst.eq(Cat(self.burst, chosen)[2 * bits :])
        return m
