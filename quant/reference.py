"""The graph in float32 NumPy: what the importer is checked against, and what calibration looks at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import (
    Add,
    Attention,
    Expert,
    Float,
    Graph,
    LayerNorm,
    Linear,
    MixtureOfExperts,
    Node,
    PatchEmbed,
    Rows,
)

__all__ = [
    "activate",
    "apply",
    "evaluate",
    "expert_hidden",
    "linear",
    "mixture",
    "outputs",
    "patches",
    "probabilities",
    "route",
]


def evaluate(graph: Graph, images: Float, task: int) -> dict[str, Float]:
    """Every tensor of the graph for some images.

    Parameters
    ----------
    graph : Graph
        What to compute.
    images : ndarray of float32, shape (N, channels, height, width)
        Normalized images.
    task : int
        Whose gates to use.

    Returns
    -------
    dict of str to ndarray of float32, shape (N, tokens, features)
        The result of every node, by the node's name.

    Raises
    ------
    RefusedError
        The images do not have the graph's shape, or there is no such task.
    """
    if images.ndim != 4 or images.shape[1:] != graph.image_shape:
        raise RefusedError(
            found=f"images of shape {images.shape}",
            expected=f"(N, {', '.join(map(str, graph.image_shape))})",
            remedy=f"give the images exactly as the ONNX input {graph.image!r} expects them",
        )
    if not 0 <= task < graph.tasks:
        raise RefusedError(
            found=f"task {task}",
            expected=f"0 to {graph.tasks - 1}",
            remedy="name one of the model's tasks",
        )
    values: dict[str, Float] = {}
    for node in graph.nodes:
        values[node.name] = apply(node, [values.get(name, images) for name in node.inputs], task)
    return values


def outputs(graph: Graph, values: dict[str, Float], task: int) -> dict[str, Float]:
    """The model outputs that have meaning for `task`, under their ONNX names.

    Parameters
    ----------
    values : dict of str to ndarray
        What `evaluate` returned for the same task.

    Returns
    -------
    dict of str to ndarray of float32, shape (N, *output.shape)
    """
    return {
        output.name: values[output.tensor].reshape(-1, *output.shape)
        for output in graph.outputs
        if output.task in (None, task)
    }


def apply(node: Node, inputs: list[Float], task: int) -> Float:
    """The result of one node."""
    match node:
        case PatchEmbed():
            return _patch_embed(node, inputs[0])
        case LayerNorm():
            mean = np.float32(0) if node.zero_mean else inputs[0].mean(axis=-1, keepdims=True)
            x = inputs[0] - mean
            deviation = np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(node.epsilon))
            return np.asarray(x / deviation * node.gamma + node.beta, np.float32)
        case Linear():
            return activate(node.activation, linear(inputs[0], node.weight, node.bias))
        case Attention():
            return _attention(node, *inputs)
        case MixtureOfExperts():
            return mixture(node, inputs[0], task)
        case Add():
            return inputs[0] + inputs[1]
        case Rows():
            return inputs[0][:, node.start : node.stop]
    raise NotImplementedError(type(node).__name__)


def linear(x: Float, weight: Float, bias: Float) -> Float:
    """``x @ weight.T + bias``; x (..., in), weight (out, in), bias (out,)."""
    return np.asarray(x @ weight.T + bias, np.float32)


def patches(images: Float, kernel: tuple[int, int]) -> Float:
    """Images (N, C, H, W) cut into patches (N, patches, C * kernel_height * kernel_width), row-major."""
    count, channels, height, width = images.shape
    high, wide = height // kernel[0], width // kernel[1]
    cut = images[:, :, : high * kernel[0], : wide * kernel[1]]
    cut = cut.reshape(count, channels, high, kernel[0], wide, kernel[1])
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(count, high * wide, -1)


def _patch_embed(node: PatchEmbed, images: Float) -> Float:
    dim, _, kernel_height, kernel_width = node.weight.shape
    embedded = patches(images, (kernel_height, kernel_width)) @ node.weight.reshape(dim, -1).T
    tokens = np.repeat(node.init[None], len(images), axis=0)
    tokens[:, node.first : node.first + embedded.shape[1]] += embedded
    return tokens


def _attention(node: Attention, query: Float, key: Float, value: Float) -> Float:
    p = probabilities(node, query, key)
    v = value.reshape(*value.shape[:2], node.heads, -1).transpose(0, 2, 1, 3)
    return (p @ v).transpose(0, 2, 1, 3).reshape(len(query), query.shape[1], -1)


def probabilities(node: Attention, query: Float, key: Float) -> Float:
    """Probabilities (N, heads, queries, keys) of an attention."""
    q, k = (x.reshape(*x.shape[:2], node.heads, -1).transpose(0, 2, 1, 3) for x in (query, key))
    return _softmax(np.asarray((q * np.float32(node.scale)) @ k.transpose(0, 1, 3, 2), np.float32))


def _softmax(scores: Float) -> Float:
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(p / p.sum(axis=-1, keepdims=True), np.float32)


def route(node: MixtureOfExperts, x: Float, task: int) -> tuple[NDArray[np.int64], Float]:
    """The experts that the gate of `task` chooses for each token, and their weights.

    Parameters
    ----------
    x : ndarray of float32, shape (N, tokens, dim)

    Returns
    -------
    chosen : ndarray of int64, shape (N, tokens, k)
        In descending score, ties to the lower index.
    weights : ndarray of float32, shape (N, tokens, k)
    """
    scores = linear(x, node.gate_weight[task], node.gate_bias[task])
    chosen = np.argsort(-scores, axis=-1, kind="stable")[..., : node.k]
    if node.renormalize:
        return chosen, _softmax(np.take_along_axis(scores, chosen, axis=-1))
    return chosen, np.take_along_axis(_softmax(scores), chosen, axis=-1)


def expert_hidden(expert: Expert, activation: str, x: Float) -> Float:
    """The hidden activations of an expert for tokens `x` (..., dim)."""
    return activate(activation, linear(x, expert.fc1_weight, expert.fc1_bias))


def mixture(
    node: MixtureOfExperts,
    x: Float,
    task: int,
    *,
    seen: Float | None = None,
    rounded: Callable[[Float], Float] = lambda made: made,
) -> Float:
    """A mixture of experts.

    Parameters
    ----------
    x : ndarray of float32, shape (N, tokens, dim)
        What the gate reads, and the experts too without `seen`.
    seen : ndarray of float32, shape (N, tokens, dim), optional
        What the experts read.
    rounded : callable
        Applied to the hidden activations.
    """
    chosen, weights = route(node, x, task)
    x = x if seen is None else seen
    y = np.zeros((*x.shape[:2], node.experts[0].fc2_weight.shape[0]), np.float32)
    for index, expert in enumerate(node.experts):
        image, token, rank = np.nonzero(chosen == index)
        hidden = rounded(expert_hidden(expert, node.activation, x[image, token]))
        made = linear(hidden, expert.fc2_weight, expert.fc2_bias)
        y[image, token] += weights[image, token, rank, None] * made
    return y


def activate(name: str | None, x: Float) -> Float:
    """An activation of ``spec.tables.ACTIVATIONS`` in float32, or none."""
    return x if name is None else np.asarray(_ACTIVATIONS[name](x), np.float32)


def _erf(x: Float) -> Float:
    """Error function within 1.5e-7 (Abramowitz and Stegun, 7.1.26)."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.asarray(np.copysign(1 - tail * np.exp(-np.square(x)), x), np.float32)


def _sigmoid(x: Float) -> Float:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)), np.float32)


_ACTIVATIONS: dict[str, Callable[[Float], NDArray[np.floating]]] = {
    "gelu": lambda x: 0.5 * x * (1 + _erf(x * np.float32(0.5**0.5))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "silu": lambda x: x * _sigmoid(x),
    "softplus": lambda x: np.logaddexp(x, 0),
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "relu": lambda x: np.maximum(x, 0),
}
