"""ONNX in, `Graph` out: every node is mapped, or refused with a reason and a remedy."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwattn.quant.counting import arrays_of, count_macs, count_parameters
from hwattn.quant.given import Given, given_of
from hwattn.quant.hybrid import Cut, cuts
from hwattn.quant.onnx_bases import (
    AddBase,
    AttentionBase,
    Base,
    LinearBase,
    MixtureBase,
    NormBase,
    PatchBase,
    RowsBase,
)
from hwattn.quant.onnx_file import NO_CHANGES, Changes, OnnxModel, read_onnx
from hwattn.quant.onnx_graph import make_nodes, name_bases, reachable
from hwattn.quant.onnx_interpreter import Walk, walk
from hwattn.quant.onnx_values import Refusal, Unknown
from hwattn.quant.patterns.context import shape_of
from hwattn.quant.patterns.folding import describe
from hwattn.quant.patterns.tokens import Tokens
from hwattn.quant.ports import Port, port_of
from hwattn.quant.streams import with_streams
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Graph, Output

__all__ = [
    "ImportReport",
    "MappedNode",
    "RefusedNode",
    "count_macs",
    "graph_and_scales",
    "graph_of",
    "import_onnx",
    "refusal_of",
]


_MAPPABLE = (PatchBase, NormBase, LinearBase, AttentionBase, AddBase, RowsBase, MixtureBase)


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
        Parts left to onnxruntime, at the front or the back.
    macs : int
        Multiply-accumulates for one image; 0 where refused.
    parameters : int
        Numbers in weights, biases and constant tokens; 0 where refused.
    given : Given or None
        The scales of a quantized file (QDQ); None for a float model.
    """

    graph: Graph | None
    mapped: tuple[MappedNode, ...]
    refused: tuple[RefusedNode, ...]
    unreached: int
    host: tuple[str, ...]
    macs: int
    parameters: int
    given: Given | None = None


def graph_of(path: Path, changes: Changes = NO_CHANGES) -> Graph:
    """Import an ONNX file whose encoder must be mapped as a whole; see `graph_and_scales`."""
    return graph_and_scales(path, changes)[0]


def graph_and_scales(path: Path, changes: Changes = NO_CHANGES) -> tuple[Graph, Given | None]:
    """Import an ONNX file whose encoder must be mapped as a whole, and the scales of a quantized one.

    Raises
    ------
    RefusedError
        The file is no usable ONNX model, or a node of it is refused; the message names every such node.
    """
    report = import_onnx(path, changes)
    if report.graph is None:
        raise refusal_of(path, report)
    return report.graph, report.given


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


def import_onnx(path: Path, changes: Changes = NO_CHANGES) -> ImportReport:
    """Import an ONNX file.

    Parameters
    ----------
    path : Path
        The file; external data is read from beside it.
    changes : Changes
        Lengths of named axes, and inputs that are constant.

    Raises
    ------
    RefusedError
        The file is no usable ONNX model at all. What cannot be mapped in one is in the report instead.
    """
    model = read_onnx(path, changes)
    batches = [model.batch] if model.batch is not None else [2, 3]
    # a constant that happens to equal the batch must not pass for it
    reports = [report for batch in batches if (report := _import(model, batch)) is not None]
    first, last = reports[0], reports[-1]
    if last.graph is None or first.graph is None:
        return first if first.graph is None else last
    if not _equal(first.graph, last.graph):
        refusal = RefusedNode(
            first.graph.image,
            "input",
            "the result for an image depends on how many images are in the batch",
            "export with a dynamic batch axis, and let images not depend on each other",
        )
        return ImportReport(None, first.mapped, (refusal,), 0, (), 0, 0)
    return first


def _import(model: OnnxModel, batch: int) -> ImportReport:
    """Map the whole model, or all of it between a front and a back."""
    whole = _whole(model, batch) if model.problem is None else None
    if whole is not None and whole.graph is not None:
        return whole
    for cut in cuts(model, batch):
        report = _assemble(model, cut, {}, [])
        if report.graph is not None:
            return report
    if whole is not None:
        return whole
    assert model.problem is not None
    raise model.problem


def _whole(model: OnnxModel, batch: int) -> ImportReport:
    steps = walk(model, batch)
    refused = dict(steps.refused)
    ports: list[Port] = []
    refused_outputs: list[RefusedNode] = []
    for number, value in enumerate(steps.outputs):
        name = model.graph.output[number].name
        try:
            if not isinstance(value, Unknown):
                port = port_of(steps.context, name, value, number if model.task is not None else None)
                _check_port(port)
                ports.append(port)
        except Refusal as refusal:
            if refusal.node is not None and refusal.node >= 0:
                refused.setdefault(refusal.node, refusal)
                continue
            refused_outputs.append(RefusedNode(name, "output", refusal.reason, refusal.remedy))
    return _assemble(model, Cut(steps, None, ports), refused, refused_outputs)


