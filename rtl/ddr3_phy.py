"""Between the machine's clock and the pins of a DDR3 chip: signals of a clock that is four times as fast."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib.wiring import Component, In, Out

from hwattn.rtl.ddr3_pins import ddr3_pins
from hwattn.spec.ddr3 import STEPS, Ddr3

RATIO = 4
"""Cycles of domain `pins` in one of `sync`."""


class Ddr3Phy(Component):
    """Makes the waveforms of the chip's clock, strobes and data, a quarter of a cycle apart, and looks at the data twice in each fast cycle.

    Commands change in the low half of the chip's clock, and are taken at its rising edge. Strobes change with the clock, data to be written a
    quarter before that.

    Parameters
    ----------
    chip : Ddr3

    Members
    -------
    pins : In(ddr3_pins(chip))
        In domain `sync`.
    released, enabled, command, bank, address : Out
        To the pins, like all that follows in domain `pins`, whose cycles begin where those of `sync` do.
    clock, strobe, strobe_drive, drive : Out(1), mask, output : Out
        The chip's clock; the value of the strobes, and whether they are driven; whether the data are, byte masks and data.
    input : In
        The data pins in the first and in the second half of a fast cycle.

    Latency
    -------
    To the pins two fast cycles after the machine's cycle, and from them one or two cycles of the machine. What passes from one domain to the
    other has two fast cycles to do so.
    """

    def __init__(self, chip: Ddr3) -> None:
        self.chip = chip
        bits = 8 * chip.pin_bytes
        super().__init__(
            {
                "pins": In(ddr3_pins(chip)),
                "released": Out(1),
                "enabled": Out(1),
                "command": Out(3),
                "bank": Out(chip.bank_bits),
                "address": Out(chip.row_bits),
                "clock": Out(1),
                "strobe": Out(1),
                "strobe_drive": Out(1),
                "drive": Out(1),
                "mask": Out(chip.pin_bytes),
                "output": Out(bits),
                "input": In(2 * bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pins = self.pins
        held = {
            name: Signal.like(getattr(pins, name), name=f"held_{name}")
            for name in pins.signature.members
            if name != "input"
        }
        m.d.sync += [signal.eq(getattr(pins, name)) for name, signal in held.items()]

        # a quarter of the machine's cycle; `load` is high in the last one, two fast cycles after `held` has changed
        turn, seen, older = Signal(), Signal(), Signal()
        quarter, load = Signal(range(RATIO)), Signal()
        m.d.sync += turn.eq(~turn)
        m.d.pins += [seen.eq(turn), older.eq(seen), quarter.eq(quarter + 1)]
        m.d.comb += [load.eq(seen ^ older), self.clock.eq(quarter[1])]
        drive, written, masked = Signal(), Signal.like(held["output"]), Signal.like(held["mask"])
        with m.If(load):
            m.d.pins += [
                quarter.eq(0),
                self.strobe_drive.eq(held["strobe"]),
                drive.eq(held["drive"]),
                written.eq(held["output"]),
                masked.eq(held["mask"]),
            ]
            m.d.pins += [
                getattr(self, name).eq(held[name])
                for name in ("released", "enabled", "command", "bank", "address")
            ]
        with m.Switch(quarter):
            with m.Case(0):
                m.d.pins += [self.drive.eq(drive), self.output.eq(written), self.mask.eq(masked)]
            with m.Case(1):
                m.d.pins += self.strobe.eq(drive)
            with m.Case(2):
                m.d.pins += [
                    self.output.eq(written[len(self.output) :]),
                    self.mask.eq(masked[len(self.mask) :]),
                ]
            with m.Case(3):
                m.d.pins += self.strobe.eq(0)

        moments = Signal(STEPS * len(self.output))
        whole = Signal.like(moments)
        m.d.pins += moments.eq(Cat(moments, self.input)[len(self.input) :])
        with m.If(load):
            m.d.pins += whole.eq(moments)
        m.d.sync += pins.input.eq(whole)
        return m
