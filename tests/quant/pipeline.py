"""An ONNX file through import, quantization, compiler and bit-accurate model, compared with onnxruntime."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime

from hwattn.compiler import compile_model
from hwattn.quant.host import HostRunner
from hwattn.quant.importer import import_onnx, refusal_of
from hwattn.quant.onnx_file import NO_CHANGES, Changes
from hwattn.quant.quantizer import Quantization, quantize
from hwattn.quant.settings import DEFAULTS, Settings
from hwattn.quant.simulate import simulate
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import load_preset

ROOMY = {
    "act_words": 1 << 18,
    "weight_words": 1 << 21,
    "param_words": 1 << 17,
    "program_words": 1 << 17,
    "norm_words": 1 << 15,
    "row_words": 512,
    "acc_columns": 1024,
    "tokens": 512,
}
"""A machine that everything fits."""


@dataclass
class Comparison:
    """What integers made of a model: cosine of each float output, the worst image's, and seconds of each step."""

    host: tuple[str, ...]
    quantization: Quantization
    cosines: dict[str, float] = field(default_factory=dict)
    exact: dict[str, np.ndarray] = field(default_factory=dict)
    found: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def sentences() -> dict[str, np.ndarray]:
    """Word pieces of real sentences, int64 (N, 24): `calibration` and `test`."""
    path = Path(__file__).parents[1] / "data" / "quant" / "sentences.json"
    found = json.loads(path.read_text())
    return {key: np.array([each["ids"] for each in found[key]]) for key in ("calibration", "test")}


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    """Smallest cosine of two arrays (N, ...), image by image."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (left, right))
    return float(((a * b).sum(1) / np.maximum(np.sqrt((a * a).sum(1) * (b * b).sum(1)), 1e-30)).min())


def compare(
    path: Path,
    test: dict,
    calibration: dict,
    changes: Changes = NO_CHANGES,
    settings: Settings = DEFAULTS,
    *,
    bit_accurate: bool = True,
) -> Comparison:
    """Run it all; `bit_accurate` by the compiled program, else by the quantizer's own simulation."""
    clock = [time.perf_counter()]

    def lap() -> float:
        clock.append(time.perf_counter())
        return clock[-1] - clock[-2]

    report = import_onnx(path, changes)
    if report.graph is None:
        raise refusal_of(path, report)
    seconds = {"import": lap()}
    made = quantize(report.graph, HostRunner(report.graph).images(calibration), path.stem, settings=settings)
    seconds["quantize"] = lap()
    model, runner = made.model, HostRunner(made.model)
    images = runner.images(test)
    if bit_accurate:
        config = load_preset("digits").replace(**ROOMY)
        executor = Executor(compile_model(model, config))
        limit = executor.batch_limit
        parts = [executor.run(images[i : i + limit], 0).outputs for i in range(0, len(images), limit)]
        given = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    else:
        tensors = simulate(model, images, 0).tensors
        given = {o.name: tensors[o.tensor].reshape(-1, *o.shape) for o in model.outputs}
    found = runner.outputs(given, test)
    seconds["run"] = lap()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    like = next(iter(test.values()))
    feeds = test | {name: np.full(like.shape, value, np.int64) for name, value in changes.fixed.items()}
    exact = dict(zip(names, session.run(names, feeds), strict=True))
    result = Comparison(report.host, made, exact=exact, found=found, seconds=seconds)
    result.cosines = {
        name: cosine(exact[name], found[name]) for name in names if exact[name].dtype.kind == "f"
    }
    return result
