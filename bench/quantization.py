"""Table: error of hwattn's integers, of each switch and calibrator, and of onnxruntime's static int8 on the same data.

    PYTHONPATH=. python bench/quantization.py [NAME ...]     # measure, and write bench/results/quantization.json
    PYTHONPATH=. python bench/quantization.py --table        # the figures on file as Markdown

Models: the bundled `digits` (trained, its own calibration and test images) and small seeded models of tests/quant. The
error is noise over signal of the outputs against the float ONNX under onnxruntime, in dB: lower is better. Calibration and
test data are disjoint. onnxruntime: ``quantize_static``, QDQ, per channel, int8, MinMax, run without fused int8 products, which saturate
on processors without VNNI; "that file in hwattn" is the same file imported with its scales. "Products alone" leaves the residual stream,
LayerNorm and activations in float.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import platform
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
from hwattn.quant.given import Given
from hwattn.quant.host import HostRunner
from hwattn.quant.importer import graph_and_scales, graph_of
from hwattn.quant.quantizer import quantize
from hwattn.quant.settings import CALIBRATORS, DEFAULTS, Settings
from hwattn.quant.simulate import simulate
from hwattn.spec.errors import RefusedError
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
    "budget 5 %": Settings(budget=5.0),
    "16-bit inputs, all": Settings(precision=(("*", 16),)),
}

RESULTS = Path(__file__).parent / "results" / "quantization.json"
STATIC: dict[str, list[str] | None] = {
    "onnxruntime static int8": None,
    "onnxruntime, products alone": ["MatMul", "Gemm", "Conv"],
}
"""Rows of onnxruntime, and the operators that it quantizes; by default all that it can, the residual stream too."""

IMPORTED = "that file in hwattn"

Errors = dict[str, float]
"""Noise over signal of each output, dB."""


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


def integers(
    graph: Graph, calibration: Arrays, test: Arrays, settings: Settings, given: Given | None = None
) -> dict[str, NDArray[Any]]:
    """Outputs of the quantized model."""
    model = quantize(graph, HostRunner(graph).images(calibration), "m", settings=settings, given=given).model
    runner = HostRunner(model)
    images, given = runner.images(test), {}
    for task in range(model.tasks):
        tensors = simulate(model, images, task).tensors
        given.update(
            {o.name: tensors[o.tensor].reshape(-1, *o.shape) for o in model.outputs if o.task in (None, task)}
        )
    return runner.outputs(given, test)


def error(exact: dict[str, NDArray[Any]], found: dict[str, NDArray[Any]]) -> Errors:
    """Noise over signal of each float output, dB."""
    rows = {}
    for name, wanted in exact.items():
        if wanted.dtype.kind == "f":
            noise = np.square(found[name] - wanted, dtype=np.float64).sum()
            signal = np.square(wanted, dtype=np.float64).sum()
            rows[name] = round(float(10 * np.log10(noise / signal)), 2)
    return rows


def measure(path: Path, calibration: Arrays, test: Arrays, folder: Path) -> dict[str, Errors | str]:
    """The rows of one model; a row that fails holds the reason."""
    graph = graph_of(path)
    exact = run(path, graph, test)
    rows: dict[str, Errors | str] = {}

    def note(name: str, value: Errors | str) -> None:
        rows[name] = value
        print(f"  {name:26}{value}", flush=True)

    for name, operators in STATIC.items():
        static = folder / "static.onnx"
        try:
            quantize_static(
                str(path),
                str(static),
                Reader(calibration, graph.task_input, graph.tasks),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=operators,
            )
            note(name, error(exact, run(static, graph, test)))
        except Exception as problem:  # onnxruntime's errors share no base class
            note(name, f"fails: {' '.join(str(problem).split())[:120]}")
            continue
        try:
            theirs, given = graph_and_scales(static)
            note(f"{name}: {IMPORTED}", error(exact, integers(theirs, calibration, test, DEFAULTS, given)))
        except RefusedError as problem:
            note(f"{name}: {IMPORTED}", f"refused: {str(problem)[:200]}")
    for name, settings in SETTINGS.items():
        note(name, error(exact, integers(graph, calibration, test, settings)))
    return rows


def table(models: dict[str, Any]) -> str:
    """The figures on file, the worst output of each model, as two Markdown tables: against onnxruntime, and the switches."""
    theirs = [row for name in STATIC for row in (name, f"{name}: {IMPORTED}")]
    against = [*theirs, "hwattn", "budget 5 %", "16-bit inputs, all"]
    switches = [name for name in SETTINGS if name not in against[-2:]]
    return "\n\n".join(_markdown(models, names) for names in (against, switches))


def _markdown(models: dict[str, Any], names: list[str]) -> str:
    lines = [f"| model | {' | '.join(names)} |", f"|---{'|---' * len(names)}|"]
    for model, entry in models.items():
        cells = []
        for name in names:
            found = entry["rows"].get(name, "-")
            cells.append(found.split(":")[0] if isinstance(found, str) else f"{max(found.values()):.1f}")
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def save(model: str, rows: dict[str, Errors | str]) -> None:
    """Put the rows of one model on file."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    kept[model] = {
        "rows": rows,
        "machine": f"{platform.machine()}, {platform.system()}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "onnxruntime": onnxruntime.__version__,
    }
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


def main() -> int:
    """Measure the models that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--table", action="store_true", help="print the figures on file")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(RESULTS.read_text())))
        return 0
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not args.names or "digits" in args.names:
            digits = find_workload("digits")
            sets = [{"image": s["image"][:128]} for s in (digits.calibration_set(), digits.test_set())]
            print("digits (trained)")
            save("digits (trained)", measure(digits.model, *sets, folder))
        from library_models import MODELS, export

        for entry in MODELS:
            if any(part in entry.name for part in args.names) or not args.names:
                print(f"{entry.name} (small, seeded)")
                # timm's EVA passes torch's newer exporter only
                newer = (
                    {"dynamo": True, "opset": 18} if "eva" in entry.name else {"dynamo": False, "opset": 17}
                )
                path = export(entry, folder / "m.onnx", small=True, **newer)
                sets = [entry.samples(True, 64, 2), entry.samples(True, 64, 1)]
                save(entry.name, measure(path, *sets, folder))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
