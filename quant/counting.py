"""How much a graph computes and holds."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from hwattn.spec.graph import (
    Attention,
    Graph,
    Linear,
    MixtureOfExperts,
    Node,
    PatchEmbed,
    Rows,
)


def count_macs(graph: Graph) -> int:
    """Multiply-accumulates of the graph for one image; of a mixture only those of the chosen experts."""
    tokens = token_counts(graph)
    total = 0
    for node in graph.nodes:
        count = tokens.get(node.inputs[0], 0)
        match node:
            case PatchEmbed():
                _, height, width = graph.image_shape
                patches = (height // node.weight.shape[2]) * (width // node.weight.shape[3])
                total += patches * node.weight.size
            case Linear():
                total += count * node.weight.size
            case Attention():
                dim = _features(graph, node.inputs[0]) + _features(graph, node.inputs[2])
                total += count * tokens[node.inputs[1]] * dim
            case MixtureOfExperts():
                expert = max(e.fc1_weight.size + e.fc2_weight.size for e in node.experts)
                total += count * (node.gate_weight[0].size + node.k * expert)
    return total


def token_counts(graph: Graph) -> dict[str, int]:
    """Tokens of every tensor of one image."""
    tokens: dict[str, int] = {}
    for node in graph.nodes:
        match node:
            case PatchEmbed():
                tokens[node.name] = len(node.init)
            case Rows():
                tokens[node.name] = node.stop - node.start
            case _:
                tokens[node.name] = tokens.get(node.inputs[0], 0)
    return tokens


def _features(graph: Graph, name: str) -> int:
    """Features of a query or value: those of the layer that made it."""
    node = graph.by_name[name]
    while not isinstance(node, Linear):
        if isinstance(node, PatchEmbed):
            return int(node.init.shape[1])
        if hasattr(node, "gamma"):
            return int(node.gamma.size)
        node = graph.by_name[node.inputs[-1]]
    return int(node.weight.shape[0])


def count_parameters(nodes: tuple[Node, ...]) -> int:
    """Numbers in weights, biases and constant tokens."""
    return sum(item.size for item in arrays_of(nodes) if isinstance(item, np.ndarray))


def arrays_of(value: Any) -> list[Any]:
    """Every array and plain value of a dataclass, in order."""
    if is_dataclass(value):
        return [
            item for entry in fields(value) if entry.compare for item in arrays_of(getattr(value, entry.name))
        ]
    if isinstance(value, tuple):
        return [item for part in value for item in arrays_of(part)]
    return [value]
