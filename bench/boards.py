"""``make boards``: places and routes each board's machine for real, and writes down what came of it.

Boards whose flow is Vivado get the estimate of Yosys instead, and no clock. Every row of ``bench/results/boards.json`` is one run of
``hwattn build``; rows that are not made again stay. The table of ``docs/boards.md`` is made from that file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "boards.json"
PAGE = ROOT / "docs" / "boards.md"
BEGIN, END = "<!-- table of make boards: begin -->", "<!-- table of make boards: end -->"

RUNS: dict[str, list[str]] = {
    "tang-nano-20k": ["--empty", "--board", "tang-nano-20k"],
    "tang-primer-20k": ["--empty", "--board", "tang-primer-20k"],
    "colorlight-i5": ["--empty", "--board", "colorlight-i5"],
    "ulx3s-25f": ["--empty", "--board", "ulx3s-25f"],
    "orangecrab-25f": ["--empty", "--board", "orangecrab-25f"],
    "ulx3s-45f": ["digits", "--board", "ulx3s-45f"],
    "colorlight-i9": ["digits", "--board", "colorlight-i9"],
    "ecpix5-45f": ["digits", "--board", "ecpix5-45f"],
    "ulx3s-85f": ["digits", "--board", "ulx3s-85f"],
    "ulx3s-85f, 128 multipliers": [
        *("digits", "--board", "ulx3s-85f", "--config", "digits-128", "--clock", "50"),
    ],
    "ulx3s-85f, DeiT-Tiny": ["deit-tiny", "--board", "ulx3s-85f", "--config", "deit-tiny-sdram"],
    "orangecrab-85f": ["digits", "--board", "orangecrab-85f"],
    "ecpix5-85f": ["digits", "--board", "ecpix5-85f"],
    "pynq-z2": ["digits", "--board", "pynq-z2"],
    "arty-a7-100t": ["digits", "--board", "arty-a7-100t"],
    "kv260": ["digits", "--board", "kv260"],
    "zcu104": ["digits", "--board", "zcu104"],
    "zcu102": ["digits", "--board", "zcu102"],
}
"""Rows: boards of the open flows, the smallest first, then those of Vivado's; and the arguments of ``hwattn build``."""


def main() -> int:
    """Make the rows that are asked for, one after the other; return 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"default: {'; '.join(RUNS)}")
    parser.add_argument("--table", action="store_true", help="only write the table again")
    parser.add_argument("--option", action="append", default=[], help="a further argument of hwattn build")
    args = parser.parse_args()
    failed = 0
    for name in [] if args.table else args.rows or RUNS:
        row = run([*RUNS[name], *args.option])
        RESULTS.parent.mkdir(exist_ok=True)
        rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        rows[name] = row
        RESULTS.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
        failed |= "error" in row
        print(name, row["error"] if "error" in row else reached(row), flush=True)
    write_table()
    return failed


def run(arguments: list[str]) -> dict[str, Any]:
    """Build in a scratch folder; return the row: the report's figures, or the error."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hwattn-boards-") as scratch:
        command = ["build", *arguments, "-o", f"{scratch}/out", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "hwattn.cli.main", *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    seconds = time.monotonic() - started
    report = json.loads(done.stdout) if done.stdout.strip() else {}
    row: dict[str, Any] = {"command": " ".join(["hwattn build", *arguments]), **state()}
    if done.returncode:
        return row | {"error": report.get("error", {}).get("found", f"ended with code {done.returncode}")}
    names = [
        "model",
        "config",
        "multipliers",
        "resources",
        "fmax_mhz",
        "clock_mhz",
        "timing_note",
        "attempts",
        "critical_path",
        "cycles",
        "latency_ms",
        "stages",
    ]
    return row | {name: report[name] for name in names} | {"seconds": seconds}


def state() -> dict[str, str]:
    """Return today's date and the commit that lies here."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return {"date": datetime.now(UTC).date().isoformat(), "commit": commit.stdout.strip()}


def reached(row: dict[str, Any]) -> str:
    """Return a row's clock as the table shows it; an estimate has none."""
    if row["fmax_mhz"] is None:
        return "unproven (estimate of Yosys)"
    return f"{row['fmax_mhz']:.1f} MHz{' *' if row['timing_note'] else ''}"


def write_table() -> None:
    """Put the table into the page."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


def table() -> str:
    """Return the table in Markdown."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not rows:
        return "No row yet: run `make boards`."
    lines = [
        "| board | holds | multipliers | LUT | FF | DSP | RAM | clock wanted | reached | latency | build | memory | of |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        made = f"{row['date']}, {row['commit']}"
        if "error" in row:
            lines.append(f"| {name} | {row['command']}: {row['error']} | | | | | | | | | | | {made} |")
            continue
        shares = [
            f"{entry['used']:,} ({entry['used'] / entry['available']:.0%})"
            for entry in row["resources"].values()
        ]
        latency = f"{row['latency_ms']:.3f} ms" if row["latency_ms"] else ""
        memory = max(stage["memory_mib"] for stage in row["stages"])
        cells = [
            name,
            row["model"] or "nothing yet",
            row["multipliers"],
            *shares,
            f"{row['clock_mhz']:g} MHz",
            reached(row),
            latency,
            f"{row['seconds']:.0f} s",
            f"{memory:.0f} MiB",
            made,
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
