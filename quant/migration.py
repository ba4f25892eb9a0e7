"""Scale migration: factors per channel moved between a tensor and the weights that read it.

The float graph computes the same; quantized, its channels use their range better (SmoothQuant, arXiv 2211.10438, equation 4,
with the strength chosen for each tensor). Keys are centred besides: what all keys have in common changes no softmax
(SageAttention, arXiv 2410.02367, section 4.2).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwattn.quant.calibration import Statistics, choose_scale, choose_shared_scale, fake
from hwattn.quant.reference import probabilities
from hwattn.quant.weights import unexplained
from hwattn.spec.graph import Attention, Float, Graph, LayerNorm, Linear, MixtureOfExperts, Node, Rows

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
    nodes = dict(graph.by_name)
    statistics = _center_keys(graph, nodes, statistics)
    changed: dict[str, NDArray[np.float32]] = {}
    for node in graph.nodes:
        if isinstance(node, Attention) and _own_operand(graph, node, 0) and _own_operand(graph, node, 1):
            query, key = node.inputs[:2]
            factors = _balance(statistics.rows(query), statistics.rows(key), node.heads)
            for name, by in ((query, np.reciprocal(factors)), (key, factors)):
                nodes[name] = _divided(nodes[name], by)
                changed[name] = by
    outputs = {output.tensor for output in graph.outputs}
    for node in graph.nodes:
        if not (
            isinstance(node, LayerNorm) or (isinstance(node, Attention) and _own_operand(graph, node, 2))
        ):
            continue
        readers = _readers(graph, node.name)
        seen = readings(graph, nodes, statistics, node.name)
        if not seen or outputs & {node.name, *(r.name for r in readers if isinstance(r, Rows))}:
            continue
        if not all(isinstance(reader, Linear | MixtureOfExperts | Rows) for reader in readers):
            continue
        factors = _value_factors(node, statistics, seen) if isinstance(node, Attention) else _factors(seen)
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


def _own_operand(graph: Graph, node: Attention, position: int) -> bool:
    """Whether an attention's query (0), key (1) or value (2) is made by a linear layer for that alone."""
    name = node.inputs[position]
    source = graph.by_name.get(name)
    return (
        isinstance(source, Linear)
        and source.activation is None
        and _readers(graph, name) == [node]
        and node.inputs.count(name) == 1
        and all(output.tensor != name for output in graph.outputs)
    )


def _center_keys(graph: Graph, nodes: dict[str, Node], statistics: Statistics) -> Statistics:
    """Move the mean of the keys out of the key's bias; `nodes` is changed, the new statistics are returned."""
    means: dict[str, NDArray[np.float32]] = {}
    for node in graph.nodes:
        if isinstance(node, Attention) and _own_operand(graph, node, 1):
            key = nodes[node.inputs[1]]
            assert isinstance(key, Linear)
            means[key.name] = statistics.rows(key.name).mean(axis=0)
            nodes[key.name] = dataclasses.replace(key, bias=key.bias - means[key.name])
    return statistics.moved(means)


def _balance(query: Float, key: Float, heads: int) -> NDArray[np.float32]:
    """Factor of each channel, by which keys are divided and queries multiplied, for the least error of the scores."""
    reach_q, reach_k = (np.maximum(np.abs(rows).max(axis=0), 1e-6) for rows in (query, key))
    power_q, power_k = (np.square(rows, dtype=np.float64).mean(axis=0) for rows in (query, key))

    def noise(factors: NDArray[np.float32]) -> float:
        # q and k have one scale per head; the error of one meets the power of the other
        step_q, step_k = (
            np.square(reach.reshape(heads, -1).max(axis=1))
            for reach in (reach_q * factors, reach_k / factors)
        )
        met_q = (power_q * np.square(factors)).reshape(heads, -1).sum(axis=1)
        met_k = (power_k / np.square(factors)).reshape(heads, -1).sum(axis=1)
        return float((step_q * met_k + step_k * met_q).sum())

    choices = [np.ones(len(reach_q), np.float32), *_strengths(reach_k, reach_q)]
    return min(choices, key=noise)


def _strengths(reach: Float, steep: Float) -> list[NDArray[np.float32]]:
    """Factors from all in the weights (or queries) to all in the tensor (or keys), with a geometric mean of 1."""
    found = []
    for strength in np.linspace(0.0, 1.0, 11):
        exponents = float(strength) * np.log(reach) - float(1 - strength) * np.log(steep)
        found.append(np.exp(exponents - exponents.mean()).astype(np.float32))
    return found


def readings(
    graph: Graph, nodes: Mapping[str, Node], statistics: Statistics, name: str
) -> list[tuple[Float, list[Float]]]:
    """What the linear layers see of a tensor: rows, and the int8 weights (out, in) that multiply them.

    Parameters
    ----------
    nodes : mapping of str to Node
        The nodes to take weights from.
    """
    found: list[tuple[Float, list[Float]]] = []
    direct = [node for node in graph.nodes if name in node.inputs]
    weights = [weight for reader in direct for weight in _matrices(nodes[reader.name])]
    if weights:
        found.append((statistics.rows(name), weights))
    for reader in direct:
        if isinstance(reader, Rows):
            found += readings(graph, nodes, statistics, reader.name)
    return found


def _matrices(node: Node) -> list[Float]:
    """int8 weights that multiply a node's input."""
    if isinstance(node, Linear):
        return [node.weight]
    if isinstance(node, MixtureOfExperts):
        return [expert.fc1_weight for expert in node.experts]
    return []


