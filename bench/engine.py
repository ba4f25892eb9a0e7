"""The engine's figures: cycles and utilization of whole networks in RTL, and the speed of the integer model and of simulation.

``python bench/engine.py`` runs every row and writes ``bench/results/engine.json`` (an hour or two on 2 cores; the workloads must have
been built, ``make workloads``); names of rows run only those. ``--check`` compares cycles with those on file, within `TOLERANCE`, and
writes nothing. ``--models`` leaves out simulation. ``--table`` prints the rows on file as Markdown.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwattn.cli.models import resolve_model
from hwattn.cli.sim import utilization
from hwattn.compiler import compile_model
from hwattn.sim.cosim.session import simulate
from hwattn.sim.model.executor import Executor
from hwattn.sim.perf.machine import Machine
from hwattn.sim.perf.routing import queue_lengths
from hwattn.spec.config import AcceleratorConfig, load_preset, preset_memory
from hwattn.spec.external import ExternalMemory
from hwattn.spec.program import Program
from hwattn.spec.registers import Register

RESULTS = Path(__file__).resolve().parent / "results" / "engine.json"

TOLERANCE = 0.01
"""Largest relative change of a row's cycles that ``--check`` lets pass."""


@dataclass(frozen=True)
class Row:
    """A workload on a machine: a preset, what is changed in it, and external memory other than the preset's."""

    workload: str
    preset: str
    changes: dict[str, int] = field(default_factory=dict)
    memory: ExternalMemory | None = None

    @property
    def config(self) -> AcceleratorConfig:
        """Of the machine."""
        return load_preset(self.preset).replace(**self.changes)


ROWS = {
    "digits, 16 multipliers, on chip": Row("digits", "small"),
    "digits, 32 multipliers, on chip": Row("digits", "digits"),
    "deit-tiny, 128 multipliers": Row(
        "deit-tiny", "deit-tiny", {"rows": 8, "post_lanes": 2, "softmax_lanes": 4}
    ),
    "deit-tiny, 320 multipliers": Row("deit-tiny", "deit-tiny"),
    "deit-tiny, 528 multipliers": Row(
        "deit-tiny", "deit-tiny", {"rows": 33, "post_lanes": 9, "softmax_lanes": 17}
    ),
    "deit-small, 320 multipliers": Row("deit-small", "deit-small"),
    "m3vit-tiny, 2752 multipliers, 57 bytes per cycle": Row("m3vit-tiny", "m3vit-tiny"),
    "m3vit-tiny, 2752 multipliers, 45 bytes per cycle": Row(
        "m3vit-tiny", "m3vit-tiny", memory=ExternalMemory(latency=64, beats=45, cycles=64)
    ),
    "m3vit-tiny-skewed, 2752 multipliers, 57 bytes per cycle": Row("m3vit-tiny-skewed", "m3vit-tiny"),
}


@dataclass(frozen=True)
class Subject:
    """A row's program, external memory, and image 0 of its workload, float32 (1, channels, height, width)."""

    program: Program
    memory: ExternalMemory
    image: NDArray[np.float32]

    @property
    def tasks(self) -> list[int]:
        """Of the program."""
        return list(range(len(self.program.entries)))

    def by_name(self, values: Sequence[Any]) -> dict[str, Any]:
        """Give each task's value the task's name."""
        return dict(zip(self.program.task_names, values, strict=True))


def subject(row: Row) -> Subject:
    """Quantize and compile a row's workload."""
    resolved = resolve_model(row.workload)
    assert resolved.workload is not None
    images = resolved.workload.test_set()[resolved.model.image][:1].astype(np.float32)
    program = compile_model(resolved.model, row.config)
    return Subject(program, row.memory or preset_memory(row.preset), images)


def models(of: Subject) -> dict[str, Any]:
    """Run what needs no simulation: the integer model, whose time counts without the first run, and the cycle model."""
    executor = Executor(of.program)
    executor.run(of.image, 0)
    started = time.monotonic()
    for task in of.tasks:
        executor.run(of.image, task)
    seconds = (time.monotonic() - started) / len(of.tasks)
    lengths = [queue_lengths(of.program, task, of.image[0]) for task in of.tasks]
    predictions = [Machine(of.program, task, of.memory, lengths[task]) for task in of.tasks]
    for prediction in predictions:
        prediction.free()
    return {
        "queue_lengths": of.by_name(lengths),
        "model_seconds_per_image": round(seconds, 3),
        "predicted_cycles": of.by_name([prediction.cycles for prediction in predictions]),
    }


