"""MatMul and Einsum: linear layers, the two products of attention, and those of a mixture with stacked weights."""

from __future__ import annotations

import onnx

from hwattn.quant.onnx_bases import GateBase
from hwattn.quant.onnx_selections import ExpertsBase, Gathered
from hwattn.quant.onnx_values import Activation, Known, Refusal, Scores, Value
from hwattn.quant.patterns import attention, experts, linear
from hwattn.quant.patterns.context import Context, attribute, shape_of

_REMEDY = "write linear layers as x @ W and attention as softmax(q k^T * scale) v"


def matmul(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """MatMul of activations with weights, or of two activations."""
    left, right = inputs
    assert left is not None and right is not None
    match left, right:
        case Activation(), Known() if sum(size > 1 for size in right.arrays[0].shape[:-2]) == 0:
            return [linear.linear(context, left, right)]
        case Activation(base=GateBase()), Activation(base=ExpertsBase()):
            pass
        case Activation(), Activation():
            return [attention.scores(context, left, right)]
        case Scores(), Activation():
            return [attention.attend(context, left, right)]
    ranks = [len(shape_of(value) or ()) for value in (left, right)]
    if min(ranks) < 2:
        raise Refusal(f"a product of tensors of {ranks[0]} and {ranks[1]} axes", _REMEDY)
    batch = "abcdefgh"[: max(ranks) - 2]
    names = [batch[len(batch) + 2 - rank :] + last for rank, last in zip(ranks, ("xy", "yz"), strict=True)]
    return [_product(context, left, names[0], right, names[1], batch + "xz")]


def einsum(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """Einsum of two operands, its result named."""
    equation = attribute(node, "equation", b"").decode().replace(" ", "")
    terms, arrow, out = equation.partition("->")
    names = terms.split(",")
    plain = arrow and len(names) == len(inputs) == 2 and equation.replace("->", "").replace(",", "").isalpha()
    shapes = [shape_of(value) for value in inputs]
    fits = [shape is not None and len(shape) == len(name) for shape, name in zip(shapes, names, strict=False)]
    if not plain or not all(fits):
        raise Refusal(f"Einsum of {equation!r}", "write it as MatMul, Reshape and Transpose")
    left, right = inputs
    assert left is not None and right is not None
    return [_product(context, left, names[0], right, names[1], out)]


def _product(context: Context, left: Value, names: str, right: Value, others: str, out: str) -> Value:
    if isinstance(left, Known | Gathered) or isinstance(right, Scores):
        left, names, right, others = right, others, left, names
    if isinstance(left, Activation) and isinstance(left.base, ExpertsBase) and _is_gate(right):
        left, names, right, others = right, others, left, names
    if isinstance(left, Activation):
        names, left = _narrowed(left, names, others, right)
    if isinstance(right, Activation):
        others, right = _narrowed(right, others, names, left)
    match left, right:
        case Activation(), Known() if right.arrays[0].ndim == 2:
            return _linear(context, left, names, right, others, out)
        case Activation(), Known() | Gathered():
            weights = right if isinstance(right, Gathered) else experts.of_all(right)
            return experts.product(context, left, names, weights, others, out)
        case Activation(base=GateBase()), Activation(base=ExpertsBase()):
            return experts.contracted(context, left, names, right, others, out)
        case Activation(), Activation():
            return _scores(context, left, names, right, others, out)
        case Scores(), Activation():
            return _attend(context, left, names, right, others, out)
    raise Refusal("a product that is neither tokens times weights nor a step of attention", _REMEDY)


def _is_gate(value: Value) -> bool:
    return isinstance(value, Activation) and isinstance(value.base, GateBase)


def _narrowed(x: Activation, names: str, others: str, other: Value) -> tuple[str, Activation]:
    """Without the axes of length 1 that are widened to the other operand's."""
    sizes = dict(zip(others, shape_of(other) or (), strict=True))
    kept = [i for i, name in enumerate(names) if x.shape[i] > 1 or sizes.get(name, 1) == 1]
    if len(kept) == len(names):
        return names, x
    shape = tuple(x.shape[i] for i in kept)
    index = x.full_index().reshape(shape)
    return "".join(names[i] for i in kept), Activation(x.base, shape, index, x.curve, node=x.node)


def _ordered(x: Activation, names: str, order: str) -> Activation:
    """The axes of a tensor in another order."""
    if sorted(names) != sorted(order):
        raise Refusal(f"an Einsum that turns axes {names} into {order}", "write it as MatMul")
    if names == order:
        return x
    axes = [names.index(name) for name in order]
    index = x.full_index().transpose(axes)
    offset = None if x.offset is None else x.offset.transpose(axes)
    return Activation(x.base, index.shape, index, x.curve, offset, x.node)


def _linear(context: Context, x: Activation, names: str, weight: Known, others: str, out: str) -> Activation:
    over = [name for name in others if name in names and name not in out]
    if len(over) != 1 or len(set(others)) != 2 or set(others) - set(over) & set(names):
        raise Refusal(f"an Einsum of {names} and weights {others}", "multiply tokens by one matrix")
    tokens = names.replace(over[0], "")
    arrays = tuple(array if others[0] == over[0] else array.T for array in weight.arrays)
    y = linear.linear(context, _ordered(x, names, tokens + over[0]), Known(arrays))
    return _ordered(y, tokens + others.replace(over[0], ""), out)


def _scores(context: Context, q: Activation, names: str, k: Activation, others: str, out: str) -> Scores:
    leading, queries, keys = out[:-2], out[-2:-1], out[-1:]
    if queries in others:
        raise Refusal("attention scores with the keys before the queries", _REMEDY)
    over = (set(names) & set(others) - set(out)).pop() if set(names) & set(others) - set(out) else ""
    return attention.scores(
        context, _ordered(q, names, leading + queries + over), _ordered(k, others, leading + over + keys)
    )


def _attend(context: Context, p: Scores, names: str, v: Activation, others: str, out: str) -> Activation:
    leading, queries, keys = names[:-2], names[-2:-1], names[-1:]
    features = "".join(name for name in others if name not in names)
    y = attention.attend(context, p, _ordered(v, others, leading + keys + features))
    return _ordered(y, leading + queries + features, out)
