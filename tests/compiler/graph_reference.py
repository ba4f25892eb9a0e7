"""A quantized graph in exact integers, node by node on whole tensors: no tiles, no memory, no instructions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hwattn.sim.model.layernorm import layer_norm
from hwattn.sim.model.post import activate, reciprocal, stage2_gate
from hwattn.sim.model.router import route
from hwattn.sim.model.softmax import bytes8, high_low, softmax_block
from hwattn.spec.graph import Add, Rows
from hwattn.spec.numbers import Int64, quantize_multiplier, requantize, round_shift, saturate
from hwattn.spec.quantized import (
    QuantizedAttention,
    QuantizedLayerNorm,
    QuantizedLinear,
    QuantizedMatrix,
    QuantizedMixture,
    QuantizedModel,
    QuantizedPatchEmbed,
)
from hwattn.spec.tables import activation_table

LOG2E = math.log2(math.e)


def evaluate(
    model: QuantizedModel, images: NDArray[np.int8], task: int, blocks: Callable[[str, int], int]
) -> dict[str, Int64]:
    """Every tensor of the graph for int8 images (N, C, H, W); `blocks(node, keys)` is the block of keys."""
    return GraphReference(model, task, blocks).run(images)


class GraphReference:
    """One run of a model."""

    def __init__(self, model: QuantizedModel, task: int, blocks: Callable[[str, int], int]) -> None:
        self.model, self.task, self.blocks = model, task, blocks
        self.values: dict[str, Int64] = {}
        self.wide: dict[str, Int64] = {}
        self.added = {name for node in model.nodes if isinstance(node, Add) for name in node.inputs}
        self.outputs = {output.tensor for output in model.outputs}
        self.sixteen = model.sixteen_bits()

    def scale(self, name: str) -> float:
        (scale,) = self.model.scales[name]
        return float(scale)

    def run(self, images: NDArray[np.int8]) -> dict[str, Int64]:
        self.values[self.model.image] = images.astype(np.int64)
        for node in self.model.nodes:
            operands = [self.values[name] for name in node.inputs if name in self.values]
            match node:
                case QuantizedPatchEmbed():
                    self.values[node.name] = self.embed(node, operands[0])
                case QuantizedLayerNorm():
                    out8, wide = layer_norm(
                        operands[0],
                        node.gamma.astype(np.int64),
                        node.beta.astype(np.int64),
                        node.epsilon,
                        node.shift,
                        zero_mean=node.zero_mean,
                    )
                    self.values[node.name], self.wide[node.name] = out8, wide
                case QuantizedLinear():
                    x = self.operand(node.inputs[0], node.input_bits)
                    self.values[node.name] = self.linear(node, x)
                case QuantizedAttention():
                    self.values[node.name] = self.attention(node, *operands)
                case QuantizedMixture():
                    pass
                case Add():
                    self.values[node.name] = self.add(node)
                case Rows():
                    self.values[node.name] = operands[0][:, node.start : node.stop]
                    if node.inputs[0] in self.wide:
                        self.wide[node.name] = self.wide[node.inputs[0]][:, node.start : node.stop]
        return self.values

    def operand(self, name: str, bits: int) -> Int64:
        return self.wide[name] if bits == 16 and name in self.wide else self.values[name]

    def product(self, matrix: QuantizedMatrix, x: Int64, bits: int = 8) -> Int64:
        dot = x @ matrix.weight.T.astype(np.int64)
        return (dot if bits == 8 else round_shift(dot, 8)) + matrix.bias

    def scaled(self, acc: Int64, factors: NDArray[np.float64], bits: int) -> Int64:
        pairs = [quantize_multiplier(float(factor)) for factor in factors]
        multiplier, shift = np.array(pairs, np.int64).T
        return requantize(acc, multiplier, shift, bits)

    def embed(self, node: QuantizedPatchEmbed, image: Int64) -> Int64:
        dim, _, high, wide = node.weight.shape
        tokens = np.repeat(node.init[None].astype(np.int64), len(image), 0)
        token = node.first
        for y in range(0, image.shape[2] - high + 1, high):
            for x in range(0, image.shape[3] - wide + 1, wide):
                patch = image[:, :, y : y + high, x : x + wide].reshape(len(image), -1)
                acc = patch @ node.weight.reshape(dim, -1).T.astype(np.int64)
                factors = node.scale * self.scale(self.model.image) / self.scale(node.name)
                tokens[:, token] = saturate(tokens[:, token] + self.scaled(acc, factors, 16), 16)
                token += 1
        return tokens

    def linear(self, node: QuantizedLinear, x: Int64) -> Int64:
        scales = np.repeat(
            self.model.scales[node.name], len(node.matrix.bias) // len(self.model.scales[node.name])
        )
        bits = 16 if node.name in self.added | self.outputs | self.sixteen else 8
        scales = scales / (256 if node.name in self.sixteen else 1)
        acc = self.product(node.matrix, x, node.input_bits)
        factors = self.scale(node.inputs[0]) * node.matrix.scale
        if node.activation is None:
            return saturate(self.scaled(acc, factors / scales, 16), bits)
        return saturate(self.activated(acc, factors, node.activation, float(scales[0])), bits)

    def activated(self, acc: Int64, factors: NDArray[np.float64], name: str, scale: float) -> Int64:
        v = activate(self.scaled(acc, factors * 4096, 18), activation_table(name))
        return requantize(v, *quantize_multiplier(2.0**-19 / scale), 16)

    def attention(self, node: QuantizedAttention, query: Int64, key: Int64, value: Int64) -> Int64:
        out = np.zeros((*query.shape[:2], value.shape[2]), np.int64)
        heads = [np.split(x, node.heads, axis=2) for x in (query, key, value)]
        scales = [np.resize(self.model.scales[name], node.heads) for name in node.inputs]
        width = value.shape[2] // node.heads
        keys = key.shape[1]
        block = self.blocks(node.name, keys)
        for head, (q, k, v) in enumerate(zip(*heads, strict=True)):
            factor = scales[0][head] * scales[1][head] * node.scale * LOG2E * 256
            total = maximum = np.zeros(q.shape[:2], np.int64)
            acc = np.zeros((*q.shape[:2], width), np.int64)
            for start in range(0, keys, block):
                part = slice(start, min(keys, start + block))
                made = softmax_block(
                    q @ k[:, part].transpose(0, 2, 1),
                    *quantize_multiplier(float(factor)),
                    maximum,
                    total,
                    start == 0,
                    np.ones((1, part.stop - part.start), bool),
                )
                maximum, total = made.maximum, made.total
                acc = round_shift(acc, made.growth[..., None])
                if node.p_bits == 8:
                    acc = acc + bytes8(made.p16).astype(np.int64) @ v[:, part]
                else:
                    upper, lower = (digits.astype(np.int64) for digits in high_low(made.p16))
                    acc = acc + upper @ v[:, part] + round_shift(lower @ v[:, part], 8)
            wide = node.name in self.sixteen
            result = self.scale(node.name) / (256 if wide else 1)
            constants = quantize_multiplier(256 * float(scales[2][head]) / result)
            multiplier, shift = reciprocal(total, *constants)
            mixed = requantize(acc, multiplier[..., None], shift[..., None], 16)
            out[..., head * width : (head + 1) * width] = saturate(mixed, 16 if wide else 8)
        return out

    def add(self, node: Add) -> Int64:
        nodes = self.model.by_name
        mixtures = [name for name in node.inputs if isinstance(nodes[name], QuantizedMixture)]
        if not mixtures:
            left, right = (self.values[name] for name in node.inputs)
            return saturate(left + right, 16)
        mixture = nodes[mixtures[0]]
        assert isinstance(mixture, QuantizedMixture)
        (residual,) = (self.values[name] for name in node.inputs if name not in mixtures)
        return self.mixture(mixture, residual.copy(), self.scale(node.name))

    def mixture(self, node: QuantizedMixture, residual: Int64, residual_scale: float) -> Int64:
        name = node.inputs[0]
        x, wide, scale = self.operand(name, node.input_bits), self.wide[name], self.scale(name)
        gate = node.gate_weight[self.task].astype(np.int64)
        score = wide @ gate.T + node.gate_bias[self.task]
        wanted = scale / 256 * node.gate_scale * LOG2E * 256
        score_shift = max(0, math.floor(-8 - math.log2(wanted)))
        constants = quantize_multiplier(wanted * 2.0**score_shift)
        chosen, gates = route(score, score_shift, *constants, node.k, node.renormalize)
        for index, expert in enumerate(node.experts):
            image, token, rank = np.nonzero(chosen == index)
            acc = self.product(expert.fc1, x[image, token], node.input_bits)
            hidden_scale = node.hidden_scale / (256 if node.hidden_bits == 16 else 1)
            made = self.activated(acc, scale * expert.fc1.scale, node.activation, hidden_scale)
            hidden = saturate(made, node.hidden_bits)
            made = self.scaled(
                self.product(expert.fc2, hidden, node.hidden_bits),
                node.hidden_scale * expert.fc2.scale / residual_scale,
                16,
            )
            weighed = stage2_gate(made, gates[image, token, rank][:, None])
            residual[image, token] = saturate(residual[image, token] + weighed, 16)
        return residual
