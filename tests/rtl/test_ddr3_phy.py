"""The waveforms at a DDR3 chip's pins: what the chip takes at each edge of its clock and strobes, and when the data pins are looked at."""

from __future__ import annotations

import itertools
import random

import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator, SimulatorContext

from hwattn.rtl.ddr3_phy import RATIO, Ddr3Phy
from hwattn.rtl.sdram_pins import Command
from hwattn.spec.ddr3 import STEPS, Ddr3

FAST_NS = 10
CYCLES = 40
COMMANDS = {5: Command.ACTIVATE, 8: Command.WRITE, 12: Command.WRITE, 30: Command.READ}
DRIVEN = range(14, 22)

Sample = dict[str, int]


def waveforms(skew_ns: float) -> tuple[list[Sample], dict[int, int], list[list[int]]]:
    """Send two writes; return the pins in each fast cycle, what was to be written in each cycle, and the moments of each cycle."""
    phy = Ddr3Phy(Ddr3())
    top = Module()
    top.submodules.phy = phy
    simulator = Simulator(top)
    simulator.add_clock(RATIO * FAST_NS * 1e-9, phase=1e-7)
    simulator.add_clock(FAST_NS * 1e-9, phase=1e-7 + skew_ns * 1e-9, domain="pins")
    draw = random.Random(2)
    written = {cycle: draw.getrandbits(32) for cycle in DRIVEN}
    samples: list[Sample] = []
    seen: list[list[int]] = []

    async def machine(context: SimulatorContext) -> None:
        pins = phy.pins
        for cycle in range(CYCLES):
            context.set(pins.command, COMMANDS.get(cycle, Command.NONE))
            context.set(pins.bank, cycle % 8)
            context.set(pins.drive, cycle in DRIVEN)
            context.set(pins.strobe, cycle + 1 in DRIVEN or cycle in DRIVEN or cycle - 1 in DRIVEN)
            context.set(pins.output, written.get(cycle, 0))
            context.set(pins.mask, written.get(cycle, 0) & 0xF)
            await context.tick()
            word = context.get(pins.input)
            seen.append([word >> 16 * moment & 0xFFFF for moment in range(STEPS)])

    async def chip(context: SimulatorContext) -> None:
        names = ("clock", "command", "bank", "strobe", "strobe_drive", "drive", "output", "mask")
        for time in range(CYCLES * RATIO):
            context.set(phy.input, 2 * time | 2 * time + 1 << 16)
            await context.tick("pins")
            samples.append({name: context.get(getattr(phy, name)) for name in names})

    simulator.add_testbench(machine)
    simulator.add_testbench(chip)
    simulator.run()
    return samples, written, seen


@pytest.mark.parametrize("skew_ns", [-2.0, 2.0])
def test_the_chip_takes_what_was_sent(skew_ns: float) -> None:
    samples, written, _ = waveforms(skew_ns)
    started = range(4 * RATIO, len(samples))
    rising = [at for at in started[:-RATIO] if samples[at]["clock"] and not samples[at - 1]["clock"]]
    assert {later - earlier for earlier, later in itertools.pairwise(rising)} == {RATIO}
    taken = {at: samples[at]["command"] for at in rising if samples[at]["command"]}
    assert list(taken.values()) == list(COMMANDS.values())
    for at in rising:
        around = [samples[time]["command"] for time in range(at - RATIO // 2, at + RATIO // 2)]
        assert len(set(around)) == 1, (
            "a command stays from half a cycle before the edge to half a cycle after it"
        )
    edges = [at for at in started if samples[at]["strobe"] != samples[at - 1]["strobe"]]
    assert edges[::2] == [at for at in rising if edges[0] <= at <= edges[-1]], "strobes rise with the clock"
    first_write = next(at for at, command in taken.items() if command == Command.WRITE)
    assert edges[0] - first_write == (DRIVEN[0] - 8) * RATIO
    halves = [word >> shift & 0xFFFF for word in written.values() for shift in (0, 16)]
    masks = [word >> shift & 3 for word in written.values() for shift in (0, 2)]
    for at, half, mask in zip(edges, halves, masks, strict=True):
        for time in (at - 1, at):
            assert samples[time]["drive"]
            assert (samples[time]["output"], samples[time]["mask"]) == (half, mask)
    driven = [at for at in started if samples[at]["strobe_drive"]]
    assert edges[0] - driven[0] >= RATIO, "a strobe is low for a cycle before its first edge"
    assert driven[-1] - edges[-1] >= RATIO // 2


@pytest.mark.parametrize("skew_ns", [-2.0, 2.0])
def test_the_data_pins_are_looked_at_eight_times_in_a_cycle(skew_ns: float) -> None:
    _, _, seen = waveforms(skew_ns)
    moments = [moment for cycle in seen[6:] for moment in cycle]
    assert moments == list(range(moments[0], moments[0] + len(moments)))
