"""Small random quantized models with plausible scales."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from hwattn.spec.graph import Add, Node, Output, Rows
from hwattn.spec.quantized import (
    QuantizedAttention,
    QuantizedExpert,
    QuantizedLayerNorm,
    QuantizedLinear,
    QuantizedMatrix,
    QuantizedMixture,
    QuantizedModel,
    QuantizedPatchEmbed,
)

RESIDUAL_SCALE = 1 / 2048


class ModelBuilder:
    """Builds a pre-norm ViT node by node; scales are chosen so that values fill their ranges."""

    def __init__(self, seed: int, dim: int, tasks: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.dim, self.tasks = dim, tasks
        self.nodes: list[Node] = []
        self.scales: dict[str, Any] = {}

    def add(self, node: Node, scale: float | Any) -> str:
        self.nodes.append(node)
        self.scales[node.name] = np.atleast_1d(np.asarray(scale, np.float64))
        return node.name

    def matrix(self, outputs: int, inputs: int, input_scale: float) -> QuantizedMatrix:
        weight = self.rng.integers(-127, 128, (outputs, inputs)).astype(np.int8)
        scale = (0.5 + self.rng.random(outputs)) / 73 / np.sqrt(inputs)
        bias = np.round(self.rng.normal(0, 0.2, outputs) / (scale * input_scale)).astype(np.int32)
        return QuantizedMatrix(weight, scale, bias)

    def embed(self, image_shape: tuple[int, int, int], kernel: tuple[int, int], first: int) -> str:
        channels, height, width = image_shape
        self.scales["image"] = np.array([2 / 127])
        patches = (height // kernel[0]) * (width // kernel[1])
        weight = self.rng.integers(-127, 128, (self.dim, channels, *kernel)).astype(np.int8)
        scale = (0.5 + self.rng.random(self.dim)) / 73 / np.sqrt(weight[0].size)
        init = np.round(self.rng.normal(0, 0.5, (first + patches, self.dim)) / RESIDUAL_SCALE)
        node = QuantizedPatchEmbed("embed", ("image",), weight, scale, init.astype(np.int16), first)
        return self.add(node, RESIDUAL_SCALE)

    def norm(self, name: str, source: str, wide: bool = False) -> str:
        gamma = self.rng.integers(8000, 16000, self.dim).astype(np.int16)
        beta = self.rng.integers(-(2**20), 2**20, self.dim).astype(np.int32)
        zero_mean = len(self.nodes) % 3 == 1
        node = QuantizedLayerNorm(name, (source,), gamma, beta, 20, self.dim**2 * 40, wide, zero_mean)
        return self.add(node, 2.0 ** (20 - 11) / 12000)

    def linear(self, name: str, source: str, outputs: int, scale: Any, activation: str | None = None) -> str:
        inputs = self.features(source)
        matrix = self.matrix(outputs, inputs, float(self.scales[source][0]))
        return self.add(QuantizedLinear(name, (source,), matrix, activation), scale)

    def features(self, name: str) -> int:
        node = next(one for one in self.nodes if one.name == name)
        match node:
            case QuantizedLinear():
                return node.matrix.weight.shape[0]
            case QuantizedAttention():
                return self.features(node.inputs[2])
            case Rows():
                return self.features(node.inputs[0])
        return self.dim

    def attention(self, x: str, name: str, heads: int, p_bits: int = 8, key_block: int = 0) -> str:
        normed = self.norm(f"{name}.norm", x)
        q, k, v = (
            self.linear(f"{name}.{part}", normed, self.dim, 3 / 127 * (0.9 + 0.2 * self.rng.random(heads)))
            for part in "qkv"
        )
        node = QuantizedAttention(
            f"{name}.mix", (q, k, v), heads, (self.dim // heads) ** -0.5, p_bits, key_block
        )
        mixed = self.add(node, 2.5 / 127)
        branch = self.linear(f"{name}.proj", mixed, self.dim, RESIDUAL_SCALE)
        return self.add(Add(f"{name}.add", (x, branch)), RESIDUAL_SCALE)

    def mlp(self, x: str, name: str, hidden: int, activation: str = "gelu") -> str:
        normed = self.norm(f"{name}.norm", x)
        inner = self.linear(f"{name}.fc1", normed, hidden, 3 / 127, activation)
        branch = self.linear(f"{name}.fc2", inner, self.dim, RESIDUAL_SCALE)
        return self.add(Add(f"{name}.add", (branch, x)), RESIDUAL_SCALE)

    def mixture(
        self,
        x: str,
        name: str,
        hidden: int,
        experts: int,
        k: int,
        renormalize: bool = False,
        activation: str = "gelu",
    ) -> str:
        normed = self.norm(f"{name}.norm", x, wide=True)
        scale = float(self.scales[normed][0])
        made = tuple(
            QuantizedExpert(self.matrix(hidden, self.dim, scale), self.matrix(self.dim, hidden, 3 / 127))
            for _ in range(experts)
        )
        gate_scale = 1 / 8192 / np.sqrt(self.dim)
        gate = self.rng.integers(-32639, 32640, (self.tasks, experts, self.dim)).astype(np.int16)
        bias = np.round(self.rng.normal(0, 0.2, (self.tasks, experts)) / (scale / 256 * gate_scale))
        node = QuantizedMixture(
            f"{name}.mixture",
            (normed,),
            made,
            activation,
            3 / 127,
            gate,
            gate_scale,
            bias.astype(np.int64),
            k,
            renormalize,
        )
        branch = self.add(node, RESIDUAL_SCALE)
        return self.add(Add(f"{name}.add", (x, branch)), RESIDUAL_SCALE)

    def rows(self, name: str, source: str, start: int, stop: int) -> str:
        return self.add(Rows(name, (source,), start, stop), self.scales[source])

    def finish(self, image_shape: tuple[int, int, int], outputs: list[Output]) -> QuantizedModel:
        return QuantizedModel(
            "random",
            "image",
            image_shape,
            "task" if self.tasks > 1 else None,
            self.tasks,
            tuple(self.nodes),
            tuple(outputs),
            self.scales,
        )


def vit(
    seed: int = 0,
    image: tuple[int, int, int] = (1, 8, 8),
    kernel: tuple[int, int] = (2, 2),
    dim: int = 48,
    heads: int = 3,
    hidden: int = 96,
    blocks: str = "dm",
    experts: int = 8,
    expert_hidden: int = 32,
    k: int = 2,
    p_bits: int = 8,
    key_block: int = 0,
    renormalize: bool = False,
    tasks: int = 2,
    first: int = 1,
    bits: int = 8,
) -> QuantizedModel:
    """A ViT whose blocks are dense (d) or mixtures (m): task 0 classifies, the others work on every patch.

    With `bits` 16, every linear layer and expert reads 16 bits.
    """
    build = ModelBuilder(seed, dim, tasks)
    x = build.embed(image, kernel, first)
    tokens = build.nodes[0].init.shape[0]  # type: ignore[attr-defined]
    for index, kind in enumerate(blocks):
        x = build.attention(x, f"b{index}.attn", heads, p_bits, key_block)
        if kind == "m":
            x = build.mixture(x, f"b{index}.moe", expert_hidden, experts, k, renormalize)
        else:
            x = build.mlp(x, f"b{index}.mlp", hidden)
    normed = build.norm("norm", x)
    outputs = []
    for task in range(tasks):
        start, stop = (0, 1) if task == 0 else (first, tokens)
        rows = build.rows(f"rows{task}", normed, start, stop)
        classes = 10 if task == 0 else 6
        head = build.linear(f"head{task}", rows, classes, 4 / 32767)
        shape = (classes,) if task == 0 else (stop - start, classes)
        outputs.append(Output(f"out{task}", head, shape, task))
    if bits == 16:
        build.nodes = [sixteen(node) for node in build.nodes]
        # the division by the sum of probabilities ends at 2**15
        for name in build.scales:
            if name.endswith(".mix"):
                build.scales[name] = np.array([6.7 / 127])
    return build.finish(image, outputs)


def sixteen(node: Node) -> Node:
    """A layer that reads 16 bits."""
    match node:
        case QuantizedLinear():
            return dataclasses.replace(node, input_bits=16)
        case QuantizedMixture():
            return dataclasses.replace(node, input_bits=16, hidden_bits=16)
        case QuantizedLayerNorm():
            return dataclasses.replace(node, wide=True)
    return node
