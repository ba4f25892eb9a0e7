"""What a build reports: one document, as JSON, as a page of HTML and in the terminal."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from hwattn.boards.board import Board
from hwattn.boards.flow import BuildResult
from hwattn.cli.build_html import page
from hwattn.cli.output import Output, table
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.program import Program

JSON_REPORT = "report.json"
HTML_REPORT = "report.html"

COUNTED = "counted in the simulated RTL"
PREDICTED = "predicted by the cycle model with the board's memory"
"""Where the cycles of a report come from."""


def make_report(
    args: argparse.Namespace,
    board: Board,
    config: AcceleratorConfig,
    program: Program | None,
    built: BuildResult,
    cycles: dict[str, float] | None,
) -> dict[str, Any]:
    """Return the document of a build, without its list of files."""
    latency = {name: count / board.clock_mhz / 1000 for name, count in (cycles or {}).items()}
    available = dataclasses.asdict(board.resources)
    memory = board.external_memory(config)
    resources = {
        name: dataclasses.asdict(built.resources[name])
        if name in built.resources
        else {"used": 0, "available": count}
        for name, count in available.items()
    }
    return {
        "board": board.name,
        "stage": args.stage,
        "model": program.name if program else None,
        "config": config.as_dict(),
        "config_hash": f"{config.hash:08x}",
        "program_hash": f"{program.hash:08x}" if program else None,
        "multipliers": config.multipliers,
        "resources": resources,
        "fmax_mhz": built.fmax_mhz or None,
        "clock_mhz": board.clock_mhz,
        "critical_path": built.critical_path,
        "cycles": cycles,
        "latency_ms": max(latency.values()) if latency else None,
        "latency_ms_by_task": latency,
        "latency_source": f"cycles {PREDICTED if memory else COUNTED}, at clock_mhz" if latency else None,
        "external_memory": dataclasses.asdict(memory) if memory else None,
        "frames_per_second": 1000 / max(latency.values()) if latency else None,
        "seed": built.attempts[-1].seed if built.attempts else args.seed,
        "attempts": [dataclasses.asdict(attempt) for attempt in built.attempts],
        "timing_note": built.timing_note,
        "stages": [dataclasses.asdict(stage) for stage in built.stages],
    }


def print_report(report: dict[str, Any], target: Path, out: Output) -> None:
    """Show a report."""
    if any(entry["used"] for entry in report["resources"].values()):
        rows = [
            (name.upper(), entry["used"], entry["available"], f"{entry['used'] / entry['available']:.0%}")
            for name, entry in report["resources"].items()
        ]
        out.print(
            table(["resource", "used", "available", "share"], rows, right=["used", "available", "share"])
        )
    if report["fmax_mhz"]:
        out.print(f"Fmax {report['fmax_mhz']:.1f} MHz; it will run at {report['clock_mhz']:g} MHz.")
    if report["timing_note"]:
        out.print(f"Note: {report['timing_note']}.")
    source = PREDICTED if report["external_memory"] else COUNTED
    for name, latency in report["latency_ms_by_task"].items():
        cycles = report["cycles"][name]
        out.print(f"Expected latency, task {name}: {latency:.3f} ms ({cycles:,.0f} cycles, {source}).")
    out.print(f"{target}: {', '.join(report['files'])}")


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write the report into a folder as JSON and HTML, with the list of all its files."""
    names = {entry.name for entry in folder.iterdir()}
    report["files"] = sorted({*names, JSON_REPORT, HTML_REPORT})
    (folder / JSON_REPORT).write_text(json.dumps(report, indent=1) + "\n")
    (folder / HTML_REPORT).write_text(page(report))
