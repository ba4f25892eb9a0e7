"""``make demo``: the bundled model from ONNX to a bitstream, with the commands that a user would type."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from hwattn.cli.main import main

FOLDER = Path("build") / "demo"

NICENESS = 10
"""Of the steps beside the bitstream."""


@dataclass(frozen=True)
class Step:
    """A command, what it shows, and whether it runs beside the steps after it, to be waited for at the end."""

    text: str
    command: str
    beside: bool = False


STEPS: tuple[Step, ...] = (
    Step("what this machine has", "check"),
    Step("every ONNX node becomes part of a graph, or is refused", "import digits"),
    Step(
        "integers: int8 weights and activations, calibrated on images",
        f"quantize digits -o {FOLDER}/digits.hwq",
    ),
    Step(
        "the bitstream, by open tools",
        f"build {FOLDER}/digits.hwq --board ulx3s-85f -o {FOLDER}/ulx3s-85f --config small --force",
        beside=True,
    ),
    Step("float against integers on all held-out images", f"eval {FOLDER}/digits.hwq --config small"),
    Step(
        "RTL against integers: 8 images of each task running free, one of them stepped first, memory compared after every instruction",
        f"sim {FOLDER}/digits.hwq --config small --images 8 --stepped 1",
    ),
    Step(
        "the board's system: the host's driver over simulated UART pins",
        f"sim {FOLDER}/digits.hwq --config small --images 2 --uart",
    ),
)


def demo() -> int:
    """Run every step; stop at the first that fails.

    Returns
    -------
    int
        Exit code of the step that failed, or 0.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    waiting: list[tuple[Step, subprocess.Popen[str], Path]] = []
    try:
        for number, step in enumerate(STEPS, 1):
            print(f"\n[{number}/{len(STEPS)}] {step.text}\n$ hwattn {step.command}", flush=True)
            if step.beside:
                print("(runs beside the next steps; its output comes at the end)", flush=True)
                waiting.append((step, *_start(step.command)))
                # synthesis, then place and route, take longest and use one core: the steps beside them give way
                os.nice(NICENESS)
                continue
            started = time.monotonic()
            code = main(shlex.split(step.command))
            print(f"({time.monotonic() - started:.0f} s)", flush=True)
            if code:
                return _failed(step, code)
        for step, process, written in waiting:
            code = process.wait()
            print(f"\n$ hwattn {step.command}\n{written.read_text()}", flush=True)
            if code:
                return _failed(step, code)
    finally:
        for _, process, _ in waiting:
            process.kill()
    print(
        f"Done in {time.monotonic() - begun:.0f} s. The bitstream and all that belongs to it: {FOLDER}/ulx3s-85f"
    )
    return 0


def _start(command: str) -> tuple[subprocess.Popen[str], Path]:
    """Start a command; what it prints goes to a file, for later."""
    words = shlex.split(command)
    written = FOLDER / f"{words[0]}.log"
    with written.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "hwattn.cli.main", *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
        )
    return process, written


def _failed(step: Step, code: int) -> int:
    print(f"The demo stops here: hwattn {step.command} ended with code {code}.", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(demo())
