"""What the matrix unit and the whole machine take of an FPGA, synthesized by Yosys: multiplier blocks against multipliers.

Every row of ``bench/results/resources.json`` is one synthesis; rows that are not run again stay. Nothing is placed: look-up tables are
what Yosys counts, and it leaves the registers inside DSP48E2 unused, so that operands and products appear as flip-flops.
Modules are synthesized one by one, not flattened: all rows (or pairs of rows) are one module.
Of the DSP blocks of a matrix unit one is not a multiplier of a row: it finds an expert's weights. `seconds` are those of the clock on the wall.

    python bench/resources.py 128                                      # one size, both families
    python bench/resources.py 2752 --family xcup --style packed --part machine
    python bench/resources.py --table                                  # the results so far, in Markdown
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import ROWS

from hwattn.rtl.machine import Machine
from hwattn.rtl.matrix import Matrix
from hwattn.rtl.multipliers import MultiplierStyle
from hwattn.rtl.verilog import to_verilog
from hwattn.rtl.yosys import yosys_command
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.files import write_complete

RESULTS = Path(__file__).resolve().parent / "results" / "resources.json"

SIZES = {
    str(ROWS[name].config.multipliers): ROWS[name].config
    for name in (
        "deit-tiny, 128 multipliers",
        "deit-tiny, 528 multipliers",
        "m3vit-tiny, 2752 multipliers, 57 bytes per cycle",
    )
}
"""Configurations by their number of multipliers: those that ``bench/engine.py`` counts cycles of."""

PARTS = {
    "matrix": Matrix,
    "machine": lambda config, style: Machine(config, multiplier_style=style),
}


@dataclass(frozen=True)
class Family:
    """How Yosys synthesizes for a family, and how many of a resource each of its cells takes.

    `styles` are the multiplier styles that make sense: an operand of 27 bits takes two of ECP5's blocks.
    `ram` counts blocks of 18 kbit. `lut` counts look-up tables of the family's own size (ECP5: 4 inputs, UltraScale+: 6), those that
    serve as memory or as carry logic included.
    """

    synthesis: str
    styles: tuple[MultiplierStyle, ...]
    lut: dict[str, int]
    ff: dict[str, int]
    dsp: dict[str, int]
    ram: dict[str, int]


FAMILIES = {
    "ecp5": Family(
        "synth_ecp5 -noflatten -top top",
        (MultiplierStyle.SINGLE,),
        lut={"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6},
        ff={"TRELLIS_FF": 1},
        dsp={"MULT18X18D": 1},
        ram={"DP16KD": 1},
    ),
    "xcup": Family(
        "synth_xilinx -family xcup -noiopad -noclkbuf -top top",
        tuple(MultiplierStyle),
        lut={
            **{f"LUT{inputs}": 1 for inputs in range(1, 7)},
            **dict.fromkeys(("RAM32M16", "RAM64M8", "RAM64X8SW"), 8),
            **dict.fromkeys(("RAM32M", "RAM64M"), 4),
            **{"RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM256X1D": 8, "SRL16E": 1, "SRLC32E": 1},
        },
        ff=dict.fromkeys(("FDRE", "FDSE", "FDCE", "FDPE"), 1),
        dsp={"DSP48E2": 1},
        ram={"RAMB18E2": 1, "RAMB36E2": 2},
    ),
}

NO_COUNT = {"INV", "MUXF7", "MUXF8", "MUXF9", "CARRY4", "CARRY8", "PFUMX", "L6MUX21"}
"""Cells that stand beside look-up tables, or vanish in them."""


def main() -> int:
    """Synthesize what is asked for, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", choices=[*SIZES, []], metavar="SIZE", help=", ".join(SIZES))
    parser.add_argument("--family", choices=list(FAMILIES), action="append", help="default: all")
    parser.add_argument("--style", choices=[style.value for style in MultiplierStyle], action="append")
    parser.add_argument("--part", choices=list(PARTS), default="matrix", help="default: %(default)s")
    parser.add_argument("--table", action="store_true", help="print the results as a table in Markdown")
    args = parser.parse_args()
    for size in args.sizes:
        for family in args.family or FAMILIES:
            for style in args.style or FAMILIES[family].styles:
                row = synthesize(args.part, SIZES[size], family, MultiplierStyle(style))
                rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
                rows[f"{args.part}-{size}-{family}-{style}"] = row
                RESULTS.parent.mkdir(exist_ok=True)
                write_complete(RESULTS, (json.dumps(dict(sorted(rows.items())), indent=1) + "\n").encode())
                print(size, family, style, row["resources"], f"{row['seconds']:.0f} s", flush=True)
    if args.table:
        print(table(json.loads(RESULTS.read_text())))
    return 0


def synthesize(part: str, config: AcceleratorConfig, family: str, style: MultiplierStyle) -> dict[str, Any]:
    """Return the row of one synthesis."""
    target = FAMILIES[family]
    text = to_verilog(PARTS[part](config, style), "top")
    started = time.monotonic()
    # assertions are for simulation; synthesis would keep their logic
    script = f"read_verilog -formal top.v\nproc\nchformal -remove\ndelete t:$check t:$print\n{target.synthesis}\ntee -q -o stat.json stat -json\n"
    with tempfile.TemporaryDirectory(prefix="hwattn-resources-") as scratch:
        folder = Path(scratch)
        (folder / "top.v").write_text(text)
        (folder / "top.ys").write_text(script)
        subprocess.run(yosys_command("top.ys"), cwd=folder, check=True, stdout=subprocess.DEVNULL)
        found = json.loads((folder / "stat.json").read_text())
    cells = Counter(leaf_cells(found))
    counted = NO_COUNT.union(target.lut, target.ff, target.dsp, target.ram)
    if not counted.issuperset(cells):
        raise SystemExit(f"cells that no resource counts: {', '.join(sorted(set(cells) - counted))}")
    return {
        "part": part,
        "config": config.as_dict(),
        "family": family,
        "style": style.value,
        "multipliers": config.multipliers,
        "multiplier_blocks": style.blocks(config),
        "resources": {
            name: sum(each * cells[cell] for cell, each in getattr(target, name).items())
            for name in ("lut", "ff", "dsp", "ram")
        },
        "cells": dict(sorted(cells.items())),
        "verilog_lines": text.count("\n"),
        "seconds": round(time.monotonic() - started, 1),
        "yosys": found["creator"].partition(" (")[0],
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def leaf_cells(found: dict[str, Any]) -> dict[str, int]:
    """Return the cells of the whole hierarchy by type, without instances of modules."""
    modules = {name.removeprefix("\\") for name in found["modules"]}
    return {
        name: count
        for name, count in found["design"]["num_cells_by_type"].items()
        if name.removeprefix("\\") not in modules
    }


def table(rows: dict[str, Any]) -> str:
    """Return the results as a table in Markdown."""
    lines = [
        "| part | rows x lanes | family | style | multipliers | DSP | LUT | FF | RAM (18 kbit) | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(
        rows.values(), key=lambda row: (row["part"], row["multipliers"], row["family"], row["style"])
    ):
        counts = row["resources"]
        cells = [
            row["part"],
            f"{row['config']['rows']} x {row['config']['lanes']}",
            row["family"],
            row["style"],
            f"{row['multipliers']:,}",
            *(f"{counts[name]:,}" for name in ("dsp", "lut", "ff", "ram")),
            f"{row['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
