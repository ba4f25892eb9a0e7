"""The SDRAM controller between cocotbext-axi's master and a chip that stops at the first command that breaks a rule."""

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
from hwattn.rtl.sdram import SdramController
from hwattn.rtl.verilog import to_verilog
from hwattn.sim.cosim import runner
from hwattn.sim.cosim.sdram import ULX3S_AT_25_MHZ, SdramChip
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import FailedError, RefusedError
from hwattn.spec.sdram import SDRAM_2M_X_32, Sdram, SdramTiming

SLOW = Sdram(row_bits=11, column_bits=8, cas_latency=3, power_up_us=1.0, read_ns=1.0, refresh_us=3.90625)
"""Small rows, and at 130 MHz times of several cycles."""

WIDE = dataclasses.replace(SDRAM_2M_X_32, power_up_us=4.0)
UNMASKED = dataclasses.replace(WIDE, masked=False)

WIDE_CASES = {"tang-nano-4": (4, WIDE.at(27.0)), "colorlight-8": (8, UNMASKED.at(25.0))}
CASES = {"ulx3s-4": (4, ULX3S_AT_25_MHZ), "slow-8": (8, SLOW.at(130.0)), **WIDE_CASES}


class Memory(wiring.Component):
    """A controller and its chip."""

    def __init__(self, lanes: int, controlled: SdramTiming, checked: SdramTiming) -> None:
        self.config = AcceleratorConfig(lanes=lanes, norm_lanes=1)
        self.controlled, self.checked = controlled, checked
        super().__init__({"axi": In(axi_port(self.config))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.controller = controller = SdramController(self.config, self.controlled)
        m.submodules.chip = chip = SdramChip(self.checked)
        connect(m, flipped(self.axi), controller.axi)
        connect(m, controller.pins, chip.pins)
        return m


def simulate(
    folder: Path,
    lanes: int,
    timing: SdramTiming,
    test: str,
    *,
    checked: SdramTiming | None = None,
    pause: float = 0,
) -> None:
    """Run one test of tb_sdram.py with a controller for `timing`, and a chip that checks for `checked`."""
    chip = resources.files("hwattn.sim.cosim").joinpath("sdram_chip.v").read_text()
    verilog = to_verilog(Memory(lanes, timing, checked or timing), "memory") + "\n" + chip
    settings = {"lanes": lanes, "bytes": timing.chip.bytes, "pause": pause, "rounds": 40, "stream": 4096}
    settings["unit"] = 1 if timing.chip.masked else timing.chip.data_bytes
    runner.run(
        runner.build(verilog, "memory"),
        "tb_sdram",
        folder,
        environment={"HWATTN_SDRAM_TEST": json.dumps(settings)},
        python_path=[Path(__file__).parent],
        testcase=test,
    )


@pytest.mark.parametrize("case", CASES)
def test_a_memory_that_keeps_every_rule(case: str, tmp_path: Path) -> None:
    simulate(tmp_path, *CASES[case], "what_is_written_is_read", pause=0.4)
    if case in WIDE_CASES:
        return
    simulate(tmp_path, *CASES[case], "what_is_written_is_read")
    simulate(tmp_path, *CASES[case], "beyond_the_chip", pause=0.4)
    simulate(tmp_path, *CASES[case], "a_read_that_is_not_taken_holds_up_no_write")


@pytest.mark.parametrize("case", CASES)
def test_it_is_as_fast_as_it_says(case: str, tmp_path: Path) -> None:
    lanes, timing = CASES[case]
    simulate(tmp_path, lanes, timing, "speed")
    found = json.loads((tmp_path / "speed.json").read_text())
    memory = timing.external_memory(lanes)
    assert found["latency"] == memory.latency + 1
    assert found["words"] / found["cycles"] == pytest.approx(memory.beats / memory.cycles, rel=0.01)


def test_a_part_of_a_column_without_masks_is_refused(tmp_path: Path) -> None:
    simulate(tmp_path, *CASES["colorlight-8"], "a_part_of_a_column", pause=0.4)


@pytest.mark.parametrize(
    ("rule", "change"),
    [("tRCD", {"rcd": 4}), ("no refresh in time", {"refresh": 400})],
    ids=["rcd", "refresh"],
)
def test_the_chip_stops_at_a_broken_rule(rule: str, change: dict[str, int], tmp_path: Path) -> None:
    """A controller for a chip that is quicker, or forgets more slowly, than the one that is there."""
    timing = SLOW.at(130.0)
    checked = dataclasses.replace(timing, **change)
    with pytest.raises(FailedError, match=f"sdram, cycle .* {rule}"):
        simulate(tmp_path, 8, timing, "what_is_written_is_read", checked=checked)


def test_times_become_cycles() -> None:
    timing = Sdram().at(25.0)
    assert (timing.power_up, timing.refresh) == (5000, 195)
    assert (timing.rcd, timing.rp, timing.ras, timing.rc, timing.rfc, timing.wr) == (1, 1, 2, 2, 2, 1)
    assert Sdram().bytes == 32 << 20
    assert Sdram(rcd=40.0).at(25.0).rcd == 1, "a whole cycle is no more than that"
    with pytest.raises(
        RefusedError, match="a clock of 50 MHz for a machine with SDRAM; expected 33.3 MHz or less"
    ):
        Sdram().at(50.0)
    with pytest.raises(ValueError, match="words of 4 bytes in columns of 8"):
        Sdram(data_bytes=8).at(25.0).columns(4)
