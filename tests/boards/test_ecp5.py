"""The ECP5 flow: what fits, what a report says, and one small design all the way to a bitstream."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from amaranth.back import rtlil
from echo import Echo

from hwattn.boards import ecp5_resets, flow, nextpnr
from hwattn.boards.board import Board, find_board
from hwattn.boards.ecp5 import FLOW
from hwattn.boards.flow import BuildResult, Usage, run_tool, run_yosys
from hwattn.boards.nextpnr import NAME
from hwattn.boards.nextpnr_log import (
    MANY_CONFLICTS,
    PATIENCE_FEW,
    PATIENCE_MANY,
    NotRoutedError,
    RouterWatch,
    hopeless,
    read_report,
)
from hwattn.rtl.memory import BankedMemory
from hwattn.rtl.system import SerialMachine
from hwattn.spec.config import AcceleratorConfig
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


@pytest.fixture
def quick_flow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., BuildResult]:
    """Place and route a netlist that takes no time: call with the board and the clock that each run reaches."""

    def place_and_route(board: Board, *reached: float) -> BuildResult:
        result, runs = BuildResult(), iter(reached)

        def tool(name: str, arguments: list[str], folder: Path, *rest: object) -> str:
            (folder / "place_and_route.json").write_text(json.dumps(report(next(runs))))
            return ""

        monkeypatch.setattr(nextpnr, "run_tool", tool)
        # without memories, whose sites would be planned
        (tmp_path / f"{NAME}.json").write_text(json.dumps({"modules": {NAME: {"cells": {}}}}))
        FLOW.place_and_route(board, tmp_path, 5, result, lambda stage: None, len(reached))
        return result

    return place_and_route


def test_reads_resources_clock_and_critical_path(quick_flow: Callable[..., BuildResult]) -> None:
    result = quick_flow(BOARD, 31.25, 40.0)
    assert result.resources == {
        "lut": Usage(30676, 83640),
        "ff": Usage(14222, 83640),
        "dsp": Usage(64, 156),
        "ram": Usage(136, 208),
    }
    assert result.fmax_mhz == 31.25, "the first run that meets the clock is the last"
    assert result.critical_path == ["matrix.count", "matrix.total"]
    assert [attempt.clocks_mhz for attempt in result.attempts] == [{"$glbnet$clk": 31.25}]


def test_a_faster_clock_counts_as_what_it_allows_the_machines() -> None:
    two = report(31.25)
    two["fmax"]["pins"] = {"achieved": 120.0, "constraint": 100.0}
    assert read_report(two, 1, "").fmax_mhz == 30.0


def test_block_ram_has_no_logic_around_it(tmp_path: Path) -> None:
    config = AcceleratorConfig(lanes=8, act_banks=2, act_words=512)
    memory = BankedMemory(config, readers=2, writers=2)
    (tmp_path / "memory.il").write_text(rtlil.convert(memory, name=NAME))
    lines = [*nextpnr.read_design("memory.il"), f"synth_ecp5 -top {NAME} -json {NAME}.json"]
    run_yosys(lines, tmp_path, "synthesis", BuildResult())
    counts = FLOW.count_cells(json.loads((tmp_path / f"{NAME}.json").read_text()))
    assert counts["ram"] == 4
    under_way = config.act_banks * (config.lanes + 9 + 8 * config.lanes)
    assert counts["ff"] == 4 + under_way, (
        "for each reader its bank, and whether a word comes; for each bank mask, address and word: no copies of what is written"
    )


class Yosys:
    """Stands in for Yosys: the first run fails with a message, the next are well."""

    def __init__(self, message: str) -> None:
        self.message = message
        self.commands: list[str] = []

    def __call__(self, lines: list[str], folder: Path, name: str, result: BuildResult) -> None:
        self.commands.append(lines[-1])
        (folder / f"{name}.ys").write_text(lines[-1])
        if len(self.commands) == 1:
            (folder / f"{name}.log").write_text(self.message)
            raise FailedError("yosys ended with code 1", "a clean run", f"it says:\n{self.message}")
        (folder / f"{name}.log").write_text("End of script.")
        empty = {"modules": {NAME: {"cells": {}, "netnames": {}}}}
        (folder / f"{NAME}.json").write_text(json.dumps(empty))


def test_where_yosys_crashes_the_plain_way_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yosys = Yosys(
        "ERROR: Assert `GetSize(conn.first) == GetSize(conn.second)' failed in kernel/rtlil.cc:3091."
    )
    monkeypatch.setattr(nextpnr, "run_yosys", yosys)
    machine = SerialMachine(AcceleratorConfig(), BOARD.divisor)
    FLOW.synthesize(BOARD, machine, tmp_path, BuildResult(), lambda stage: None)
    assert yosys.commands == [FLOW.synthesis, FLOW.plain_synthesis]
    assert (tmp_path / "synthesis_that_crashed.log").read_text() == yosys.message
    assert (tmp_path / "synthesis_that_crashed.ys").read_text() == FLOW.synthesis
    assert (tmp_path / "synthesis.log").read_text() == "End of script."


def test_where_the_design_is_wrong_the_plain_way_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yosys = Yosys("ERROR: Module `top' has no port `clk'.")
    monkeypatch.setattr(nextpnr, "run_yosys", yosys)
    machine = SerialMachine(AcceleratorConfig(), BOARD.divisor)
    with pytest.raises(FailedError, match="has no port"):
        FLOW.synthesize(BOARD, machine, tmp_path, BuildResult(), lambda stage: None)
    assert yosys.commands == [FLOW.synthesis]


def test_effort_then_seeds_are_tried(quick_flow: Callable[..., BuildResult]) -> None:
    result = quick_flow(BOARD, 20.0, 24.0, 22.0, 26.0)
    quick, thorough = map(str, FLOW.efforts)
    assert [(attempt.seed, attempt.effort) for attempt in result.attempts] == [
        (5, quick),
        (5, thorough),
        (6, thorough),
        (7, thorough),
    ]
    assert result.fmax_mhz == 26.0


@pytest.mark.parametrize(
    ("conflicts", "given_up"),
    [
        ([], False),
        ([9000, 4000, 2000, 900], False),
        ([9000, 2000] + [2000 + n for n in range(PATIENCE_MANY)], True),
        ([9000, 2000] + [2000 + n for n in range(PATIENCE_MANY - 2)] + [1999], False),
        ([9000, 100] + [MANY_CONFLICTS] * (PATIENCE_FEW - 1), False),
        ([9000, 100] + [100] * PATIENCE_FEW, True),
        ([9000, 0], False),
    ],
)
def test_a_design_whose_conflicts_do_not_fall_is_given_up(conflicts: list[int], given_up: bool) -> None:
    error = hopeless(conflicts)
    assert (error is not None) == given_up
    if error:
        assert f"{min(conflicts):,} or more stay in conflict after {len(conflicts)} iterations" in str(error)


def test_a_run_that_is_given_up_is_stopped(tmp_path: Path) -> None:
    line = "Info:     iter={} wires=123 overused=900 overuse=907 archfail=NA"
    script = f"for number in range(1, 10**7): print({line!r}.format(number), flush=True)"
    result = BuildResult()
    given_up = f"900 or more stay in conflict after {PATIENCE_MANY + 1} iterations"
    with pytest.raises(NotRoutedError, match=given_up):
        flow._run("nextpnr", [sys.executable, "-c", script], tmp_path, "log", result, RouterWatch())
    assert [stage.name for stage in result.stages] == ["nextpnr"]
    assert len((tmp_path / "log").read_text().splitlines()) < 10**6, "stopped, not at its end"


def test_after_a_run_that_is_given_up_comes_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.json").write_text(json.dumps({"modules": {NAME: {"cells": {}}}}))
    stages: list[str] = []
    runs = iter([NotRoutedError("900 stay", "none", "wait"), None])

    def tool(name: str, arguments: list[str], *rest: object) -> str:
        if error := next(runs):
            raise error
        (tmp_path / "place_and_route.json").write_text(json.dumps(report(30.0)))
        return ""

    monkeypatch.setattr(nextpnr, "run_tool", tool)
    result = BuildResult()
    FLOW.place_and_route(BOARD, tmp_path, 1, result, stages.append, 3)
    assert stages == [
        "place and route, seed 1",
        "not routed: 900 stay",
        "floor plan",
        "place and route, seed 1",
    ]
    assert [attempt.effort for attempt in result.attempts] == [str(FLOW.efforts[-1])]
    runs = iter([NotRoutedError("900 stay", "none", "wait")] * 2)
    with pytest.raises(NotRoutedError, match="900 stay"):
        FLOW.place_and_route(BOARD, tmp_path, 1, BuildResult(), stages.append, 2)


def test_fast_clocks_start_with_the_most_effort(quick_flow: Callable[..., BuildResult]) -> None:
    fast = dataclasses.replace(BOARD, clock_mhz=50.0)
    result = quick_flow(fast, 49.0, 51.0)
    assert [(attempt.seed, attempt.effort) for attempt in result.attempts] == [
        (5, str(FLOW.efforts[-1])),
        (6, str(FLOW.efforts[-1])),
    ]


def test_a_missed_clock_is_told_by_how_much(quick_flow: Callable[..., BuildResult]) -> None:
    fast = dataclasses.replace(BOARD, clock_mhz=50.0)
    with pytest.raises(FailedError) as caught:
        quick_flow(fast, 31.25, 30.0)
    text = str(caught.value)
    assert (
        "reaches 31.2 MHz on ulx3s-85f, 18.8 MHz short of its clock of 50 MHz, in the best of 2 runs" in text
    )
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
    nextpnr._check_fit(BOARD, fits, "")
    with pytest.raises(FailedError, match=message) as caught:
        nextpnr._check_fit(BOARD, fits | {resource: count}, "")
    assert caught.value.remedy.startswith("lower ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 40}, "at least 320 DSP, and ulx3s-85f has 156: 164 too many"),
        ({"weight_words": 1 << 17}, "at least 463 RAM, and ulx3s-85f has 208: 255 too many"),
    ],
)
def test_what_cannot_fit_is_known_before_any_work(changes: dict[str, int], message: str) -> None:
    config = AcceleratorConfig(rows=4, lanes=8, act_banks=4, act_words=512)
    board = dataclasses.replace(BOARD, array_blocks=None)
    FLOW.check_size(board, config)
    with pytest.raises(FailedError, match=message):
        FLOW.check_size(board, config.replace(**changes))


def test_rows_beyond_a_boards_blocks_take_none() -> None:
    config = AcceleratorConfig(rows=12, lanes=16)
    board = dataclasses.replace(BOARD, array_blocks=72)
    assert list(board.soft_rows(config)) == list(range(4, 12))
    assert nextpnr.least(config, board)["dsp"] == 64
    assert not dataclasses.replace(BOARD, array_blocks=None).soft_rows(config)


def test_counts_the_cells_of_a_netlist() -> None:
    kinds = ["LUT4"] * 5 + ["CCU2C"] * 2 + ["TRELLIS_DPR16X4", "TRELLIS_FF", "MULT18X18D", "DP16KD", "PFUMX"]
    cells = {f"cell{index}": {"type": kind} for index, kind in enumerate(kinds)}
    counts = FLOW.count_cells({"modules": {NAME: {"cells": cells}}})
    assert counts == {"lut": 5 + 2 * 2 + 6, "ff": 1, "dsp": 1, "ram": 1}


def test_a_tool_that_fails_shows_the_end_of_its_log(tmp_path: Path) -> None:
    result = BuildResult()
    with pytest.raises(FailedError, match=r"(?s)yosys ended with code 1; .*nonsense"):
        run_yosys(["nonsense"], tmp_path, "bad", result)
    assert "nonsense" in (tmp_path / "bad.log").read_text()
    assert [stage.name for stage in result.stages] == ["yosys"]


def test_a_missing_tool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no-such-tool is not installed; .* pip install some-package"):
        run_tool("no-such-tool", [], tmp_path, "log", BuildResult(), "some-package")


def test_a_small_design_becomes_a_bitstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # as if it were large
    monkeypatch.setattr(ecp5_resets, "LARGE_RESET", 50)
    stages: list[str] = []
    board = BOARD.at_clock(50.0)
    result = FLOW.build(board, cast(SerialMachine, Echo(board)), tmp_path, 1, stages.append)
    assert stages == ["elaborate", "synthesize", "floor plan", "place and route, seed 1", "pack"]
    assert [stage.name for stage in result.stages] == ["yosys", *["nextpnr-ecp5"] * 3, "ecppack"]
    assert result.fmax_mhz >= 50
    config = (tmp_path / "top.config").read_text()
    assert "EHXPLL" in config, "the PLL makes another clock than the oscillator's"
    lines = set(re.findall(r"arc: \S+ G_HPBX(\d\d)00", config))
    assert lines == {"00", "01"}, "of the clock network, for the clock and for the reset"
    report = json.loads((tmp_path / "place_and_route.json").read_text())
    ends = [path["path"][0]["from"]["cell"] for path in report["critical_paths"]]
    assert "reset_buffer_0" in ends, "nextpnr leaves it out"
    assert result.critical_path
    used = {name: usage.used for name, usage in result.resources.items()}
    assert used["lut"] > 100
    assert used["ff"] > 100
    assert used["dsp"] == 0
    assert all(
        usage.available == getattr(BOARD.resources, name) for name, usage in result.resources.items()
    ), "the board's figures are the tool's"
    bits = (tmp_path / "hwattn.bit").read_bytes()
    assert b"LFE5U-85F" in bits[:200]
