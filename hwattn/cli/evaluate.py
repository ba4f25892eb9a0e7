"""What ``hwattn eval`` is made of: float outputs by onnxruntime, routing by the float graph, metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hwattn.quant.calibration import task_nodes
from hwattn.quant.reference import evaluate, route
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Attention, Graph, MixtureOfExperts, Rows
from hwattn.spec.numbers import Int64
from hwattn.spec.quantized import QuantizedModel

BATCH = 256
"""Images computed at once."""

Float = NDArray[np.float32]


def open_session(onnx: Path) -> onnxruntime.InferenceSession:
    """Open the float model.

    Raises
    ------
    RefusedError
        If onnxruntime does not load it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        reason = " ".join(str(error).split())[:200]
        raise RefusedError(
            f"onnxruntime does not load {onnx} ({reason})", "an intact ONNX model", "export it again"
        ) from error


def float_outputs(
    session: onnxruntime.InferenceSession, model: QuantizedModel, images: Float, task: int
) -> dict[str, Float]:
    """Outputs of the float model that have meaning for `task`, by name; images (N, channels, height, width)."""
    names = [output.name for output in model.outputs if output.task in (None, task)]
    feeds = {} if model.task_input is None else {model.task_input: np.array(task, np.int64)}
    fixed = session.get_inputs()[[i.name for i in session.get_inputs()].index(model.image)].shape[0]
    batch = fixed if isinstance(fixed, int) else len(images)
    parts: dict[str, list[Float]] = {name: [] for name in names}
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        # a model of fixed batch size gets its last batch filled up
        padded = np.concatenate([chunk, np.repeat(chunk[-1:], batch - len(chunk), axis=0)])
        for name, value in zip(names, session.run(names, {model.image: padded, **feeds}), strict=True):
            parts[name].append(np.asarray(value)[: len(chunk)])
    return {name: np.concatenate(values) for name, values in parts.items()}


def routing_flips(graph: Graph, images: Float, task: int, routing: list[Int64]) -> tuple[int, int]:
    """Compare the experts that the machine chose with the float model's.

    Parameters
    ----------
    routing : list of ndarray of int64, shape (N, tokens, k)
        Of each mixture that `task` needs, in order; only the tokens that its outputs depend on.

    Returns
    -------
    flips, decisions : int
        (token, chosen expert) pairs that the float model did not choose, and all pairs.
    """
    mixtures = [node for node in task_nodes(graph, task) if isinstance(node, MixtureOfExperts)]
    if not mixtures:
        return 0, 0
    values, tokens = evaluate(graph, images, task), needed_tokens(graph, task)
    flips = decisions = 0
    for node, chosen in zip(mixtures, routing, strict=True):
        expected, _ = route(node, values[node.inputs[0]][:, slice(*tokens[node.name])], task)
        flips += int((chosen[..., :, None] != expected[..., None, :]).all(axis=-1).sum())
        decisions += chosen.size
    return flips, decisions


def needed_tokens(graph: Graph, task: int) -> dict[str, tuple[int, int]]:
    """First and last-plus-one token of each tensor that the outputs of `task` depend on."""
    whole = (0, 1 << 30)
    needed = {output.tensor: whole for output in graph.outputs if output.task in (None, task)}
    for node in reversed(task_nodes(graph, task)):
        start, stop = needed[node.name]
        for position, name in enumerate(node.inputs):
            if isinstance(node, Rows):
                wanted = (node.start + start, min(node.start + stop, node.stop))
            else:
                # every query attends to all keys and values
                wanted = whole if isinstance(node, Attention) and position else (start, stop)
            first, last = needed.get(name, wanted)
            needed[name] = (min(first, wanted[0]), max(last, wanted[1]))
    return needed


def accuracy(output: Float, label: NDArray[np.int64]) -> float:
    """How often the largest logit (last axis) is the label's, over all leading axes."""
    return float(np.mean(output.argmax(axis=-1) == label))
