"""Models that the accelerator runs in part: what is cut off at the front or at the back, and why not in the middle.

At the front the host makes tokens (batch, tokens, features): an embedding of words, a convolutional stem. At the back it
takes over from tensors that the accelerator can give out: results of linear layers and the residual stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx

from hwattn.quant.onnx_bases import AddBase, AttentionBase, Base, LinearBase, PatchBase, RowsBase
from hwattn.quant.onnx_file import OnnxModel
from hwattn.quant.onnx_graph import reachable
from hwattn.quant.onnx_interpreter import ATTENTION, PRODUCTS, Walk, walk
from hwattn.quant.onnx_parts import extract
from hwattn.quant.onnx_values import Activation, Foreign, Known, Refusal, Unknown, Value
from hwattn.quant.patterns.context import shape_of
from hwattn.quant.ports import Port, port_of
from hwattn.spec.host import HostPart

STARTS_MAX = 48
"""Tensors tried as the beginning of the accelerator's part."""


@dataclass
class Cut:
    """A model in parts.

    Parameters
    ----------
    steps : Walk
        Of the accelerator's part.
    start : str or None
        The tensor that the host hands over; None where the image comes in.
    ports : list of Port
        What the accelerator gives out.
    front, back : HostPart or None
    front_nodes, back_nodes : set of int
        Nodes that the host runs.
    """

    steps: Walk
    start: str | None
    ports: list[Port]
    front: HostPart | None = None
    back: HostPart | None = None
    front_nodes: set[int] = field(default_factory=set)
    back_nodes: set[int] = field(default_factory=set)


def cuts(model: OnnxModel, batch: int) -> Iterator[Cut]:
    """Ways to cut a model, the largest part for the accelerator first."""
    if model.task is not None:
        return
    for start in _starts(model, batch):
        try:
            steps = walk(model, batch, start, keep=True)
            made = _cut(model, steps, start)
        except Refusal:
            continue
        if made is not None:
            yield made


def _starts(model: OnnxModel, batch: int) -> Iterator[str | None]:
    if model.problem is None:
        yield None
    try:
        values = walk(model, batch, "", keep=True).values
    except Refusal:
        return
    found = 0
    order = [entry.name for entry in model.inputs]
    order += [name for node in model.graph.node for name in node.output if name]
    for name in order:
        value = values.get(name)
        if isinstance(value, Foreign) and value.example.dtype.kind == "f" and value.example.ndim == 3:
            yield name
            found += 1
            if found == STARTS_MAX:
                return


def _cut(model: OnnxModel, steps: Walk, start: str | None) -> Cut | None:
    """The cut at the back that the refused nodes ask for; None where they lie in the middle."""
    host, ports = _host_nodes(model, steps)
    if not ports or any(_of_encoder(steps, model.graph.node[number]) for number in host):
        return None
    bases = reachable([port.base for port in ports])
    if not any(isinstance(base, AttentionBase) for base in bases):
        return None
    made = Cut(steps, start, ports, back_nodes=host)
    given = {port.name: port.shape for port in ports}
    rest = [(value.name, None) for value in model.graph.output if value.name not in given]
    if rest:
        made.back = extract(model, steps.values, given, rest)
    if start is not None:
        value = steps.values[start]
        assert isinstance(value, Activation)
        made.front = extract(model, steps.values, {}, [(start, value.shape[1:])])
        made.front_nodes = _before(model, start)
    return made


def _host_nodes(model: OnnxModel, steps: Walk) -> tuple[set[int], list[Port]]:
    """Nodes behind the accelerator, and what they and the model's outputs take from it."""
    producer = {name: i for i, node in enumerate(model.graph.node) for name in node.output if name}
    host = set(steps.refused) | steps.unreached
    ports: dict[str, Port] = {}
    seen: set[str] = set()
    waiting = [value.name for value in model.graph.output]
    waiting += [name for number in host for name in model.graph.node[number].input if name]
    while waiting:
        name = waiting.pop()
        value = steps.values.get(name)
        if name in seen or value is None or isinstance(value, Known | Foreign | Unknown):
            continue
        seen.add(name)
        port = _port(steps, name, value)
        if port is not None:
            ports[name] = port
        elif name not in producer:
            raise Refusal("the host needs the accelerator's input", "")
        elif producer[name] not in host:
            host.add(producer[name])
            waiting.extend(one for one in model.graph.node[producer[name]].input if one)
    return host, [ports[name] for name in sorted(ports, key=lambda one: producer.get(one, -1))]


def _port(steps: Walk, name: str, value: Value) -> Port | None:
    """The tensor as something that the accelerator can give out, or None."""
    if not isinstance(value, Activation) or len(value.shape) < 2:
        return None
    try:
        port = port_of(steps.context, name, value)
    except Refusal:
        return None
    return port if _given_out(port.base) else None


def _given_out(base: Base) -> bool:
    while isinstance(base, RowsBase):
        base = base.source
    return isinstance(base, LinearBase | AddBase | PatchBase)


def _of_encoder(steps: Walk, node: onnx.NodeProto) -> bool:
    """The node is an attention or a residual addition, which are what the accelerator is for."""
    values = [steps.values.get(name) for name in node.input if name]
    depends = [value for value in values if not isinstance(value, Known | None)]
    if node.op_type in ATTENTION:
        return True
    if node.op_type in PRODUCTS:
        return sum(not isinstance(value, Foreign) for value in depends) > 1
    shapes = [shape_of(value) or () for value in depends]
    return node.op_type == "Add" and len(depends) > 1 and any(len(s) > 2 and s[1] > 1 for s in shapes)


def _before(model: OnnxModel, start: str) -> set[int]:
    """Nodes that `start` is made of."""
    producer = {name: i for i, node in enumerate(model.graph.node) for name in node.output if name}
    found: set[int] = set()
    waiting = [start]
    while waiting:
        number = producer.get(waiting.pop())
        if number is not None and number not in found:
            found.add(number)
            waiting.extend(name for name in model.graph.node[number].input if name)
    return found
