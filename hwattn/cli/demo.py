"""``make demo``: the bundled model from ONNX to a bitstream, with the commands that a user would type."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

from hwattn.cli.main import main

FOLDER = Path("build") / "demo"

STEPS: tuple[tuple[str, str], ...] = (
    ("what this machine has", "check"),
    ("every ONNX node becomes part of a graph, or is refused", "import digits"),
    (
        "integers: int8 weights and activations, calibrated on images",
        f"quantize digits -o {FOLDER}/digits.hwq",
    ),
    ("float against integers on all held-out images", f"eval {FOLDER}/digits.hwq"),
    (
        "RTL against integers: the memory after every instruction, then all queues overlapping",
        f"sim {FOLDER}/digits.hwq --images 8",
    ),
    (
        "the board's system: the host's driver over simulated UART pins",
        f"sim {FOLDER}/digits.hwq --images 2 --uart",
    ),
    (
        "the bitstream, by open tools",
        f"build {FOLDER}/digits.hwq --board ulx3s-85f -o {FOLDER}/ulx3s-85f --force",
    ),
)
"""What each step shows, and the command."""


def demo() -> int:
    """Run every step; stop at the first that fails.

    Returns
    -------
    int
        Exit code of the last step.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    for number, (text, command) in enumerate(STEPS, 1):
        print(f"\n[{number}/{len(STEPS)}] {text}\n$ hwattn {command}", flush=True)
        started = time.monotonic()
        code = main(shlex.split(command))
        print(f"({time.monotonic() - started:.0f} s)", flush=True)
        if code:
            print(f"The demo stops here: hwattn {command} ended with code {code}.", file=sys.stderr)
            return code
    print(
        f"\nDone in {time.monotonic() - begun:.0f} s. The bitstream and all that belongs to it: {FOLDER}/ulx3s-85f"
    )
    return 0


if __name__ == "__main__":
    sys.exit(demo())