def measure(of: Subject) -> dict[str, Any]:
    """Run in RTL, free."""
    program, memory, config = of.program, of.memory, of.program.config
    started = time.monotonic()
    result = simulate(program, of.image, of.tasks, stepped=0, memory=memory)
    findings = result.findings
    runs = findings.runs
    return {
        "config": config.as_dict(),
        "memory": f"latency={memory.latency},beats={memory.beats},cycles={memory.cycles}",
        "bytes_per_cycle": memory.bytes_per_cycle(config.lanes) if config.external_words else 0,
        "multipliers": config.multipliers,
        "bit_exact": result.bit_exact,
        "macs": of.by_name(program.macs),
        "cycles": of.by_name([run.cycles for run in runs]),
        "utilization": of.by_name([round(utilization(program, [run]), 4) for run in runs]),
        "matrix_active": of.by_name(
            [round(run.counters[Register.MATRIX_ACTIVE] / run.cycles, 4) for run in runs]
        ),
        "bytes_external": of.by_name(
            [
                config.lanes * (run.counters[Register.READ_BEATS] + run.counters[Register.WRITE_BEATS])
                for run in runs
            ]
        ),
        "simulated_cycles_per_second": round(findings.simulated_cycles / findings.seconds),
        "seconds_with_build": round(time.monotonic() - started),
    }


def differences(name: str, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say what changed by more than the tolerance."""
    found = [] if now["bit_exact"] else [f"{name}: not bit-exact"]
    for task, cycles in now["cycles"].items():
        known = before["cycles"][task]
        if abs(cycles / known - 1) > TOLERANCE:
            found.append(f"{name}, {task}: {cycles:,} cycles, {known:,} on file")
    return found


def machine() -> str:
    """Name the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else platform.processor()


def table(rows: dict[str, Any]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| workload, machine | task | cycles | cycle model | utilization | multipliers at work | bytes from memory | cycles simulated per second | "
        "integer model, s per image |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        for task, cycles in row["cycles"].items():
            lines.append(
                f"| {name} | {task} | {cycles:,} | {row['predicted_cycles'][task] / cycles - 1:+.2%} | {row['utilization'][task]:.1%} | "
                f"{row['matrix_active'][task]:.1%} | {row['bytes_external'][task]:,} | {row['simulated_cycles_per_second']:,} | "
                f"{row['model_seconds_per_image']:.2f} |"
            )
    return "\n".join(lines)


def main() -> int:
    """Run the rows that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "rows", nargs="*", help=f"names of rows, or parts of them; all by default: {', '.join(ROWS)}"
    )
    parser.add_argument("--check", action="store_true", help="compare with the figures on file")
    parser.add_argument(
        "--models", action="store_true", help="run only the models again, for the rows on file"
    )
    parser.add_argument("--table", action="store_true", help="print the figures on file")
    args = parser.parse_args()
    kept: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"rows": {}}
    if args.table:
        print(table(kept["rows"]))
        return 0
    wanted = [name for name in ROWS if not args.rows or any(part in name for part in args.rows)]
    if args.models:
        wanted = [name for name in wanted if name in kept["rows"]]
    changed: list[str] = []
    for name in wanted:
        print(name, "...", flush=True)
        of = subject(ROWS[name])
        found = kept["rows"][name] if args.models else {"workload": ROWS[name].workload, **measure(of)}
        found |= models(of)
        shown = {key: value for key, value in found.items() if key not in ("config", "queue_lengths")}
        print(json.dumps(shown), flush=True)
        if args.check:
            changed += differences(name, kept["rows"][name], found) if name in kept["rows"] else []
            continue
        if not args.models:
            found |= {"date": datetime.date.today().isoformat(), "machine": machine()}
        rows = {**kept["rows"], name: found}
        kept = {"tolerance": TOLERANCE, "rows": {each: rows[each] for each in ROWS if each in rows}}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    print("\n".join(changed))
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
