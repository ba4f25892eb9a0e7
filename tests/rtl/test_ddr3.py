"""The DDR3 controller between cocotbext-axi's master and a chip that stops at the first command that breaks a rule."""

from __future__ import annotations

import dataclasses
import json
from importlib import resources
from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, connect, flipped

from hwattn.rtl.axi import axi_port
from hwattn.rtl.ddr3 import Ddr3Controller
from hwattn.rtl.ddr3_pins import ddr3_power_up
from hwattn.rtl.verilog import to_verilog
from hwattn.sim.cosim import runner
from hwattn.sim.cosim.ddr3 import DELAY, SMALL_AT_25_MHZ, Ddr3Chip
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.ddr3 import WINDOW, Ddr3, Ddr3Timing
from hwattn.spec.errors import FailedError, RefusedError


class Memory(wiring.Component):
    """A controller and its chip."""

    def __init__(self, lanes: int, controlled: Ddr3Timing, checked: Ddr3Timing) -> None:
        self.config = AcceleratorConfig(lanes=lanes, norm_lanes=1)
        self.controlled, self.checked = controlled, checked
        super().__init__({"axi": In(axi_port(self.config))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.controller = controller = Ddr3Controller(self.config, self.controlled)
        m.submodules.chip = chip = Ddr3Chip(self.checked)
        connect(m, flipped(self.axi), controller.axi)
        connect(m, controller.pins, chip.pins)
        return m


def simulate(
    folder: Path,
    lanes: int,
    *tests: str,
    checked: Ddr3Timing = SMALL_AT_25_MHZ,
    delay: int = DELAY,
    pause: float = 0,
) -> None:
    """Run tests of tb_sdram.py with a controller for `SMALL_AT_25_MHZ`, and a chip that checks for `checked`."""
    chip = resources.files("hwattn.sim.cosim").joinpath("ddr3_chip.v").read_text()
    verilog = to_verilog(Memory(lanes, SMALL_AT_25_MHZ, checked), "memory") + "\n" + chip
    settings = {"lanes": lanes, "bytes": SMALL_AT_25_MHZ.chip.bytes, "unit": 1}
    settings |= {"pause": pause, "rounds": 15, "stream": 4096}
    built = runner.build(verilog, "memory")
    for test in tests:
        runner.run(
            built,
            "tb_sdram",
            folder,
            environment={"HWATTN_SDRAM_TEST": json.dumps(settings)},
            python_path=[Path(__file__).parent],
            testcase=test,
            plusargs=[f"+delay={delay}"],
        )


@pytest.mark.parametrize("lanes", [4, 32])
def test_a_memory_that_keeps_every_rule(lanes: int, tmp_path: Path) -> None:
    simulate(tmp_path, lanes, "what_is_written_is_read", pause=0.4)
    simulate(tmp_path, lanes, "speed")
    found = json.loads((tmp_path / "speed.json").read_text())
    memory = SMALL_AT_25_MHZ.external_memory(lanes)
    assert found["latency"] == memory.latency + 1
    assert found["words"] / found["cycles"] == pytest.approx(memory.beats / memory.cycles, rel=0.01)


def test_errors_and_waiting_words(tmp_path: Path) -> None:
    simulate(tmp_path, 4, "beyond_the_chip", "a_read_that_is_not_taken_holds_up_no_write")


@pytest.mark.parametrize("delay", [0, 13, 127, 236])
def test_the_training_finds_the_data_wherever_they_are(delay: int, tmp_path: Path) -> None:
    simulate(tmp_path, 4, "a_page", delay=delay)


def test_a_chip_whose_data_do_not_come_is_an_error(tmp_path: Path) -> None:
    simulate(tmp_path, 4, "nothing_is_there", delay=64 * WINDOW)


def test_the_chip_stops_at_a_broken_rule(tmp_path: Path) -> None:
    """A controller for a chip that is quicker than the one that is there."""
    slower = dataclasses.replace(SMALL_AT_25_MHZ, wtr=6)
    with pytest.raises(FailedError, match="ddr3, cycle .* tWTR"):
        simulate(tmp_path, 4, "what_is_written_is_read", checked=slower)


def test_times_become_cycles_and_the_chip_is_started_in_order() -> None:
    timing = Ddr3().at(25.0)
    steps = ddr3_power_up(timing)
    assert [(step.command.name, step.bank, step.address, step.after) for step in steps] == [
        ("NONE", 0, 0, 5000),
        ("NONE", 0, 0, 12500),
        ("NONE", 0, 0, 10),
        ("MODE", 2, 0x008, 4),
        ("MODE", 3, 0x000, 4),
        ("MODE", 1, 0x001, 4),
        ("MODE", 0, 0x220, 12),
        ("CALIBRATE", 0, 0x400, 512),
    ]
    assert [step.released for step in steps] == [False] + [True] * 7
    assert [step.enabled for step in steps] == [False] * 2 + [True] * 6
    assert (timing.rcd, timing.rp, timing.ras, timing.rc, timing.rfc, timing.wr) == (1, 1, 1, 2, 9, 1)
    assert (timing.opening, timing.refresh, timing.chip.bytes) == (4, 195, 128 << 20)
    with pytest.raises(
        RefusedError, match="a clock of 50 MHz for a machine with DDR3; expected 0.13 to 40 MHz"
    ):
        Ddr3().at(50.0)
