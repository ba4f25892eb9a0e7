"""The choice of experts as it is looked at: numbers compared with an expert's, one-hot masks, and where they are true."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hwattn.quant.onnx_bases import GateBase
from hwattn.quant.onnx_selections import Choice, Mask, Places, Selection, Weighed
from hwattn.quant.onnx_values import Activation, Known, Refusal, Value
from hwattn.quant.patterns import views
from hwattn.quant.patterns.context import Context, attribute
from hwattn.quant.patterns.mixture import choice_of, in_columns, same_choice, scattered
from hwattn.quant.patterns.selection import REMEDY


def choice(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value] | None:
    """A view of the chosen experts' numbers, or a comparison with an expert's; None for other operators."""
    x, *rest = inputs
    if node.op_type == "Equal":
        if isinstance(x, Known):
            x, rest = rest[0], [x]
        assert isinstance(x, Choice)
        return [_equal(x, context.constant(rest[0], "what the choice is compared with"))]
    if not isinstance(x, Choice):
        return None
    if node.op_type == "OneHot":
        depth = int(np.ravel(context.constant(rest[0], "the depth"))[0])
        values = context.constant(rest[1], "the values")
        if depth != _experts(x.chosen) or not np.array_equal(values, [0, 1]):
            raise Refusal(f"OneHot of depth {depth} with values {values.tolist()}", REMEDY)
        codes = (x.codes[..., None] * depth + np.arange(depth)).astype(np.int32)
        return [Mask(x.chosen, np.moveaxis(codes, -1, attribute(node, "axis", -1)))]
    if node.op_type in views.VIEWS:
        return [Choice(x.chosen, codes) for codes in _moved(context, node, x.codes, rest)]
    return None


def _equal(x: Choice, number: NDArray[Any]) -> Mask:
    experts = _experts(x.chosen)
    if number.dtype.kind not in "iu" or number.min(initial=0) < 0 or number.max(initial=0) >= experts:
        raise Refusal(f"the choice of {experts} experts is compared with {number.tolist()}", REMEDY)
    return Mask(x.chosen, (x.codes * experts + number).astype(np.int32))


def _moved(
    context: Context, node: onnx.NodeProto, codes: NDArray[Any], rest: list[Value | None]
) -> list[NDArray[Any]]:
    known = [None if value is None else context.constant(value, "an argument") for value in rest]
    moved = context.run(node, [codes, *known])
    if not all(part.size for part in moved):
        raise Refusal("its result is empty", "check the bounds of slices and splits")
    return moved


def mask(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value] | None:
    """What a node makes of tests for an expert, or of routing weights times them; None where it is not understood."""
    x, *rest = inputs
    match node.op_type, x, rest:
        case "Mul", Activation(), [Mask() as other]:
            return [_weigh(context, x, other)]
        case "Mul", Mask(), [Activation() as gate]:
            return [_weigh(context, gate, x)]
        case "NonZero", Mask(), []:
            return [_nonzero(x)]
        case "Greater", Mask(), [Known(scalar=0)]:
            return [x]
        case "ReduceSum" | "ReduceMax", Mask() | Weighed(), _:
            return [_reduced(context, node, x, rest)]
        case op, Mask(), _ if op in views.VIEWS:
            return [Mask(x.chosen, codes, x.anywhere) for codes in _moved(context, node, x.codes, rest)]
        case op, Weighed(), _ if op in views.VIEWS:
            return [Weighed(x.weights, codes) for codes in _moved(context, node, x.codes, rest)]
    return None


def ones(node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """Ones scattered into zeros: which experts a token chose."""
    data, x, updates = inputs[:3]
    assert isinstance(x, Choice) and isinstance(data, Known) and isinstance(updates, Known)
    experts, k = _experts(x.chosen), x.chosen.k
    row = x.codes[..., :1] // k
    in_order = x.codes.shape[-1] == k and np.array_equal(x.codes, row * k + np.arange(k))
    plain = attribute(node, "axis", 0) in (-1, x.codes.ndim - 1) and data.scalar == 0 and updates.scalar == 1
    fits = data.array.shape == (*x.codes.shape[:-1], experts) and updates.array.shape == x.codes.shape
    if not plain or not fits or not in_order or attribute(node, "reduction", b"none") != b"none":
        raise Refusal("constants that are scattered to the chosen experts are not ones in zeros", REMEDY)
    return [Mask(x.chosen, (row * experts + np.arange(experts)).astype(np.int32), anywhere=True)]


def greater(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """Whether a routing weight is more than zero: whether the expert was chosen."""
    x, other = inputs
    gates = x.base if isinstance(x, Activation) and x.curve is None else None
    zero = isinstance(other, Known) and other.scalar == 0
    if not isinstance(x, Activation) or not isinstance(gates, GateBase) or gates.stage != "gates" or not zero:
        raise Refusal("Greater of something else than routing weights and zero", REMEDY)
    return [Mask(choice_of(gates), x.full_index(), anywhere=True)]


def _weigh(context: Context, gate: Activation, x: Mask) -> Value:
    """Routing weights where an expert was chosen, zero elsewhere."""
    base, experts = gate.base, _experts(x.chosen)
    shape = np.broadcast_shapes(gate.shape, x.shape)
    index, codes = np.broadcast_to(gate.full_index(), shape), np.broadcast_to(x.codes, shape)
    if not isinstance(base, GateBase) or gate.curve is not None or base.logits is not x.chosen.logits:
        raise Refusal("a choice of experts is multiplied by something else than its routing weights", REMEDY)
    if base.stage == "chosen" and not x.anywhere and same_choice(base, x.chosen):
        if np.array_equal(index, codes // experts):
            return Weighed(base, codes)
    elif base.stage == "softmax" and x.anywhere and np.array_equal(index, codes):
        gates = context.once(
            ("masked", base.order, x.chosen.order),
            lambda: in_columns(context, x.chosen, "gates", normalized=True),
        )
        return Activation(gates, shape, context.unless_whole(gates, codes), node=context.node)
    raise Refusal("routing weights meet the choice of other tokens or experts", REMEDY)


def _reduced(context: Context, node: onnx.NodeProto, x: Mask | Weighed, rest: list[Value | None]) -> Value:
    """The sum or maximum over a token's choices: whether, or with which weight, the expert is among them."""
    axes = attribute(node, "axes") if not rest else np.ravel(context.constant(rest[0], "its axes"))
    keep = bool(attribute(node, "keepdims", 1))
    if axes is None and isinstance(x, Mask) and node.op_type == "ReduceSum":
        count = np.array(_nonzero(x).shape[1], np.int64)
        return Known((count.reshape((1,) * (x.codes.ndim if keep else 0)),), counted=True)
    experts, k = _experts(x.chosen), x.chosen.k
    if axes is None or len(axes) != 1 or (isinstance(x, Mask) and x.anywhere):
        raise Refusal("a sum over something else than a token's choices", REMEDY)
    chosen, number = np.divmod(np.moveaxis(x.codes, int(axes[0]), -1), experts)
    row, place = np.divmod(chosen, k)
    every = place.shape[-1] == k and (place == np.arange(k)).all()
    if not every or (row != row[..., :1]).any() or (number != number[..., :1]).any():
        raise Refusal("a sum over something else than a token's choices", REMEDY)
    codes = (row * experts + number)[..., 0].astype(np.int32)
    if keep:
        codes = np.expand_dims(codes, int(axes[0]))
    if isinstance(x, Mask):
        return Mask(x.chosen, codes, anywhere=True)
    if node.op_type != "ReduceSum":
        raise Refusal("the largest of a token's routing weights", REMEDY)
    gates = scattered(context, x.weights)
    return Activation(gates, codes.shape, context.unless_whole(gates, codes), node=context.node)


