"""Table: error of hwattn's integers, of each switch and calibrator, and of onnxruntime's static int8 on the same data.

    PYTHONPATH=. python bench/quantization.py [NAME ...]

Models: the bundled `digits` (trained, its own calibration and test images) and small seeded models of tests/quant. The
error is noise over signal of the outputs against the float ONNX under onnxruntime, in dB: lower is better. Calibration and
test data are disjoint. onnxruntime: ``quantize_static``, QDQ, per channel, int8, MinMax, run without fused int8 products, which saturate
on processors without VNNI.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from hwattn.models import find_workload
from hwattn.quant.host import HostRunner
from hwattn.quant.importer import graph_of
from hwattn.quant.quantizer import quantize
from hwattn.quant.settings import CALIBRATORS, DEFAULTS, Settings
from hwattn.quant.simulate import simulate
from hwattn.spec.graph import Graph

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "quant"))

Arrays = dict[str, NDArray[Any]]

SETTINGS = {
    "hwattn": DEFAULTS,
    "no scale migration": Settings(migration=False),
    "no bias correction": Settings(bias_correction=False),
    "weights to the nearest": Settings(spread_rounding=False),
    "one scale for all heads": Settings(per_head=False),
    "none of these": Settings("min-max", 99.99, False, False, False, False),
    **{f"calibrator {name}": Settings(name) for name in CALIBRATORS[1:]},
}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Image after image, for every task."""

    def __init__(self, arrays: Arrays, task: str | None, tasks: int) -> None:
        self.feeds = self._all(arrays, task, tasks)

    def _all(self, arrays: Arrays, task: str | None, tasks: int) -> Iterator[Arrays]:
        for index in range(tasks):
            for start in range(0, len(next(iter(arrays.values()))), 8):
                feed = {name: array[start : start + 8] for name, array in arrays.items()}
                yield feed if task is None else {**feed, task: np.array(index)}

    def get_next(self) -> Arrays | None:
        """Return the next feed."""
        return next(self.feeds, None)


def run(path: Path, graph: Graph, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Outputs of an ONNX file, of each task its own."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # the file's own arithmetic: fused int8 products saturate in 16 bits on processors without VNNI
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found: dict[str, NDArray[Any]] = {}
    for task in range(graph.tasks):
        feeds = arrays if graph.task_input is None else {**arrays, graph.task_input: np.array(task)}
        made = dict(zip(names, session.run(names, feeds), strict=True))
        own = names if graph.task_input is None else [names[task]]
        found.update({name: made[name] for name in own})
    return found


def integers(graph: Graph, calibration: Arrays, test: Arrays, settings: Settings) -> dict[str, NDArray[Any]]:
    """Outputs of the quantized model."""
    model = quantize(graph, HostRunner(graph).images(calibration), "m", settings=settings).model
    runner = HostRunner(model)
    images, given = runner.images(test), {}
    for task in range(model.tasks):
        tensors = simulate(model, images, task).tensors
        given.update(
            {o.name: tensors[o.tensor].reshape(-1, *o.shape) for o in model.outputs if o.task in (None, task)}
        )
    return runner.outputs(given, test)


def error(exact: dict[str, NDArray[Any]], found: dict[str, NDArray[Any]]) -> str:
    """Noise over signal of each float output, dB."""
    rows = []
    for name, wanted in exact.items():
        if wanted.dtype.kind == "f":
            noise = np.square(found[name] - wanted, dtype=np.float64).sum()
            signal = np.square(wanted, dtype=np.float64).sum()
            rows.append(f"{name} {10 * np.log10(noise / signal):6.1f}")
    return ", ".join(rows)


def table(title: str, path: Path, calibration: Arrays, test: Arrays, folder: Path) -> None:
    """Print the rows of one model."""
    graph = graph_of(path)
    exact = run(path, graph, test)
    print(title)
    reader = Reader(calibration, graph.task_input, graph.tasks)
    static = folder / "static.onnx"
    try:
        quantize_static(
            str(path),
            str(static),
            reader,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )
        print(f"  {'onnxruntime static int8':26}{error(exact, run(static, graph, test))}", flush=True)
    except Exception as problem:  # onnxruntime's errors share no base class
        print(f"  {'onnxruntime static int8':26}fails: {' '.join(str(problem).split())[:120]}")
    for name, settings in SETTINGS.items():
        print(f"  {name:26}{error(exact, integers(graph, calibration, test, settings))}", flush=True)


def main() -> int:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not args.names or "digits" in args.names:
            digits = find_workload("digits")
            sets = [{"image": s["image"][:128]} for s in (digits.calibration_set(), digits.test_set())]
            table("digits (trained)", digits.model, *sets, folder)
        from library_models import MODELS, export

        for entry in MODELS:
            if any(part in entry.name for part in args.names) or not args.names:
                path = export(entry, folder / "m.onnx", small=True, dynamo=False, opset=17)
                table(
                    f"{entry.name} (small, seeded)",
                    path,
                    entry.samples(True, 64, 2),
                    entry.samples(True, 64, 1),
                    folder,
                )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
