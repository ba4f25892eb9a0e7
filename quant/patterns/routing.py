"""What to do with an operator that reads the choice of experts, or tensors that depend on it."""

from __future__ import annotations

import onnx

from hwattn.quant.onnx_selections import Choice, Gathered, Mask, Places, Selected, Weighed
from hwattn.quant.onnx_values import Activation, Known, Refusal, Routed, Value
from hwattn.quant.patterns import experts, masks, mixture, products, selection, views
from hwattn.quant.patterns.context import Context, attribute
from hwattn.quant.patterns.put_back import put_back

SCATTER = frozenset(["Scatter", "ScatterElements", "ScatterND"])
FLOAT = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
UNCHANGED = frozenset(["Cast", "Identity", "Dropout"])


def routed(
    context: Context, node: onnx.NodeProto, inputs: list[Value | None], handler: selection.Handler | None
) -> list[Value]:
    """Carry out a node of which an input is `Routed`; `handler` is that for activations.

    Raises
    ------
    Refusal
        It is no step of a mixture of experts that is understood.
    """
    op = node.op_type
    first, second = (*inputs, None)[:2]
    kinds = {type(value) for value in inputs if isinstance(value, Routed)}
    made: list[Value] | None = None
    if op in SCATTER:
        made = _scattered(context, node, inputs) if Choice in kinds else put_back(context, node, inputs)
    elif op in ("Gather", "GatherND") and isinstance(second, Places):
        made = selection.take(context, node, first, second)
    elif op in ("Gather", "GatherND") and isinstance(first, Known) and isinstance(second, Choice):
        made = [experts.of_chosen(node, first, second)]
    elif op == "GatherElements" and isinstance(second, Choice):
        made = [experts.results_of_chosen(context, node, first, second)]
    elif Selected in kinds:
        made = selection.selected(context, node, inputs, handler)
    elif Places in kinds:
        made = selection.places(context, node, inputs)
    elif op in UNCHANGED:
        made = [_unchanged(node, first)]
    elif kinds == {Gathered}:
        made = _gathered(context, node, inputs)
    elif kinds == {Choice}:
        made = masks.choice(context, node, inputs)
    elif kinds <= {Mask, Weighed}:
        made = masks.mask(context, node, inputs)
    if made is None:
        raise Refusal(f"{op} of a choice of experts", selection.REMEDY)
    return made


def _unchanged(node: onnx.NodeProto, x: Value | None) -> Value:
    assert x is not None
    target = attribute(node, "to", FLOAT[0])
    truncates = isinstance(x, Weighed | Gathered) and target not in FLOAT
    if truncates or (isinstance(x, Choice) and target == onnx.TensorProto.BOOL):
        name = onnx.TensorProto.DataType.Name(target)
        raise Refusal(f"a cast to {name} of a step of routing", "export the model in float32")
    return x


def _scattered(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    if all(isinstance(value, Known | Choice) for value in inputs[:3]):
        return masks.ones(node, inputs)
    return mixture.scatter(context, node, inputs)


def _gathered(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value] | None:
    match node.op_type, inputs:
        case "MatMul", _:
            return products.matmul(context, node, inputs)
        case "Einsum", _:
            return products.einsum(context, node, inputs)
        case "Add", [Activation() as x, Gathered() as bias] | [Gathered() as bias, Activation() as x]:
            return [experts.add(context, x, bias)]
        case op, [Gathered() as x, *rest] if op in views.VIEWS:
            return [experts.view(context, node, x, rest)]
    return None
