"""QuantizedModel: a graph in integers, with the scale of every tensor.

A tensor's scale is a float64 array of shape (1,), or (heads,) for the query, key and value of an attention,
where features ``h * head_dim`` to ``(h + 1) * head_dim - 1`` belong to head h. real = integer * scale. Activations are int8, except the residual
stream, the results of linear layers that are added to it, and model outputs: int16. Tensors of the residual stream that are
added to each other have one scale: a pre-norm encoder has one in all, a post-norm encoder one for each block. A layer that
reads its input in 16 bits (`input_bits`) reads integers at 1/256 of the tensor's scale: the wide copy of a LayerNorm, or
the result of an attention or a linear layer, which then is stored in 16 bits alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwattn.spec.graph import Node, Output, Rows
from hwattn.spec.host import HostPart

Int8 = NDArray[np.int8]
Int16 = NDArray[np.int16]
Int32 = NDArray[np.int32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class QuantizedMatrix:
    """A weight matrix: weight int8 (out, in), scale float64 (out,), bias int32 (out,) at ``s_x * scale``."""

    weight: Int8
    scale: Float64
    bias: Int32


@dataclass(frozen=True)
class QuantizedPatchEmbed(Node):
    """Patch embedding; weight int8 (dim, channels, kh, kw), scale (dim,), init int16 (tokens, dim) at the residual scale."""

    weight: Int8
    scale: Float64
    init: Int16
    first: int


NORMAL_FRACTION = 11
"""Fraction bits of the normalized value z of LayerNorm, 18 signed bits: it spans -64 to 64, all that D <= 4096 can reach."""


@dataclass(frozen=True)
class QuantizedLayerNorm(Node):
    """LayerNorm; ``(z * gamma + beta) >> shift`` with ``gamma`` int16 (dim,) and ``beta`` int32 (dim,).

    `epsilon` is the integer added to D*SS - S^2: round(eps * D^2 / s_residual^2), at least 1. With `wide`, a
    16-bit copy at 1/256 of the result's scale goes to a gate and to layers that read 16 bits. With `zero_mean` S is 0: RMSNorm.
    """

    gamma: Int16
    beta: Int32
    shift: int
    epsilon: int
    wide: bool
    zero_mean: bool = False


@dataclass(frozen=True)
class QuantizedLinear(Node):
    """A linear layer and its activation (a name of ``spec.tables.ACTIVATIONS``) or None; it reads `input_bits` bits, 8 or 16."""

    matrix: QuantizedMatrix
    activation: str | None
    input_bits: int = 8


@dataclass(frozen=True)
class QuantizedAttention(Node):
    """Attention of q, k, v; `scale` multiplies the scores; `p_bits` is 8 or 16; `key_block` 0 means all keys at once."""

    heads: int
    scale: float
    p_bits: int
    key_block: int


@dataclass(frozen=True)
class QuantizedExpert:
    """One expert: two matrices."""

    fc1: QuantizedMatrix
    fc2: QuantizedMatrix


@dataclass(frozen=True)
class QuantizedMixture(Node):
    """Top-k mixture: gate_weight int16 (tasks, experts, dim) within +-32639 at one `gate_scale`; gate_bias int64 (tasks, experts).

    The gate's operand is the wide copy of the LayerNorm that is the node's input; the bias is at
    ``wide scale * gate_scale`` and fits 48 bits. All experts share ``hidden_scale``, the scale of their int8 hidden
    activations: an instruction's second scaling is the same whichever expert it runs for. fc1 reads `input_bits` bits, fc2
    `hidden_bits`; 16 of the hidden activations are at ``hidden_scale / 256``.
    """

    experts: tuple[QuantizedExpert, ...]
    activation: str
    hidden_scale: float
    gate_weight: Int16
    gate_scale: float
    gate_bias: NDArray[np.int64]
    k: int
    renormalize: bool
    input_bits: int = 8
    hidden_bits: int = 8


@dataclass(frozen=True)
class QuantizedModel:
    """A quantized transformer encoder; ``nodes`` also holds the graph's own ``Add`` and ``Rows``.

    `source` is the SHA-256 of the float ONNX file in hexadecimal, empty where there was none. `front`, `back`
    and `fixed` are those of ``spec.graph.Graph``.
    """

    name: str
    image: str
    image_shape: tuple[int, int, int]
    task_input: str | None
    tasks: int
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]
    scales: dict[str, Float64]
    source: str = ""
    front: HostPart | None = None
    back: HostPart | None = None
    fixed: dict[str, float] = field(default_factory=dict)
    by_name: dict[str, Node] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {node.name: node for node in self.nodes})

    def root(self, name: str) -> str:
        """Name of the tensor that `name` holds tokens of: itself, or what its `Rows` are taken from."""
        node = self.by_name.get(name)
        while isinstance(node, Rows):
            name = node.inputs[0]
            node = self.by_name.get(name)
        return name

    def sixteen_bits(self) -> set[str]:
        """Results of attentions and linear layers that are stored in 16 bits, at 1/256 of their scale, for the layers that read them."""
        read = {
            self.root(node.inputs[0])
            for node in self.nodes
            if isinstance(node, QuantizedLinear) and node.input_bits == 16
        }
        return {name for name in read if not isinstance(self.by_name.get(name), QuantizedLayerNorm)}
