"""``hwattn eval``: metric of every task, integers against the float model, and routing flips."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwattn.cli.arguments import (
    TEST_PREFIX,
    accelerator_config,
    add_config,
    add_model,
    check_images,
    load_arrays,
    positive,
)
from hwattn.cli.evaluate import BATCH, accuracy, cosine, float_outputs, routing_flips
from hwattn.cli.models import ResolvedModel, resolve_model
from hwattn.cli.output import Output, table
from hwattn.compiler import compile_model
from hwattn.quant.host import HostRunner, open_session
from hwattn.quant.importer import graph_of
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import RefusedError
from hwattn.spec.quantized import QuantizedMixture, QuantizedModel

HELP = (
    "Evaluate a quantized model: the metric of every task by the bit-accurate integer model and by the float ONNX "
    "under onnxruntime, and how many routing decisions differ. Without labels the metric is how often both agree."
)

LABEL_PREFIX = "label_"


@dataclass(frozen=True)
class TaskScore:
    """The metric of one model output, 0..1: of the float model and of the integers; and the cosine between them."""

    name: str
    metric: str
    exact: float
    integer: float
    cosine: float


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model(parser)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="X.npz",
        help="images, and labels as label_<output>; default: the workload's test set",
    )
    parser.add_argument("--images", type=positive, metavar="N", help="how many images to take; default: all")
    parser.add_argument("--calibration", type=Path, metavar="X.npz", help="to quantize an .onnx with")
    parser.add_argument(
        "--float", type=Path, metavar="M.onnx", help="the float model that an .hwq was quantized from"
    )
    add_config(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Evaluate and report."""
    resolved = resolve_model(args.model, args.calibration)
    onnx = args.float or resolved.onnx
    if onnx is None:
        raise RefusedError(
            f"{args.model}, whose float model is not known",
            "the ONNX file it was quantized from",
            "add --float M.onnx",
        )
    model = resolved.model
    arrays, labels = _data(args.data, resolved, args.images)
    images = next(iter(arrays.values()))
    scores, flips, decisions = _evaluate(
        model, onnx, arrays, labels, accelerator_config(args, resolved.preset), out
    )
    out.print(
        table(
            ["task", "metric", "float", "integer", "loss", "cosine"],
            [
                (
                    s.name,
                    s.metric,
                    f"{s.exact:.2%}",
                    f"{s.integer:.2%}",
                    f"{(s.exact - s.integer) * 100:+.2f}",
                    f"{s.cosine:.5f}",
                )
                for s in scores
            ],
            right=["float", "integer", "loss", "cosine"],
        )
    )
    share = flips / decisions if decisions else 0.0
    if decisions:
        out.print(f"Routing flips: {flips} of {decisions} decisions ({share:.2%}).")
    out.print(
        f"{len(images)} images; float by onnxruntime, integer by the bit-accurate model; loss in points."
    )
    out.result(
        {
            "model": model.name,
            "images": len(images),
            "tasks": [
                {
                    "name": s.name,
                    "metric": s.metric,
                    "float": s.exact,
                    "integer": s.integer,
                    "cosine": s.cosine,
                }
                for s in scores
            ],
            "routing_flips": share,
            "routing_decisions": decisions,
        }
    )
    return 0


def _data(
    path: Path | None, resolved: ResolvedModel, limit: int | None
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """What the model reads, and labels by name of the output, at most `limit` of each."""
    model = resolved.model
    if path is None:
        if resolved.workload is None:
            raise RefusedError(
                f"{model.name} without images to evaluate", "an .npz of images and labels", "add --data X.npz"
            )
        arrays: dict[str, NDArray[Any]] = resolved.workload.test_set()
    else:
        loaded = load_arrays(path)
        arrays = loaded if isinstance(loaded, dict) else {model.image: loaded}
    names = HostRunner(model).inputs
    if names[0] not in arrays:
        arrays = {
            name.removeprefix(TEST_PREFIX): array
            for name, array in arrays.items()
            if name.startswith(TEST_PREFIX)
        }
    for name in names:
        if name not in arrays:
            raise RefusedError(
                f"{path} holds no array named {name} or {TEST_PREFIX}{name}",
                "the images under the name of the model's input",
                f"save them as numpy.savez(..., {name}=images)",
            )
    given = {name: arrays[name] for name in names}
    if model.front is None:
        given[model.image] = check_images(given[model.image], f"{model.image} of the data", model.image_shape)
    images = given[names[0]]
    labels = {}
    for output in model.outputs:
        name = LABEL_PREFIX + output.name
        if name in arrays:
            expected = (len(images), *output.shape[:-1])
            if arrays[name].shape != expected or arrays[name].dtype.kind not in "iu":
                raise RefusedError(
                    f"{name} of type {arrays[name].dtype} and shape {arrays[name].shape}",
                    f"integers of shape {expected}",
                    "correct the labels, or leave them out",
                )
            labels[output.name] = arrays[name][:limit]
    return {name: array[:limit] for name, array in given.items()}, labels


def _evaluate(
    model: QuantizedModel,
    onnx: Path,
    arrays: dict[str, NDArray[Any]],
    labels: dict[str, NDArray[Any]],
    config: AcceleratorConfig,
    out: Output,
) -> tuple[list[TaskScore], int, int]:
    """Scores of all tasks, routing flips, and routing decisions."""
    executor, runner = Executor(compile_model(model, config)), HostRunner(model)
    session = open_session(onnx)
    # only a mixture's routing is compared step by step
    routed = any(isinstance(node, QuantizedMixture) for node in model.nodes)
    graph = graph_of(onnx) if routed else None
    scores: dict[str, TaskScore] = {}
    flips = decisions = 0
    starts = range(0, len(next(iter(arrays.values()))), BATCH)
    with out.progress(model.tasks * len(starts), "evaluating") as advance:
        for task in range(model.tasks):
            exact: dict[str, list[NDArray[Any]]] = {}
            integer: dict[str, list[NDArray[Any]]] = {}
            for start in starts:
                feeds = {name: array[start : start + BATCH] for name, array in arrays.items()}
                chunk = runner.images(feeds)
                result = executor.run(chunk, task)
                if graph is not None:
                    changed, made = routing_flips(graph, chunk, task, result.routing)
                    flips, decisions = flips + changed, decisions + made
                outputs = runner.outputs(result.outputs, feeds)
                for name, value in float_outputs(session, model, feeds, task).items():
                    exact.setdefault(name, []).append(value)
                    integer.setdefault(name, []).append(outputs[name])
                advance()
            for name, values in exact.items():
                if name not in scores and values[0].dtype.kind == "f":
                    pair = np.concatenate(values), np.concatenate(integer[name])
                    scores[name] = _score(name, *pair, labels.get(name))
    return list(scores.values()), flips, decisions


def _score(
    name: str, exact: NDArray[np.float32], integer: NDArray[np.float32], label: NDArray[Any] | None
) -> TaskScore:
    if label is None:
        agreement = accuracy(integer, exact.argmax(axis=-1))
        return TaskScore(name, "agreement", 1.0, agreement, cosine(exact, integer))
    scores = accuracy(exact, label), accuracy(integer, label)
    return TaskScore(name, "accuracy", *scores, cosine(exact, integer))
