"""Build the workloads that are not bundled, into the user's cache folder.

Run as ``python -m hwattn.models.build [NAME ...]``, or ``make workloads`` for all. Seeded: on one machine and one version of
torch it gives the same files again. Only this needs torch; the workloads are then known to every verb by name.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

from hwattn.models.catalogue import BUILT_WORKLOADS, BuiltWorkload
from hwattn.models.photographs import LICENCE, SOURCE, photographs
from hwattn.spec.cache import made_once
from hwattn.spec.errors import RefusedError

_NEEDED = ("torch", "onnxscript", "sklearn", "PIL")


def build(workload: BuiltWorkload) -> Path:
    """Return the folder of a workload, building it first if it is not there.

    Raises
    ------
    RefusedError
        What building needs is not installed.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing and not workload.folder.is_dir():
        raise RefusedError(
            f"no {' and no '.join(missing)} to build {workload.name} with",
            "torch, onnxscript and scikit-learn",
            "run `make workloads`, or install them: pip install 'hwattn[train]'",
        )
    return made_once(workload.folder, lambda scratch: write_workload(workload, scratch))


def write_workload(workload: BuiltWorkload, folder: Path) -> None:
    """Write ``model.onnx``, ``data.npz`` and ``workload.toml`` into an empty folder."""
    import torch

    from hwattn.models.networks.export import export_onnx
    from hwattn.models.networks.vit import make_network
    from hwattn.models.networks.weights import draw_weights

    size, seed = workload.network.image_size, workload.seed
    calibration = photographs(workload.calibration_images, size, seed, held_out=False)
    test = photographs(workload.test_images, size, seed, held_out=True)
    network = make_network(workload.network).eval()
    draw_weights(network, torch.from_numpy(calibration), seed, workload.even_routing)
    export_onnx(network, folder / "model.onnx")
    np.savez_compressed(folder / "data.npz", calib_image=calibration, test_image=test)
    (folder / "workload.toml").write_text(description(workload), encoding="utf-8")


def description(workload: BuiltWorkload) -> str:
    """The text of its ``workload.toml``."""
    lines = [
        f"config = {json.dumps(workload.config)}",
        "",
        "[simulation]",
        "images = 1",
        "",
        "[data]",
        f"source = {json.dumps(SOURCE)}",
        f"licence = {json.dumps(LICENCE)}",
    ]
    for head, text in zip(workload.network.heads, workload.descriptions, strict=True):
        lines += [
            "",
            "[[tasks]]",
            f"name = {json.dumps(head.name)}",
            f"description = {json.dumps(text)}",
            'metric = "agreement"',
            f"classes = {json.dumps([str(index) for index in range(head.classes)])}",
            "float_metric = 1.0",
        ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Build what is named, or everything; print where it is."""
    parser = argparse.ArgumentParser(description="Build the workloads that are not bundled.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BUILT_WORKLOADS)}; default: all"
    )
    names = parser.parse_args().names or list(BUILT_WORKLOADS)
    unknown = [name for name in names if name not in BUILT_WORKLOADS]
    try:
        if unknown:
            raise RefusedError(
                f"no workload {' and no '.join(unknown)} to build",
                f"names of {', '.join(BUILT_WORKLOADS)}",
                "correct the name",
            )
        for name in names:
            print(f"{name}: {build(BUILT_WORKLOADS[name])}", flush=True)
    except RefusedError as error:
        print(f"hwattn.models.build: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
