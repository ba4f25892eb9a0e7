"""Element-wise operators: functions of one tensor, biases and scales, residual additions, weighted experts."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from hwattn.quant.onnx_bases import AddBase, Base, ConvBase, GateBase, MixtureBase
from hwattn.quant.onnx_selections import ExpertsBase
from hwattn.quant.onnx_values import Activation, Known, Moment, NaNTest, Refusal, Scores, Total, Value
from hwattn.quant.patterns import attention, experts, layernorm, mixture
from hwattn.quant.patterns.context import Context, attribute
from hwattn.quant.patterns.folding import fold
from hwattn.quant.patterns.pointwise import BINARY, UNARY, samples, simplify
from hwattn.quant.patterns.tokens import Tokens, placed, settle_curve, tokens_of, tokenwise


def unary(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """An element-wise function of one tensor."""
    x = inputs[0]
    if isinstance(x, Moment):
        step = layernorm.unary(node.op_type, x)
        if step is None:
            raise Refusal(f"{node.op_type} within a LayerNorm", "write LayerNorm as torch exports it")
        return [step]
    if not isinstance(x, Activation):
        raise Refusal(
            f"{node.op_type} of something else than the result of a layer",
            "apply activations to the result of a linear layer",
        )
    x = placed(context, x)
    with np.errstate(all="ignore"):
        curve = np.asarray(UNARY[node.op_type](node, samples(x.curve)))
    return [Activation(x.base, x.shape, x.index, simplify(curve), None, context.node)]


def clip(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """Clip between constants."""
    x, low, high = (*inputs, None, None)[:3]
    bounds = [
        attribute(node, name, default) if value is None else _scalar(value)
        for name, value, default in (("min", low, -np.inf), ("max", high, np.inf))
    ]
    if not isinstance(x, Activation) or None in bounds:
        raise Refusal("Clip of something else than the result of a layer", "clip only within an activation")
    x = placed(context, x)
    curve = np.clip(samples(x.curve), bounds[0], bounds[1])
    return [Activation(x.base, x.shape, x.index, simplify(curve), None, context.node)]


def many(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """Operators of two operands, and Sum, Min and Max of any number."""
    op = "Add" if node.op_type == "Sum" else node.op_type
    if not inputs or any(value is None for value in inputs):
        raise Refusal(f"{node.op_type} without operands", "check the model with onnx.checker")
    result = inputs[0]
    assert result is not None
    for value in inputs[1:]:
        assert value is not None
        result = binary(context, op, result, value)
    return [result]


def where(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """The guard against rows of attention that are masked altogether: ``where(isnan(p), 0, p)``."""
    condition, safe, x = inputs
    if isinstance(condition, NaNTest) and condition.of is x and isinstance(safe, Known) and safe.scalar == 0:
        return [x]
    raise Refusal(
        "Where that depends on the image or masks scores", "remove attention masks and data-dependent choices"
    )


def binary(context: Context, op: str, left: Value, right: Value) -> Value:
    """The result of an element-wise operator of two values."""
    step = layernorm.combine(context, op, left, right)
    if step is not None:
        return step
    if isinstance(left, Scores) or isinstance(right, Scores):
        return _scale_scores(op, left, right)
    if isinstance(left, Total) or isinstance(right, Total):
        return _total(context, op, left, right)
    if isinstance(left, Activation) and isinstance(right, Known):
        return _with_constant(context, op, left, right, swapped=False)
    if isinstance(left, Known) and isinstance(right, Activation):
        return _with_constant(context, op, right, left, swapped=True)
    if isinstance(left, Activation) and isinstance(right, Activation):
        return _two_activations(context, op, left, right)
    raise Refusal(
        f"{op} within a LayerNorm or a routing that is not written as torch exports it",
        "use torch.nn.LayerNorm, and a mixture of softmax, topk, scatter and a sum of gates times experts",
    )


def _scalar(value: Value) -> float | None:
    return value.scalar if isinstance(value, Known) else None


def _scale_scores(op: str, left: Value, right: Value) -> Value:
    scores, other = (left, right) if isinstance(left, Scores) else (right, left)
    factor = _scalar(other)
    if isinstance(scores, Scores) and factor is not None:
        match op:
            case "Mul":
                return attention.scaled(scores, factor)
            case "Div" if scores is left and factor != 0:
                return attention.scaled(scores, 1 / factor)
            case "Add" | "Sub" if factor == 0 and scores is left:
                return scores
    raise Refusal(
        f"{op} on attention scores: a mask or bias",
        "remove attention masks and relative position biases: only a constant scale is mapped",
    )


def _total(context: Context, op: str, left: Value, right: Value) -> Value:
    if isinstance(left, Activation) and isinstance(right, Total) and op == "Div":
        return mixture.renormalized(context, left, right)
    if isinstance(left, Total) and op in ("Add", "Max"):
        small = _scalar(right)
        if small is not None and 0 <= small <= mixture.NEGLIGIBLE:
            return left
    raise Refusal(f"{op} with a sum of routing weights", "divide routing weights by their sum, or leave them")


def _with_constant(context: Context, op: str, x: Activation, constant: Known, *, swapped: bool) -> Value:
    if constant.arrays[0].dtype.kind != "f":
        raise Refusal(f"{op} of activations and {constant.arrays[0].dtype}", "export the model in float32")
    if len(constant.arrays) == 1 and isinstance(x.base, ConvBase) and op in ("Add", "Sub"):
        return _offset(context, op, x, constant.array, swapped=swapped)
    scalar = constant.scalar
    if not _fits(x, constant):
        raise Refusal(
            f"a constant of shape {constant.arrays[0].shape} widens a tensor of shape {x.shape}",
            "use constants that broadcast to the tensor",
        )
    x = placed(context, x)
    if scalar is not None:
        pair = (scalar, samples(x.curve)) if swapped else (samples(x.curve), scalar)
        with np.errstate(all="ignore"):
            curve = np.asarray(BINARY[op](*pair), np.float64)
        return Activation(x.base, x.shape, x.index, simplify(curve), None, context.node)
    return _per_feature(context, op, x, constant, swapped=swapped)


def _fits(x: Activation, constant: Known) -> bool:
    """The constant broadcasts to the tensor without widening it."""
    try:
        return np.broadcast_shapes(x.shape, constant.arrays[0].shape) == x.shape
    except ValueError:
        return False


def _offset(
    context: Context, op: str, x: Activation, constant: NDArray[np.generic], *, swapped: bool
) -> Activation:
    """Constants added to patches: class tokens, position embeddings."""
    if x.curve is not None or (op == "Sub" and swapped):
        raise Refusal("the patch embedding is scaled or negated", "scale its weights instead", x.node)
    try:
        moved = np.broadcast_to(np.asarray(constant, np.float32), x.shape)
    except ValueError as error:
        raise Refusal(
            f"a constant of shape {constant.shape} added to patches of shape {x.shape}",
            "add position embeddings of the tokens' own shape",
        ) from error
    before = np.zeros(x.shape, np.float32) if x.offset is None else x.offset
    return Activation(
        x.base, x.shape, x.index, None, before + moved if op == "Add" else before - moved, context.node
    )


def _per_feature(context: Context, op: str, x: Activation, constant: Known, *, swapped: bool) -> Activation:
    """A bias or scale with one number per feature, folded into the layer before it."""
    if x.curve is not None:
        x = settle_curve(context, x)
    vectors = [_vector(x, array) for array in constant.arrays]
    vector = np.stack(vectors) if len(vectors) > 1 else vectors[0]
    zero, one = np.zeros(x.base.features), np.ones(x.base.features)
    folded: Base | None = None
    match op, swapped:
        case "Add", _:
            folded = fold(context, x.base, one, vector)
        case "Sub", False:
            folded = fold(context, x.base, one, -vector)
        case "Sub", True:
            folded = fold(context, x.base, -one, vector)
        case "Mul", _:
            folded = fold(context, x.base, vector, zero)
        case "Div", False if vector.all():
            folded = fold(context, x.base, 1 / vector, zero)
    if folded is None:
        raise Refusal(
            f"{op} with a vector of constants that no layer before it can take up",
            "add biases and scales right behind a linear layer or LayerNorm",
        )
    return Activation(folded, x.shape, x.index, node=context.node)


def _vector(x: Activation, constant: NDArray[np.generic]) -> NDArray[np.float64]:
    """The constant as one number per feature of the base; 0 for features that are not there."""
    features = x.base.features
    wide = np.asarray(constant, np.float64)
    if x.index is None and constant.shape[-1] == features and constant.size == features:
        return wide.reshape(features)
    index = x.full_index() % features
    wide = np.broadcast_to(wide, x.shape)
    vector = np.zeros(features)
    vector[index] = wide
    if not np.array_equal(vector[index], wide):
        raise Refusal(
            "constants that differ from token to token are added or multiplied behind the embedding",
            "add position embeddings to the patches, before the first block",
        )
    return vector


def _two_activations(context: Context, op: str, left: Activation, right: Activation) -> Activation:
    if left.same_elements(right):
        if left.offset is not None:
            left = right = placed(context, left)
        with np.errstate(all="ignore"):
            curve = np.asarray(BINARY[op](samples(left.curve), samples(right.curve)))
        return Activation(left.base, left.shape, left.index, simplify(curve), None, context.node)
    if op == "Add":
        return (
            experts.added(context, left, right)
            or mixture.merged(context, left, right)
            or _residual(context, left, right)
        )
    if op == "Mul":
        for gate, expert in ((left, right), (right, left)):
            if isinstance(gate.base, GateBase) and isinstance(expert.base, ExpertsBase):
                return experts.weighted(context, gate, expert)
            if isinstance(gate.base, GateBase):
                return mixture.weighted(context, gate, expert)
    raise Refusal(
        f"{op} of the results of two different layers",
        "only residual additions and gates times experts are mapped",
    )


def _residual(context: Context, left: Activation, right: Activation) -> Activation:
    if left.shape != right.shape:
        raise Refusal(
            f"a sum of tensors of shapes {left.shape} and {right.shape}", "add tensors of one shape"
        )
    one, other = _partial(context, left), _partial(context, right)
    same_rows = (
        one.rows is None
        if other.rows is None
        else one.rows is not None and np.array_equal(one.rows, other.rows)
    )
    same = one.base.tokens == other.base.tokens and one.base.features == other.base.features
    if not same or not same_rows:
        raise Refusal("a sum of different tokens", "add tensors whose tokens are in the same order")
    base = context.new(
        AddBase, tokens=one.base.tokens, features=one.base.features, left=one.base, right=other.base
    )
    return tokenwise(context, base, one)


def _partial(context: Context, x: Activation) -> Tokens:
    """The tokens of a summand; a mixture may still wait for the rest of its experts."""
    if isinstance(x.base, MixtureBase) and x.curve is None and x.shape[-1] == x.base.features:
        whole = np.arange(context.batch * x.base.tokens * x.base.features, dtype=np.int32)
        if np.array_equal(x.full_index().ravel(), whole):
            return Tokens(x.base, None, x.shape[:-1])
    return tokens_of(context, x)
