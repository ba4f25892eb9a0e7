"""What Yosys makes of a design for AMD's families: an estimate of resources, without place and route."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from hwattn.boards.board import Board
from hwattn.boards.flow import BuildResult, Progress, Usage, run_yosys

NETLIST = "estimate.json"

_LUTS = {"RAM32M16": 8, "RAM64M8": 8, "RAM32M": 4, "RAM64M": 4, "RAM128X1D": 4, "RAM64X1D": 2, "RAM32X1D": 2}
_RAMS = {"RAMB18E1": 1, "RAMB18E2": 1, "RAMB36E1": 2, "RAMB36E2": 2}


def estimate(board: Board, folder: Path, core: str, result: BuildResult, progress: Progress) -> None:
    """Synthesize the Verilog file `core` in `folder` with Yosys, and fill in the resources of `result`.

    Block RAM is counted in blocks of 18 kbit. Look-up tables of distributed RAM and of shift registers are among the look-up tables.
    """
    progress("estimate of resources")
    family = "xcup" if re.match(r"xc(zu|k)", board.device) else "xc7"
    # assertions are for simulation; synthesis would keep their logic
    script = [
        f"read_verilog -formal {core}",
        "chformal -remove",
        "delete t:$check t:$print",
        f"synth_xilinx -family {family} -flatten -noiopad -noclkbuf -top hwattn",
        f"write_json {NETLIST}",
    ]
    run_yosys(script, folder, "estimate", result)
    netlist = folder / NETLIST
    counts = count_cells(json.loads(netlist.read_text()))
    netlist.unlink()
    have = dataclasses.asdict(board.resources)
    result.resources = {name: Usage(used, have[name]) for name, used in counts.items()}


def count_cells(netlist: dict[str, Any]) -> dict[str, int]:
    """Count resources in Yosys's netlist."""
    cells = Counter(cell["type"] for cell in netlist["modules"]["hwattn"]["cells"].values())
    counts = dict.fromkeys(("lut", "ff", "dsp", "ram"), 0)
    for kind, count in cells.items():
        if re.fullmatch(r"LUT[1-6]|SRL16E|SRLC32E", kind):
            counts["lut"] += count
        elif re.fullmatch(r"FD[RSCP]E", kind):
            counts["ff"] += count
        elif kind.startswith("DSP48"):
            counts["dsp"] += count
        counts["lut"] += count * _LUTS.get(kind, 0)
        counts["ram"] += count * _RAMS.get(kind, 0)
    return counts