def _factors(seen: list[tuple[Float, list[Float]]]) -> NDArray[np.float32]:
    """Factor of each channel, by which the tensor is divided and the weights are multiplied."""
    halves = [[_half(rows, number) for rows, _ in seen] for number in (0, 1)]
    products = [
        [
            _Product.of(rows[:: max(1, len(rows) // _ROWS)], weights)
            for rows, (_, weights) in zip(half, seen, strict=True)
        ]
        for half in halves
    ]

    def error(fit: int, factors: NDArray[np.float32]) -> float:
        other = products[1 - fit]
        return _error(halves[fit], other, [product.rows / factors for product in other], factors)

    return _chosen(halves[0], halves[1], seen, error)


def _value_factors(
    node: Attention, statistics: Statistics, seen: list[tuple[Float, list[Float]]]
) -> NDArray[np.float32]:
    """As `_factors`, for the result of an attention: the values are divided too, and rounded with one scale for each head."""
    query, key, value = (statistics.whole[name] for name in node.inputs)
    query = query[:, :: max(1, query.shape[0] * query.shape[1] // _ROWS)]
    cut = (len(value) + 1) // 2
    parts = [slice(0, cut), slice(min(cut, len(value) - 1), None)]
    values = [value[part] for part in parts]
    chances = [probabilities(node, query[part], key[part]) for part in parts]
    weights = [weight for _, matrices in seen for weight in matrices]
    halves = [_Product.of(_mixed(node, p, v), weights) for p, v in zip(chances, values, strict=True)]

    def error(fit: int, factors: NDArray[np.float32]) -> float:
        own = (values[fit] / factors).reshape(-1, len(factors))
        heads = np.split(own[:: max(1, len(own) // _ROWS)], node.heads, axis=1)
        scale = np.repeat([choose_scale(part) for part in heads], heads[0].shape[1])
        rows = _mixed(node, chances[1 - fit], fake(values[1 - fit] / factors, scale))
        return _error([halves[fit].rows], [halves[1 - fit]], [rows], factors)

    return _chosen([halves[0].rows], [halves[1].rows], seen, error)


def _mixed(node: Attention, p: Float, value: Float) -> Float:
    """Rows of P v, the heads side by side."""
    heads = value.reshape(*value.shape[:2], node.heads, -1).transpose(0, 2, 1, 3)
    return (p @ heads).transpose(0, 2, 1, 3).reshape(-1, value.shape[-1])


def _half(rows: Float, number: int) -> Float:
    """The first or the second half of the rows; where there is one row alone, both are that."""
    cut = (len(rows) + 1) // 2
    return rows[:cut] if number == 0 else rows[min(cut, len(rows) - 1) :]


def _chosen(
    first: list[Float],
    second: list[Float],
    seen: list[tuple[Float, list[Float]]],
    error: Callable[[int, NDArray[np.float32]], float],
) -> NDArray[np.float32]:
    """The strength whose factors, chosen on one half of the rows, leave the least error on the other, with the factors of all rows.

    Factors that flatten channels by what few rows reach would let other rows clip in every channel.
    """
    reaches = [np.max([np.abs(rows).max(axis=0) for rows in half], axis=0) for half in (first, second)]
    folds = [_choices(reach, seen) for reach in reaches]
    errors = [error(0, one) + error(1, other) for one, other in zip(*folds, strict=True)]
    return _choices(np.maximum(*reaches), seen)[int(np.argmin(errors))]


def _choices(reach: Float, seen: list[tuple[Float, list[Float]]]) -> list[NDArray[np.float32]]:
    """Factors to choose from, for channels of this reach."""
    steep = np.max([np.abs(weight).max(axis=0) for _, weights in seen for weight in weights], axis=0)
    ones = np.ones(len(reach), np.float32)
    return [ones, *_strengths(np.maximum(reach, 1e-6), np.maximum(steep, 1e-6))]


@dataclass(frozen=True)
class _Product:
    """Rows, the weights that multiply them, and for each of these the power of the exact product.

    `rest` is what GPTQ leaves of the variance of each channel: that which the channels rounded after it do not explain.
    """

    rows: Float
    weights: list[Float]
    power: list[float]
    rest: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Float, weights: list[Float]) -> _Product:
        """The products of `rows` with each of `weights`."""
        power = [max(float(np.square(rows @ weight.T).sum()), 1e-30) for weight in weights]
        return cls(rows, weights, power, unexplained(rows))


def _error(fit: list[Float], other: list[_Product], seen: list[Float], factors: NDArray[np.float32]) -> float:
    """Sum of the relative squared errors of the products `other`, whose rows were changed to `seen` before they are rounded.

    Scale and bias correction are those of the rows `fit`. Rounding errors of weights are those that GPTQ leaves, step^2 / 12 of the
    unexplained variance.
    """
    moved_fit = [rows / factors for rows in fit]
    scale = choose_shared_scale([(rows, None) for rows in moved_fit])
    total = 0.0
    for own, product, rows in zip(moved_fit, other, seen, strict=True):
        offset = (fake(own, scale) - own).mean(axis=0)
        rest = float((product.rest / np.square(factors)).sum()) * len(rows)
        moved_error = fake(rows, scale) - product.rows / factors - offset
        for weight, power in zip(product.weights, product.power, strict=True):
            moved = weight * factors
            steps = np.abs(moved).max(axis=1).astype(np.float64) / 127
            error = float(np.square(moved_error @ moved.T).sum())
            total += (error + float(np.square(steps).sum()) / 12 * rest) / power
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
