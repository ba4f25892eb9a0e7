"""What ``hwattn eval`` is made of: float outputs by onnxruntime, routing by the float graph, metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hwattn.quant.calibration import task_nodes
from hwattn.quant.host import Arrays, run_session
from hwattn.quant.reference import evaluate, route
from hwattn.spec.graph import Attention, Graph, MixtureOfExperts, Rows
from hwattn.spec.numbers import Int64
from hwattn.spec.quantized import QuantizedModel

BATCH = 256
"""Images computed at once."""

Float = NDArray[np.float32]


def float_outputs(
    session: onnxruntime.InferenceSession, model: QuantizedModel, arrays: Arrays, task: int
) -> dict[str, NDArray[Any]]:
    """Outputs of the float model that have meaning for `task`, by name; `arrays` by name of the input, N first."""
    given = {output.name: output.task for output in model.outputs}
    names = [output.name for output in session.get_outputs() if given.get(output.name) in (None, task)]
    constants = {} if model.task_input is None else {model.task_input: np.array(task, np.int64)}
    like = np.asarray(next(iter(arrays.values())))
    kinds = {entry.name: entry.type for entry in session.get_inputs()}
    fixed = {
        name: np.full(like.shape, value, np.float32 if "float" in kinds.get(name, "") else np.int64)
        for name, value in model.fixed.items()
    }
    return run_session(session, names, {**arrays, **fixed}, constants)


def cosine(left: NDArray[Any], right: NDArray[Any]) -> float:
    """Mean over the images of the cosine between two arrays (N, ...)."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (left, right))
    power = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    return float(np.mean((a * b).sum(axis=1) / np.maximum(power, 1e-30)))


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
