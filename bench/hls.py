"""The figures of ``docs/hls.md``: C simulation of 64 images per task, a sweep of every unit over random machines, and lines of C++.

Writes ``bench/results/hls.json``. Run from the checkout's root: ``python bench/hls.py`` (a quarter of an hour of processor time, most of it
the compiler's).
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "hls.json"
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "hls"), str(ROOT / "tests" / "sim" / "model")]

from draw import Draw  # noqa: E402
from mirror import KINDS, Drawn, compare  # noqa: E402

from hwattn.hls.csim import CMachine  # noqa: E402
from hwattn.spec.config import AcceleratorConfig  # noqa: E402

IMAGES = 64
SEED = 2026


def random_config(random: np.random.Generator) -> AcceleratorConfig:
    """Draw a small machine with every parameter that shapes its units: odd rows, lanes of 4 to 32, uneven lanes of the units."""
    rows, lanes = int(random.integers(1, 10)), int(2 ** random.integers(2, 6))
    return AcceleratorConfig(
        rows=rows,
        lanes=lanes,
        post_lanes=int(random.integers(1, rows + 1)),
        softmax_lanes=int(random.integers(1, rows + 1)),
        norm_lanes=int(2 ** random.integers(0, lanes.bit_length())),
        act_banks=int(2 ** random.integers(0, 3)),
        act_words=1024,
        weight_words=200,
        acc_columns=int(2 ** random.integers(5, 7)),
        row_words=int(random.integers(3, 8)),
        row_slots=int(random.integers(2, 6)),
        experts=int(random.integers(2, 12)),
        tokens=int(random.integers(10, 40)),
        param_words=128,
        norm_words=64,
    )


def sweep(machines: int, examples: int) -> dict[str, Any]:
    """Compare every instruction on `machines` random machines, `examples` random states and shapes of each; all must be equal."""
    random = np.random.default_rng(SEED)
    cases, seconds = dict.fromkeys(KINDS, 0), 0.0
    configs = []
    for index in range(machines):
        config = random_config(random)
        configs.append(config.as_dict())
        machine = CMachine(config)
        started = time.process_time()
        for kind in KINDS:
            sweep_kind(machine, kind, examples, lambda kind=kind: cases.update({kind: cases[kind] + 1}))
        seconds += time.process_time() - started
        print(f"machine {index + 1} of {machines}: {sum(cases.values())} cases equal", flush=True)
    return {
        "machines": configs,
        "cases": cases,
        "cases_in_all": sum(cases.values()),
        "different": 0,
        "seconds": seconds,
    }


def sweep_kind(machine: CMachine, kind: str, examples: int, count: Callable[[], None]) -> None:
    """Let Hypothesis draw instructions of one kind; a difference raises, with the smallest instruction that shows it."""

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data(), st.integers(0, 2**32 - 1))
    def check(data: Any, seed: int) -> None:
        compare(machine, kind, Draw(machine.config, Drawn(data)), seed)
        count()

    check()


def csim() -> dict[str, Any]:
    """``hwattn hls digits`` with 64 images, then ``make csim``: what the testbenches say."""
    with tempfile.TemporaryDirectory(prefix="hwattn-hls-") as scratch:
        verb = ["hls", "digits", "-o", f"{scratch}/out", "--images", str(IMAGES), "--csim", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "hwattn.cli.main", *verb],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return dict(json.loads(done.stdout)["csim"])


def lines() -> dict[str, int]:
    """Lines of C++ that are neither empty nor only a comment."""
    counts = {}
    for name, pattern in (
        ("library", "include/*.hpp"),
        ("tops and testbenches", "top/*pp"),
        ("C interfaces", "capi/*.cpp"),
    ):
        texts = [path.read_text() for path in (ROOT / "hls").glob(pattern)]
        counts[name] = sum(
            1
            for text in texts
            for line in text.splitlines()
            if line.strip() and not line.strip().startswith("//")
        )
    return counts


def main() -> int:
    """Take what is asked for; other entries of the file stay."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="csim, sweep, lines (default: all)")
    parser.add_argument("--machines", type=int, default=20)
    parser.add_argument("--examples", type=int, default=50, help="of each instruction on each machine")
    args = parser.parse_args()
    parts: dict[str, Callable[[], Any]] = {
        "lines": lines,
        "csim": csim,
        "sweep": lambda: sweep(args.machines, args.examples),
    }
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in args.parts or parts:
        found[name] = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": f"{processor()}, {os.cpu_count()} processors",
            "result": parts[name](),
        }
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def processor() -> str:
    """Name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip()
        for line in cpuinfo.read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
