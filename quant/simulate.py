"""The quantized model in NumPy without a machine: what integers do to every tensor, for reports and choices.

Arithmetic follows ``docs/numbers.md`` step by step, except that activation, reciprocals and square roots are taken
in floating point; the bit-accurate model is the compiled program in ``sim/model``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hwattn.quant.reference import patches
from hwattn.quant.roles import in_bytes
from hwattn.spec.graph import Add, Float, Node, Rows
from hwattn.spec.numbers import GATE_LIMIT, Int64, quantize_multiplier, requantize, round_shift, saturate
from hwattn.spec.quantized import (
    NORMAL_FRACTION,
    QuantizedAttention,
    QuantizedLayerNorm,
    QuantizedLinear,
    QuantizedMatrix,
    QuantizedMixture,
    QuantizedModel,
    QuantizedPatchEmbed,
)
from hwattn.spec.tables import (
    ACTIVATION_INPUT_BITS,
    ACTIVATION_INPUT_FRACTION,
    ACTIVATIONS,
    SCORE_FRACTION_BITS,
    exponential_table,
)

GATE_FRACTION = 15
"""Fraction bits of a token's gate weight."""

_NORMALIZED_BITS = 18
_EXACT_FLOAT32 = 1 << 24
"""Up to here every integer is a float32, and so is every partial sum of a product bounded by it."""


@dataclass(frozen=True)
class Simulation:
    """Tensors and routing of some images.

    Parameters
    ----------
    tensors : dict of str to ndarray of float32, shape (N, tokens, features)
        Every tensor in real numbers.
    routing : dict of str to ndarray of int64, shape (N, tokens, k)
        The experts that each mixture chose, in descending score.
    saturated : dict of str to int
        Elements of each tensor at the end of their range.
    """

    tensors: dict[str, Float]
    routing: dict[str, Int64]
    saturated: dict[str, int]


def simulate(model: QuantizedModel, images: Float, task: int) -> Simulation:
    """Run the quantized model on images (N, channels, height, width) for one task."""
    run = _Run(model, task)
    image = saturate(np.floor(images / model.scales[model.image][0] + 0.5).astype(np.int64), 8)
    run.integers[model.image] = image
    for node in model.nodes:
        run.integers[node.name] = run.apply(node)
    tensors = {node.name: run.real(node.name) for node in model.nodes}
    return Simulation(tensors, run.routing, {node.name: run.saturated(node.name) for node in model.nodes})


