"""Scale migration: factors per channel moved between a tensor and the weights that read it.

The float graph computes the same; quantized, its channels use their range better (SmoothQuant, arXiv 2211.10438, equation 4,
with the strength chosen for each tensor).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from hwattn.quant.calibration import Statistics, choose_scale, fake
from hwattn.spec.graph import Attention, Float, Graph, LayerNorm, Linear, MixtureOfExperts, Node, Rows

_STRENGTHS = np.linspace(0.0, 1.0, 11)
_ROWS = 1024


def migrate(graph: Graph, statistics: Statistics) -> tuple[Graph, Statistics]:
    """Return a graph of the same function whose LayerNorms and values are easier to quantize.

    Parameters
    ----------
    statistics : Statistics
        Of `graph`.

    Returns
    -------
    Graph
        With the same nodes under the same names.
    Statistics
        Of that graph.
    """
    changed: dict[str, NDArray[np.float32]] = {}
    nodes = dict(graph.by_name)
    outputs = {output.tensor for output in graph.outputs}
    for node in graph.nodes:
        if not (isinstance(node, LayerNorm) or (isinstance(node, Attention) and _only_value(graph, node))):
            continue
        readers = _readers(graph, node.name)
        weights = [weight for reader in readers for weight in _matrices(nodes[reader.name])]
        if not weights or outputs & {node.name, *(r.name for r in readers if isinstance(r, Rows))}:
            continue
        if not all(isinstance(reader, Linear | MixtureOfExperts | Rows) for reader in readers):
            continue
        factors = _factors(statistics.rows(node.name), weights)
        source = nodes[node.name] if isinstance(node, LayerNorm) else nodes[node.inputs[2]]
        nodes[source.name] = _divided(source, factors)
        changed.update(dict.fromkeys((source.name, node.name), factors))
        for reader in readers:
            nodes[reader.name] = _multiplied(nodes[reader.name], factors)
            if isinstance(reader, Rows):
                changed[reader.name] = factors
    moved = dataclasses.replace(graph, nodes=tuple(nodes[node.name] for node in graph.nodes))
    return moved, statistics.divided(changed)


def _readers(graph: Graph, name: str) -> list[Node]:
    """Nodes that read a tensor, also through a choice of rows."""
    found: list[Node] = []
    for node in graph.nodes:
        if name in node.inputs:
            found.append(node)
            if isinstance(node, Rows):
                found += _readers(graph, node.name)
    return found


def _only_value(graph: Graph, node: Attention) -> bool:
    """Whether an attention's value is made by a linear layer for it alone."""
    name = node.inputs[2]
    source = graph.by_name.get(name)
    return (
        isinstance(source, Linear)
        and source.activation is None
        and _readers(graph, name) == [node]
        and name not in node.inputs[:2]
    )


def _matrices(node: Node) -> list[Float]:
    """int8 weights that multiply a node's input."""
    if isinstance(node, Linear):
        return [node.weight]
    if isinstance(node, MixtureOfExperts):
        return [expert.fc1_weight for expert in node.experts]
    return []


def _factors(rows: Float, weights: list[Float]) -> NDArray[np.float32]:
    """Factor of each channel, by which the tensor is divided and the weights are multiplied."""
    reach = np.maximum(np.abs(rows).max(axis=0), 1e-6)
    steep = np.maximum(np.max([np.abs(weight).max(axis=0) for weight in weights], axis=0), 1e-6)
    best = np.ones(len(reach), np.float32)
    sample = rows[:: max(1, len(rows) // _ROWS)]
    least = _error(sample, weights, best)
    for strength in _STRENGTHS:
        factors = np.exp(strength * np.log(reach) - (1 - strength) * np.log(steep))
        factors = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
        error = _error(sample, weights, factors)
        if error < least:
            best, least = factors, error
    return best


def _error(rows: Float, weights: list[Float], factors: NDArray[np.float32]) -> float:
    """Relative squared error of all products with rounded rows and weights."""
    scaled = rows / factors
    rounded = fake(scaled, choose_scale(scaled))
    total = 0.0
    for weight in weights:
        moved = weight * factors
        peaks = np.maximum(np.abs(moved).max(axis=1, keepdims=True), 1e-12) / 127
        exact = rows @ weight.T
        made = rounded @ (np.rint(moved / peaks) * peaks).T
        total += float(np.square(made - exact).sum() / max(float(np.square(exact).sum()), 1e-30))
    return total


def _divided(node: Node, factors: NDArray[np.float32]) -> Node:
    if isinstance(node, LayerNorm):
        return dataclasses.replace(node, gamma=node.gamma / factors, beta=node.beta / factors)
    assert isinstance(node, Linear)
    return dataclasses.replace(node, weight=node.weight / factors[:, None], bias=node.bias / factors)


def _multiplied(node: Node, factors: NDArray[np.float32]) -> Node:
    if isinstance(node, Linear):
        return dataclasses.replace(node, weight=node.weight * factors)
    if isinstance(node, MixtureOfExperts):
        experts = tuple(
            dataclasses.replace(expert, fc1_weight=expert.fc1_weight * factors) for expert in node.experts
        )
        return dataclasses.replace(node, experts=experts, gate_weight=node.gate_weight * factors)
    return node
