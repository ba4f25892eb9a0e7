"""Parts of an ONNX model as models of their own, for the host to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwattn.quant.onnx_file import OnnxModel
from hwattn.quant.onnx_values import Activation, Known, Value
from hwattn.spec.host import HostPart

BATCH = "N"
"""Name of the batch axis of parts."""


def extract(
    model: OnnxModel,
    values: Mapping[str, Value],
    given: Mapping[str, tuple[int, ...]],
    outputs: Sequence[tuple[str, tuple[int, ...] | None]],
) -> HostPart:
    """Cut the nodes that make some tensors out of a model.

    Parameters
    ----------
    values : mapping of str to Value
        What the importer knows of the tensors.
    given : mapping of str to tuple of int
        Tensors (float32) that need not be made: their shapes without the batch axis.
    outputs : sequence of (str, tuple of int or None)
        Tensors to make, and their shapes without the batch axis; None for outputs of the model, described there.
    """
    nodes, read = _needed(model, values, given, [name for name, _ in outputs])
    batch = model.batch or BATCH
    described = {value.name: value for value in [*model.graph.input, *model.graph.output]}
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *given[name]])
        if name in given
        else described[name]
        for name in read
        if name in given or (name in described and name not in model.initializers)
    ]
    made = [
        described[name]
        if shape is None
        else helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])
        for name, shape in outputs
    ]
    weights = [tensor for tensor in model.graph.initializer if tensor.name in read]
    graph = helper.make_graph(nodes, "host", inputs, made, weights)
    proto = helper.make_model(
        graph, opset_imports=list(model.proto.opset_import), ir_version=model.proto.ir_version
    )
    return HostPart(
        np.frombuffer(proto.SerializeToString(), np.uint8).copy(),
        tuple(value.name for value in inputs),
        tuple(name for name, _ in outputs),
    )


def _needed(
    model: OnnxModel,
    values: Mapping[str, Value],
    given: Mapping[str, tuple[int, ...]],
    outputs: Sequence[str],
) -> tuple[list[onnx.NodeProto], list[str]]:
    """Nodes that make `outputs`, in order, and the tensors that none of them makes."""
    producer = {name: i for i, node in enumerate(model.graph.node) for name in node.output if name}
    found: dict[int, list[onnx.NodeProto]] = {}
    read: dict[str, None] = {}
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        number = producer.get(name)
        if name in given or number is None:
            read[name] = None
            continue
        if number in found:
            continue
        node = model.graph.node[number]
        inside = node.op_type == "Shape" and node.input[0] not in given
        if inside and isinstance(values.get(node.input[0]), Activation):
            found[number] = _shape(name, values[name], model.batch, number, next(iter(given)))
            waiting.append(next(iter(given)))
            continue
        found[number] = [node]
        waiting.extend(one for one in node.input if one)
        if node.op_type in ("If", "Loop", "Scan"):
            waiting.extend(_outer_names(node))
    return [node for number in sorted(found) for node in found[number]], list(read)


def _outer_names(node: onnx.NodeProto) -> list[str]:
    """Tensors that the bodies of a control node read from outside."""
    names: list[str] = []
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        for graph in graphs:
            inner = {value.name for value in [*graph.input, *graph.initializer]}
            inner.update(name for one in graph.node for name in one.output)
            for one in graph.node:
                names += [name for name in [*one.input, *_outer_names(one)] if name and name not in inner]
    return names


def _shape(name: str, value: Value, batch: int | None, number: int, like: str) -> list[onnx.NodeProto]:
    """The shape of a tensor that stays on the accelerator; its batch is that of the tensor `like`."""
    assert isinstance(value, Known)
    lengths = np.ravel(value.array).astype(np.int64)

    def constant(array: np.ndarray[tuple[int, ...], np.dtype[np.int64]], suffix: str) -> onnx.NodeProto:
        tensor = numpy_helper.from_array(array)
        return helper.make_node("Constant", [], [f"host_{number}_{suffix}"], value=tensor)

    if batch is not None:
        return [helper.make_node("Constant", [], [name], value=numpy_helper.from_array(lengths))]
    return [
        helper.make_node("Shape", [like], [f"host_{number}_shape"]),
        constant(np.zeros(1, np.int64), "first"),
        helper.make_node(
            "Gather", [f"host_{number}_shape", f"host_{number}_first"], [f"host_{number}_batch"]
        ),
        constant(lengths[1:], "rest"),
        helper.make_node("Concat", [f"host_{number}_batch", f"host_{number}_rest"], [name], axis=0),
    ]
