"""ONNX in, `Graph` out: every node is mapped, or refused with a reason and a remedy."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwattn.quant.onnx_file import OnnxModel, read_onnx
from hwattn.quant.onnx_graph import make_nodes, name_bases, reachable
from hwattn.quant.onnx_interpreter import Walk, walk
from hwattn.quant.onnx_values import (
    Activation,
    AddBase,
    AttentionBase,
    Base,
    GateBase,
    LinearBase,
    MixtureBase,
    NormBase,
    PatchBase,
    Refusal,
    RowsBase,
    Unknown,
)
from hwattn.quant.patterns.tokens import Tokens, tokens_of
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import (
    Attention,
    Graph,
    Linear,
    MixtureOfExperts,
    Node,
    Output,
    PatchEmbed,
    Rows,
)

__all__ = [
    "ImportReport",
    "MappedNode",
    "RefusedNode",
    "count_macs",
    "graph_of",
    "import_onnx",
    "refusal_of",
]


_MAPPABLE = (PatchBase, NormBase, LinearBase, AttentionBase, AddBase, RowsBase, MixtureBase)
_NO_SOFTMAX = "remove the softmax from the model's end: return logits"


@dataclass(frozen=True)
class MappedNode:
    """An ONNX node and what it became: names of graph nodes, or how it was folded away."""

    node: str
    op: str
    becomes: str


@dataclass(frozen=True)
class RefusedNode:
    """An ONNX node that cannot be mapped, why, and what to do."""

    node: str
    op: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class ImportReport:
    """What became of an ONNX model.

    Parameters
    ----------
    graph : Graph or None
        None where anything is refused.
    mapped : tuple of MappedNode
        In the order of the file.
    refused : tuple of RefusedNode
        In the order of the file; a node behind a refused one is in neither list but counted in `unreached`.
    unreached : int
        Nodes that were not looked at because one before them is refused.
    host : tuple of str
        Parts left to onnxruntime; none, for now: a model is mapped as a whole or refused.
    macs : int
        Multiply-accumulates for one image; 0 where refused.
    parameters : int
        Numbers in weights, biases and constant tokens; 0 where refused.
    """

    graph: Graph | None
    mapped: tuple[MappedNode, ...]
    refused: tuple[RefusedNode, ...]
    unreached: int
    host: tuple[str, ...]
    macs: int
    parameters: int


def graph_of(path: Path) -> Graph:
    """Import an ONNX file that must be mapped as a whole.

    Raises
    ------
    RefusedError
        The file is no usable ONNX model, or a node of it is refused; the message names every such node.
    """
    report = import_onnx(path)
    if report.graph is None:
        raise refusal_of(path, report)
    return report.graph


def refusal_of(path: Path, report: ImportReport) -> RefusedError:
    """The refused nodes of a report as one error."""
    shown = [f"{entry.op} {entry.node}: {entry.reason} ({entry.remedy})" for entry in report.refused[:5]]
    more = [f"{len(report.refused) - 5} more"] if len(report.refused) > 5 else []
    count = len(report.refused)
    return RefusedError(
        f"{path}: {count} node{'s' * (count != 1)} cannot be mapped: {'; '.join(shown + more)}",
        "a Vision Transformer or mixture-of-experts ViT that hwattn maps as a whole",
        f"change the model as said; the whole table: hwattn import {path}",
    )


def import_onnx(path: Path) -> ImportReport:
    """Import an ONNX file.

    Parameters
    ----------
    path : Path
        The file; external data is read from beside it.

    Raises
    ------
    RefusedError
        The file is no usable ONNX model at all. What cannot be mapped in one is in the report instead.
    """
    model = read_onnx(path)
    report = _import(model, model.batch or 2)
    if report.graph is None or model.batch is not None:
        return report
    # a constant that happens to equal the batch must not pass for it
    other = _import(model, 3)
    if other.graph is None:
        return other
    if not _equal(report.graph, other.graph):
        refusal = RefusedNode(
            model.image,
            "input",
            "the result for an image depends on how many images are in the batch",
            "export with a dynamic batch axis, and let images not depend on each other",
        )
        return ImportReport(None, report.mapped, (refusal,), 0, (), 0, 0)
    return report


def _import(model: OnnxModel, batch: int) -> ImportReport:
    steps = walk(model, batch)
    refused = dict(steps.refused)
    outputs: list[tuple[int, Base, tuple[int, ...]]] = []
    refused_outputs: list[RefusedNode] = []
    for number, value in enumerate(steps.outputs):
        try:
            base = _output(steps, value)
            if base is not None:
                outputs.append((number, base, _shape(value)))
        except Refusal as refusal:
            if refusal.node is not None and refusal.node >= 0:
                refused.setdefault(refusal.node, refusal)
                continue
            refused_outputs.append(
                RefusedNode(model.graph.output[number].name, "output", refusal.reason, refusal.remedy)
            )
    roots = [base for _, base, _ in outputs]
    # where something is refused, the report still tells what the nodes before it became
    bases = reachable([*roots, *steps.frontier])
    heads = {base.order: model.graph.output[number].name for number, base, _ in outputs}
    names = name_bases(bases, heads)
    nodes, impossible = make_nodes(reachable(roots), names, model.image, steps.context.tasks)
    for blamed, reason in impossible:
        refused.setdefault(max(0, steps.context.made_by[blamed.order]), reason)
    rows = [_refused_row(model, number, refused[number]) for number in sorted(refused)] + refused_outputs
    shown: list[Base] = [base for base in bases if isinstance(base, _MAPPABLE)]
    shown_names = {base.order: names[base.order] for base in shown}
    mapped = tuple(_mapped_rows(model, steps, shown, shown_names, set(refused)))
    if rows or len(outputs) < len(steps.outputs):
        return ImportReport(None, mapped, tuple(rows), len(steps.unreached), (), 0, 0)
    graph = Graph(
        image=model.image,
        image_shape=model.image_shape,
        task_input=model.task,
        tasks=steps.context.tasks,
        nodes=tuple(nodes),
        outputs=tuple(
            Output(
                model.graph.output[number].name,
                names[base.order],
                shape,
                number if model.task is not None else None,
            )
            for number, base, shape in outputs
        ),
    )
    return ImportReport(graph, mapped, (), 0, (), count_macs(graph), _parameters(graph.nodes))


def _output(steps: Walk, value: object) -> Base | None:
    """The base of a model output, laid out as (batch, tokens, features); None behind a refused node."""
    remedy = "return logits (batch, classes) or (batch, tokens, classes)"
    if isinstance(value, Unknown):
        return None
    if not isinstance(value, Activation):
        raise Refusal("it is not the result of a layer", remedy)
    if isinstance(value.base, GateBase):
        raise Refusal("it is a softmax, or the weights of a gate", _NO_SOFTMAX, value.node)
    tokens = tokens_of(steps.context, value)
    batch, rows = steps.context.batch, int(np.prod(value.shape[1:-1]))
    if tokens.rows is not None or value.shape[0] != batch or rows != tokens.base.tokens:
        raise Refusal(f"its shape {value.shape[1:]} is not tokens by features", remedy)
    return tokens.base


def _shape(value: object) -> tuple[int, ...]:
    assert isinstance(value, Activation)
    return tuple(int(size) for size in value.shape[1:])


def _node_name(model: OnnxModel, number: int) -> str:
    node = model.graph.node[number]
    return node.name or next(iter(node.output), "") or f"#{number}"


def _refused_row(model: OnnxModel, number: int, refusal: Refusal) -> RefusedNode:
    node = model.graph.node[number]
    return RefusedNode(_node_name(model, number), node.op_type, refusal.reason, refusal.remedy)


def _mapped_rows(
    model: OnnxModel, steps: Walk, bases: list[Base], names: dict[int, str], refused: set[int]
) -> list[MappedNode]:
    """What each node became: the graph nodes made from its result, else those of the nodes that read it."""
    made: dict[int, list[str]] = {}
    for base in bases:
        ancestor: Base | None = base
        while ancestor is not None:
            made.setdefault(ancestor.order, []).append(names[base.order])
            ancestor = ancestor.parent
        if isinstance(base, MixtureBase):
            for part in (base.gates, base.gates.logits, *base.experts.values()):
                for inner in _chain(part):
                    made.setdefault(inner.order, []).append(names[base.order])
    place = {names[base.order]: index for index, base in enumerate(bases)}
    readers: dict[str, set[str]] = {}
    rows: list[MappedNode] = []
    for number in reversed(range(len(model.graph.node))):
        node = model.graph.node[number]
        own = {name for base, settled in steps.made[number] for name in _names_of(base, settled, names, made)}
        labels = own or set().union(*(readers.get(name, set()) for name in node.output))
        for name in node.input:
            readers.setdefault(name, set()).update(labels)
        if number in refused or number in steps.unreached:
            continue
        nothing = "part of what is refused" if refused else "unused"
        text = ", ".join(sorted(labels, key=place.__getitem__)) or nothing
        becomes = f"constant of {text}" if steps.constant[number] and labels else text
        rows.append(MappedNode(_node_name(model, number), node.op_type, becomes))
    return rows[::-1]


def _names_of(
    base: Base, settled: list[object], names: dict[int, str], made: dict[int, list[str]]
) -> list[str]:
    """The graph nodes that were made from a base, or just the one that it was settled to."""
    for tokens in settled:
        if isinstance(tokens, Tokens) and tokens.base.order in names:
            return [names[tokens.base.order]]
    return made.get(base.order, [])


def _chain(base: Base | None) -> list[Base]:
    """A step of a mixture, what it refines, and the layers of an expert before it."""
    found: list[Base] = []
    while base is not None:
        found.append(base)
        source = getattr(base, "source", None)
        if base.parent is None and source is not None and getattr(source, "activation", None):
            base = source
        else:
            base = base.parent
    return found


def count_macs(graph: Graph) -> int:
    """Multiply-accumulates of the graph for one image; of a mixture only those of the chosen experts."""
    tokens: dict[str, int] = {}
    total = 0
    for node in graph.nodes:
        count = tokens.get(node.inputs[0], 0)
        match node:
            case PatchEmbed():
                _, height, width = graph.image_shape
                patches = (height // node.weight.shape[2]) * (width // node.weight.shape[3])
                total += patches * node.weight.size
                count = len(node.init)
            case Linear():
                total += count * node.weight.size
            case Attention():
                dim = _features(graph, node.inputs[0]) + _features(graph, node.inputs[2])
                total += count * tokens[node.inputs[1]] * dim
            case MixtureOfExperts():
                expert = max(e.fc1_weight.size + e.fc2_weight.size for e in node.experts)
                total += count * (node.gate_weight[0].size + node.k * expert)
            case Rows():
                count = node.stop - node.start
        tokens[node.name] = count
    return total


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


def _arrays(value: Any) -> list[Any]:
    """Every array and plain value of a dataclass, in order."""
    if is_dataclass(value):
        return [
            item for entry in fields(value) if entry.compare for item in _arrays(getattr(value, entry.name))
        ]
    if isinstance(value, tuple):
        return [item for part in value for item in _arrays(part)]
    return [value]


def _equal(left: Graph, right: Graph) -> bool:
    """Both graphs are the same, number for number."""
    one, other = _arrays(left), _arrays(right)
    return len(one) == len(other) and all(
        a is b or np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True)
    )


def _parameters(nodes: tuple[Node, ...]) -> int:
    return sum(item.size for item in _arrays(nodes) if isinstance(item, np.ndarray))
