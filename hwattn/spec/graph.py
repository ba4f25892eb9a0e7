"""Graph: a transformer encoder in real numbers, as the importer leaves it for quantization.

Nodes are in topological order and named; a node's name is the name of the tensor it makes. Tensors are
(tokens, features) for one image; the batch axis is implicit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwattn.spec.host import HostPart

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Node:
    """A node of the graph; `name` names its result, `inputs` the tensors it reads."""

    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class PatchEmbed(Node):
    """Cut the image into patches, project them, and add them to a constant token matrix.

    Parameters
    ----------
    weight : ndarray of float32, shape (dim, channels, kernel_height, kernel_width)
        The stride equals the kernel; patches are numbered row-major.
    init : ndarray of float32, shape (tokens, dim)
        Class and register tokens, position embeddings and the projection's bias, added up.
    first : int
        Token of patch 0; the other rows of the result are `init` alone.
    """

    weight: Float
    init: Float
    first: int


@dataclass(frozen=True)
class LayerNorm(Node):
    """Normalize each token over its features; `gamma`, `beta` float32 of shape (dim,).

    With `zero_mean` the mean is taken as zero: RMSNorm.
    """

    gamma: Float
    beta: Float
    epsilon: float
    zero_mean: bool = False


@dataclass(frozen=True)
class Linear(Node):
    """``activation(x @ weight.T + bias)``; weight (out, in), bias (out,), activation a name or None."""

    weight: Float
    bias: Float
    activation: str | None = None


@dataclass(frozen=True)
class Attention(Node):
    """softmax(q k^T * scale) v per head; inputs q, k, v of shape (tokens, heads * head_dim)."""

    heads: int
    scale: float


@dataclass(frozen=True)
class Expert:
    """One expert: ``fc2(activation(fc1(x)))``; weights (out, in), biases (out,)."""

    fc1_weight: Float
    fc1_bias: Float
    fc2_weight: Float
    fc2_bias: Float


@dataclass(frozen=True)
class MixtureOfExperts(Node):
    """Top-k mixture of experts with one gate per task (M3ViT).

    Parameters
    ----------
    gate_weight : ndarray of float32, shape (tasks, experts, dim)
    gate_bias : ndarray of float32, shape (tasks, experts)
    k : int
        Experts chosen per token.
    renormalize : bool
        Softmax over the chosen experts only; else over all of them, without renormalization.
    """

    experts: tuple[Expert, ...]
    activation: str
    gate_weight: Float
    gate_bias: Float
    k: int
    renormalize: bool


@dataclass(frozen=True)
class Add(Node):
    """The residual addition of two tensors of the same shape."""


@dataclass(frozen=True)
class Rows(Node):
    """Tokens `start` to `stop` - 1 of a tensor."""

    start: int
    stop: int


@dataclass(frozen=True)
class Output:
    """A model output: the tensor, its ONNX name and shape without the batch axis, and its task (or None for all)."""

    name: str
    tensor: str
    shape: tuple[int, ...]
    task: int | None


@dataclass(frozen=True)
class Graph:
    """A transformer encoder.

    Parameters
    ----------
    image : str
        ONNX name of the image input.
    image_shape : tuple of int
        (channels, height, width).
    task_input : str or None
        ONNX name of the task index, where the model has several tasks.
    tasks : int
        Number of tasks, at least 1.
    front : HostPart or None
        What the host runs before: it makes the tensor `image`, tokens that reach the accelerator by
        ``spec.host.token_image``.
    back : HostPart or None
        What the host runs behind: it makes the model's outputs from those of the graph.
    fixed : dict of str to float
        Inputs of the ONNX model that are constant here, and their value.
    """

    image: str
    image_shape: tuple[int, int, int]
    task_input: str | None
    tasks: int
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]
    front: HostPart | None = None
    back: HostPart | None = None
    fixed: dict[str, float] = field(default_factory=dict)
    by_name: dict[str, Node] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {node.name: node for node in self.nodes})