def _check_port(port: Port) -> None:
    """Refuse what the machine has in eight bits only."""
    if isinstance(port.base, NormBase | AttentionBase | MixtureBase):
        raise Refusal(
            f"it is {describe(port.base)}, which the machine makes in eight bits",
            "return the residual stream, or a linear layer's result",
        )


def _assemble(
    model: OnnxModel, cut: Cut, refused: dict[int, Refusal], refused_outputs: list[RefusedNode]
) -> ImportReport:
    steps, ports = cut.steps, cut.ports
    roots = [port.base for port in ports]
    # where something is refused, the report still tells what the nodes before it became
    bases = reachable([*roots, *(steps.frontier if cut.back is None else [])])
    heads = {port.base.order: port.name for port in ports if cut.back is None or _is_linear(port)}
    names = name_bases(bases, heads)
    image = model.image if cut.start is None else cut.start
    nodes, impossible = make_nodes(reachable(roots), names, image, steps.context.tasks)
    for blamed, reason in impossible:
        refused.setdefault(max(0, steps.context.made_by[blamed.order]), reason)
    rows = [_refused_row(model, number, refused[number]) for number in sorted(refused)] + refused_outputs
    shown: list[Base] = [base for base in bases if isinstance(base, _MAPPABLE)]
    shown_names = {base.order: names[base.order] for base in shown}
    host = {"front": cut.front_nodes, "back": cut.back_nodes}
    mapped = tuple(_mapped_rows(model, steps, shown, shown_names, set(refused), host))
    if rows or (cut.back is None and len(ports) < len(steps.outputs)):
        return ImportReport(None, mapped, tuple(rows), len(steps.unreached), (), 0, 0)
    shape = model.image_shape
    if cut.start is not None:
        _, tokens, features = shape_of(steps.values[cut.start]) or (0, 0, 0)
        shape = (1, tokens, 2 * features)
    graph = Graph(
        image=image,
        image_shape=shape,
        task_input=model.task,
        tasks=steps.context.tasks,
        nodes=tuple(nodes),
        outputs=tuple(Output(port.name, names[port.base.order], port.shape, port.task) for port in ports),
        front=cut.front,
        back=cut.back,
        fixed=dict(model.fixed),
    )
    macs, parameters = count_macs(graph), count_parameters(graph.nodes)
    try:
        graph = with_streams(graph)
    except Refusal as refusal:
        row = RefusedNode(image, "embedding", refusal.reason, refusal.remedy)
        return ImportReport(None, mapped, (row,), 0, (), 0, 0)
    given = given_of(steps.context, reachable(roots), names, image, front=cut.start is not None)
    if given is not None:
        given = given.for_graph(graph)
    return ImportReport(graph, mapped, (), 0, _host_rows(model, cut), macs, parameters, given)


def _is_linear(port: Port) -> bool:
    return isinstance(port.base, LinearBase)


def _host_rows(model: OnnxModel, cut: Cut) -> tuple[str, ...]:
    """A sentence for each part that the host runs."""
    rows = []
    if cut.front is not None:
        rows.append(
            f"front, up to {cut.start}: {_operators(model, cut.front_nodes) or 'nothing, it is an input'}"
        )
    if cut.back is not None:
        given = ", ".join(port.name for port in cut.ports)
        rows.append(f"back, from {given}: {_operators(model, cut.back_nodes)}")
    return tuple(rows)


def _operators(model: OnnxModel, numbers: set[int]) -> str:
    counts = Counter(model.graph.node[number].op_type for number in sorted(numbers))
    counts.pop("Constant", None)
    return ", ".join(f"{count} {op}" if count > 1 else op for op, count in counts.items())


def _node_name(model: OnnxModel, number: int) -> str:
    node = model.graph.node[number]
    return node.name or next(iter(node.output), "") or f"#{number}"


def _refused_row(model: OnnxModel, number: int, refusal: Refusal) -> RefusedNode:
    node = model.graph.node[number]
    return RefusedNode(_node_name(model, number), node.op_type, refusal.reason, refusal.remedy)


def _mapped_rows(
    model: OnnxModel,
    steps: Walk,
    bases: list[Base],
    names: dict[int, str],
    refused: set[int],
    host: dict[str, set[int]],
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
        side = next((name for name, numbers in host.items() if number in numbers), None)
        if side is not None:
            rows.append(MappedNode(_node_name(model, number), node.op_type, f"host, {side}"))
            continue
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


def _equal(left: Graph, right: Graph) -> bool:
    """Both graphs are the same, number for number."""
    one, other = arrays_of(left), arrays_of(right)
    return len(one) == len(other) and all(
        a is b or np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True)
    )