def _nonzero(x: Mask) -> Places:
    """Where an expert was chosen, token by token."""
    experts, k = _experts(x.chosen), x.chosen.k
    tested = 1 if x.anywhere else k
    number, codes = x.codes.ravel() % experts, x.codes.ravel() // experts
    choices = int(codes.max()) + 1
    repeats = max(1, codes.size // choices)
    whole = codes.size == choices * repeats and choices % tested == 0
    runs = codes.reshape(choices, repeats) if whole else codes[:, None]
    once = np.array_equal(np.sort(runs[:, 0]), np.arange(choices)) and (runs == runs[:, :1]).all()
    if not whole or not once:
        raise Refusal("a choice of experts that is looked at in part only", REMEDY)
    if (number != number[0]).any():
        raise Refusal("the tokens of several experts at once", REMEDY)
    order = np.argsort(codes, kind="stable").reshape(-1, tested, repeats)
    # in any order, so that nothing which moves tokens among the selected ones can pass for a view
    rows = np.random.default_rng([len(order), int(number[0])]).permutation(len(order))
    order = order[rows]
    numbers = tuple(
        np.stack(np.unravel_index(order[:, place % tested].ravel(), x.codes.shape)).astype(np.int64)
        for place in range(k)
    )
    return Places(Selection(x.chosen, int(number[0]), runs[:, 0].tobytes(), rows.tobytes()), numbers)


def _experts(chosen: GateBase) -> int:
    return chosen.logits.features