class _Run:
    """Integer tensors (N, tokens, features) of one run."""

    def __init__(self, model: QuantizedModel, task: int) -> None:
        self.model = model
        self.task = task
        self.integers: dict[str, Int64] = {}
        self.wide: dict[str, Int64] = {}
        self.routing: dict[str, Int64] = {}
        self.int16 = wide_tensors(model)
        self.sixteen = model.sixteen_bits()
        self.read_wide = {
            model.root(node.inputs[0])
            for node in model.nodes
            if isinstance(node, QuantizedLinear | QuantizedMixture) and node.input_bits == 16
        } - self.sixteen

    def real(self, name: str) -> Float:
        """A tensor in real numbers, as the layers with most bits read it."""
        if self.model.root(name) in self.read_wide:
            return (self.wide[name] * (self.model.scales[name] / 256)).astype(np.float32)
        value = self.integers[name]
        return (value * self._scale_of(name, value.shape[-1])).astype(np.float32)

    def saturated(self, name: str) -> int:
        """Elements of a tensor at the end of their range."""
        limit = (1 << 15) - 1 if name in self.int16 or self.model.root(name) in self.sixteen else (1 << 7) - 1
        return int((np.abs(self.integers[name]) >= limit).sum())

    def _scale_of(self, name: str, features: int) -> NDArray[np.float64]:
        """The real value of one integer of each feature."""
        scale = self.model.scales[name] / (256 if self.model.root(name) in self.sixteen else 1)
        return np.repeat(scale, features // len(scale))

    def _operand(self, name: str, bits: int) -> Int64:
        """The integers that a layer reads in so many bits."""
        return self.wide[name] if bits == 16 and name in self.wide else self.integers[name]

    def apply(self, node: Node) -> Int64:
        inputs = [self.integers[name] for name in node.inputs]
        match node:
            case QuantizedPatchEmbed():
                return self._patch_embed(node, inputs[0])
            case QuantizedLayerNorm():
                return self._layer_norm(node, inputs[0])
            case QuantizedLinear():
                scale = self._scale_of(node.name, len(node.matrix.bias))
                x = Operand(
                    self._operand(node.inputs[0], node.input_bits),
                    float(self.model.scales[node.inputs[0]][0]),
                    node.input_bits,
                )
                bits = 16 if node.name in self.int16 | self.sixteen else 8
                return linear(node.matrix, x, scale, node.activation, bits)
            case QuantizedAttention():
                return self._attention(node, *inputs)
            case QuantizedMixture():
                return self._mixture(node, inputs[0])
            case Add():
                return saturate(inputs[0] + inputs[1], 16)
            case Rows():
                if node.inputs[0] in self.wide:
                    self.wide[node.name] = self.wide[node.inputs[0]][:, node.start : node.stop]
                return inputs[0][:, node.start : node.stop]
        raise NotImplementedError(type(node).__name__)

    def _patch_embed(self, node: QuantizedPatchEmbed, image: Int64) -> Int64:
        cut = patches(image.astype(np.float32), (node.weight.shape[2], node.weight.shape[3]))
        matrix = QuantizedMatrix(
            node.weight.reshape(len(node.weight), -1), node.scale, np.zeros(len(node.weight), np.int32)
        )
        input_scale = float(self.model.scales[node.inputs[0]][0])
        bits = 16 if node.name in self.int16 else 8
        x = Operand(cut.astype(np.int64), input_scale)
        embedded = linear(matrix, x, self.model.scales[node.name], None, bits)
        tokens = np.repeat(node.init[None].astype(np.int64), len(image), axis=0)
        tokens[:, node.first : node.first + embedded.shape[1]] += embedded
        return saturate(tokens, 16)

    def _layer_norm(self, node: QuantizedLayerNorm, x: Int64) -> Int64:
        dim = x.shape[-1]
        total = np.int64(0) if node.zero_mean else x.sum(axis=-1, keepdims=True)
        spread = dim * np.square(x).sum(axis=-1, keepdims=True) - total * total + node.epsilon
        normalized = (dim * x - total) / np.sqrt(spread) * (1 << NORMAL_FRACTION)
        z = saturate(np.floor(normalized + 0.5).astype(np.int64), _NORMALIZED_BITS)
        result = z * node.gamma + node.beta
        if node.wide:
            self.wide[node.name] = np.clip(round_shift(result, node.shift - 8), -GATE_LIMIT, GATE_LIMIT)
        return saturate(round_shift(result, node.shift), 8)

    def _attention(self, node: QuantizedAttention, query: Int64, key: Int64, value: Int64) -> Int64:
        scales = [np.resize(self.model.scales[name], node.heads) for name in node.inputs]
        bits = 16 if node.name in self.sixteen else 8
        out_scale = float(self._scale_of(node.name, 1)[0])
        heads = []
        for head in range(node.heads):
            q, k, v = (x.reshape(*x.shape[:2], node.heads, -1)[:, :, head] for x in (query, key, value))
            factor = node.scale * scales[0][head] * scales[1][head] * math.log2(math.e)
            y = requantize(_product(q, k), *quantize_multiplier(factor * (1 << SCORE_FRACTION_BITS)), 16)
            p16 = probabilities(y)
            total = p16.sum(axis=-1, keepdims=True)
            p = np.minimum(round_shift(p16, 8), 255) * 256 if node.p_bits == 8 else p16
            mixed = _product(p, v.transpose(0, 2, 1)) / total * (scales[2][head] / out_scale)
            heads.append(saturate(np.floor(mixed + 0.5).astype(np.int64), bits))
        return np.concatenate(heads, axis=-1)

    def _mixture(self, node: QuantizedMixture, x: Int64) -> Int64:
        wide_scale = float(self.model.scales[node.inputs[0]][0]) / 256
        score = _product(self.wide[node.inputs[0]], node.gate_weight[self.task][None].astype(np.int64))
        score = score + node.gate_bias[self.task]
        chosen = np.argsort(-score, axis=-1, kind="stable")[..., : node.k]
        self.routing[node.name] = chosen
        logits = score * (wide_scale * node.gate_scale)
        share = np.exp(logits - logits.max(axis=-1, keepdims=True))
        picked = np.take_along_axis(share, chosen, axis=-1)
        total = (picked if node.renormalize else share).sum(axis=-1, keepdims=True)
        weights = np.floor(picked / total * (1 << GATE_FRACTION) + 0.5).astype(np.int64)
        input_scale, out_scale = float(self.model.scales[node.inputs[0]][0]), self.model.scales[node.name]
        hidden_scale = np.array([node.hidden_scale / (256 if node.hidden_bits == 16 else 1)])
        operand = self._operand(node.inputs[0], node.input_bits)
        y = np.zeros((*x.shape[:2], len(node.experts[0].fc2.bias)), np.int64)
        for index, expert in enumerate(node.experts):
            image, token, rank = np.nonzero(chosen == index)
            seen = Operand(operand[image, token], input_scale, node.input_bits)
            hidden = linear(expert.fc1, seen, hidden_scale, node.activation, node.hidden_bits)
            inner = Operand(hidden, node.hidden_scale, node.hidden_bits)
            made = linear(expert.fc2, inner, out_scale, None, 16)
            weighted = round_shift(made * weights[image, token, rank, None], GATE_FRACTION)
            y[image, token] = y[image, token] + weighted
        return saturate(y, 16)


def wide_tensors(model: QuantizedModel) -> set[str]:
    """Tensors of 16 bits: the residual stream, what is added to it or normalized, and model outputs."""
    wide = {output.tensor for output in model.outputs}
    for node in model.nodes:
        if isinstance(node, QuantizedMixture) or (
            isinstance(node, QuantizedPatchEmbed) and not in_bytes(model, node.name)
        ):
            wide.add(node.name)
        if isinstance(node, Add):
            wide.update((node.name, *node.inputs))
        if isinstance(node, QuantizedLayerNorm):
            wide.update(node.inputs)
    for node in reversed(model.nodes):
        if isinstance(node, Rows) and node.name in wide:
            wide.update(node.inputs)
    return wide


@dataclass(frozen=True)
class Operand:
    """Integers (..., in) of `bits` bits that a layer reads; `scale` is that of 8 bits, or of the high byte of 16."""

    integers: Int64
    scale: float
    bits: int = 8


def linear(
    matrix: QuantizedMatrix, x: Operand, out_scale: NDArray[np.float64], activation: str | None, bits: int
) -> Int64:
    """A linear layer and its activation; `x` to (..., out) of `bits` bits at `out_scale` (one or per feature)."""
    product = _product(x.integers, matrix.weight.astype(np.int64))
    accumulator = (product if x.bits == 8 else round_shift(product, 8)) + matrix.bias
    factors = x.scale * matrix.scale
    if activation is None:
        return requantize(accumulator, *_multipliers(factors / out_scale), bits)
    unit = float(1 << ACTIVATION_INPUT_FRACTION)
    v = requantize(accumulator, *_multipliers(factors * unit), ACTIVATION_INPUT_BITS)
    real = _activation_values(activation)[v + (1 << (ACTIVATION_INPUT_BITS - 1))]
    return saturate(np.floor(real / out_scale + 0.5).astype(np.int64), bits)


def probabilities(y: Int64) -> Int64:
    """Base-2 scores (..., keys) with 8 fraction bits to p16 = 2**16 * 2**(y - max), max an integer."""
    peak = -((-y.max(axis=-1, keepdims=True)) >> SCORE_FRACTION_BITS)
    below = (peak << SCORE_FRACTION_BITS) - y
    shift = np.minimum(below >> SCORE_FRACTION_BITS, 31)
    fraction = below & ((1 << SCORE_FRACTION_BITS) - 1)
    return np.minimum(round_shift(exponential_table()[fraction], shift), 65535)


def _product(left: Int64, right: Int64) -> Int64:
    """Product of left and the transpose of right over the last axes; exact while the sums stay below 2**53."""
    bound = left.shape[-1] * _peak(left) * _peak(right)
    kind = np.float32 if bound <= _EXACT_FLOAT32 else np.float64
    other = right.astype(kind)
    made = np.matmul(left.astype(kind), other.swapaxes(-1, -2) if other.ndim > 1 else other)
    return np.asarray(made, np.int64)


def _peak(values: Int64) -> int:
    return max(int(values.max(initial=0)), -int(values.min(initial=0)))


def _multipliers(factors: NDArray[np.float64]) -> tuple[Int64, Int64]:
    pairs = [quantize_multiplier(float(factor)) for factor in factors]
    return np.array([m for m, _ in pairs], np.int64), np.array([s for _, s in pairs], np.int64)


@cache
def _activation_values(name: str) -> NDArray[np.float64]:
    """f(x) for every 18-bit input, from -32 to 32."""
    function, _ = ACTIVATIONS[name]
    half = 1 << (ACTIVATION_INPUT_BITS - 1)
    inputs = np.arange(-half, half) / (1 << ACTIVATION_INPUT_FRACTION)
    return np.array([function(float(x)) for x in inputs])
