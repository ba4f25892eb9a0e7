"""Mixtures with stacked weights: products with the weights of all experts, or of those that each token chose.

Operands of a product are named by letters, as in Einsum: each axis a letter, axes of one letter go together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hwattn.quant.onnx_bases import Base, Float, GateBase, LinearBase, MixtureBase
from hwattn.quant.onnx_selections import Choice, ExpertsBase, Gathered
from hwattn.quant.onnx_values import Activation, Index, Known, Refusal, Value
from hwattn.quant.patterns import mixture
from hwattn.quant.patterns.context import Context, attribute
from hwattn.quant.patterns.folding import fold, with_experts
from hwattn.quant.patterns.mixture import check_expert, layer, same_choice, scattered
from hwattn.quant.patterns.tokens import settle_curve, tokens_of

REMEDY = (
    "write the mixture as x times the stacked weights of all experts, or of the chosen ones (w[index]), activation, "
    "second weights, times the routing weights, summed over the experts"
)


def of_all(value: Known) -> Gathered:
    """Constant weights with a leading axis of experts, as the weights of all experts."""
    stack = _stack(value)
    outer = np.arange(len(stack), dtype=np.int32).reshape(-1, *(1,) * (stack.ndim - 1))
    inner = np.arange(stack[0].size, dtype=np.int32).reshape(1, *stack.shape[1:])
    return Gathered(None, stack, outer, inner)


def of_chosen(node: onnx.NodeProto, value: Known, at: Choice) -> Gathered:
    """``stack[choice]``: Gather over the first axis, or GatherND."""
    stack, codes = _stack(value), at.codes
    if node.op_type == "GatherND" and codes.shape[-1] == 1 and not attribute(node, "batch_dims", 0):
        codes = codes[..., 0]
    elif node.op_type != "Gather" or attribute(node, "axis", 0) != 0:
        raise Refusal("the chosen experts' weights are not taken along the first axis", REMEDY)
    if len(stack) != at.chosen.logits.features:
        raise Refusal(
            f"weights of {len(stack)} experts are chosen from by a gate for {at.chosen.logits.features}",
            REMEDY,
        )
    rest = stack.ndim - 1
    inner = np.arange(stack[0].size, dtype=np.int32).reshape((1,) * codes.ndim + stack.shape[1:])
    return Gathered(at.chosen, stack, codes.reshape(codes.shape + (1,) * rest), inner)


def results_of_chosen(context: Context, node: onnx.NodeProto, x: Value | None, at: Choice) -> Activation:
    """GatherElements of the results of all experts by the choice, which is widened to their features."""
    if isinstance(x, Activation):
        x = settle_curve(context, x)
    base = x.base if isinstance(x, Activation) else None
    if not isinstance(x, Activation) or not isinstance(base, ExpertsBase) or base.chosen or base.gates:
        raise Refusal("GatherElements by a choice of experts of something else than their results", REMEDY)
    index, count, k = x.full_index(), base.count, at.chosen.k
    axis = attribute(node, "axis", 0) % index.ndim
    grid = list(np.indices(at.shape))
    if count != at.chosen.logits.features or index.shape[axis] != count:
        raise Refusal("results are chosen from along another axis than the experts", REMEDY)
    row, feature = np.divmod(index[(*grid[:axis], 0 * grid[axis], *grid[axis + 1 :])], base.features)
    for expert in range(count):
        found = index[(*grid[:axis], 0 * grid[axis] + expert, *grid[axis + 1 :])]
        if not np.array_equal(found, row * base.features + expert * base.width + feature):
            raise Refusal("results are chosen from along another axis than the experts", REMEDY)
    if not np.array_equal(row, at.codes // k):
        raise Refusal("the results of one token are chosen for another", REMEDY)
    made = context.new(
        ExpertsBase,
        tokens=base.tokens,
        features=base.width * k,
        chosen=at.chosen,
        experts=base.experts,
        count=count,
    )
    chosen = (at.codes * base.width + feature).astype(np.int32)
    return Activation(made, chosen.shape, chosen, node=context.node)


def _stack(value: Known) -> Float:
    stack = np.asarray(value.array)
    if stack.dtype != np.float32 or stack.ndim < 2:
        raise Refusal(f"stacked weights of type {stack.dtype} and shape {stack.shape}", REMEDY)
    return stack


def view(context: Context, node: onnx.NodeProto, x: Gathered, rest: list[Value | None]) -> Gathered:
    """Transpose, Unsqueeze or Squeeze of the chosen experts' weights."""
    known = [None if value is None else context.constant(value, "an argument") for value in rest]
    without = node.op_type == "Squeeze" and not known and attribute(node, "axes") is None
    if without or node.op_type not in ("Transpose", "Unsqueeze", "Squeeze"):
        raise Refusal(f"{node.op_type} of the chosen experts' weights", REMEDY)
    outer, inner = (context.run(node, [part, *known])[0] for part in (x.outer, x.inner))
    return Gathered(x.chosen, x.stack, outer, inner)


def side_by_side(context: Context, parts: list[Activation], axis: int) -> Activation | None:
    """Concatenation of the results of several layers of one size, or None where it is none."""
    parts = [settle_curve(context, part) for part in parts]
    layers = [part.base for part in parts]
    width = layers[0].features
    size = layers[0].tokens, width
    if any(not isinstance(one, LinearBase) or (one.tokens, one.features) != size for one in layers):
        return None
    count = len(parts)
    index = []
    for number, part in enumerate(parts):
        row, feature = np.divmod(part.full_index(), width)
        index.append(((row * count + number) * width + feature).astype(np.int32))
    made = context.new(
        ExpertsBase,
        tokens=layers[0].tokens,
        features=count * width,
        chosen=None,
        experts={number: one for number, one in enumerate(layers) if isinstance(one, LinearBase)},
        count=count,
    )
    joined = np.concatenate(index, axis)
    return Activation(made, joined.shape, joined, node=context.node)


def add(context: Context, x: Activation, bias: Gathered) -> Activation:
    """Experts' results plus a bias of each token's chosen experts."""
    x = settle_curve(context, x)
    base = x.base
    if not isinstance(base, ExpertsBase) or not _same(base.chosen, bias.chosen) or x.shape != bias.shape:
        raise Refusal("a chosen expert's bias is added to something else than its result", REMEDY)
    code, feature = np.divmod(x.full_index(), base.width)
    place = np.full(base.width, -1, np.int32)
    place[feature] = np.broadcast_to(bias.inner, x.shape)
    if (code != bias.outer).any() or (place[feature] != bias.inner).any() or place.min() < 0:
        raise Refusal("the bias of one expert is added to the result of another", REMEDY)
    vectors = bias.stack.reshape(len(bias.stack), -1)[:, place]
    one = np.ones(base.width)
    made = with_experts(context, base, lambda number, part: fold(context, part, one, vectors[number]))
    return Activation(made, x.shape, x.index, node=context.node)


def product(
    context: Context, x: Activation, names: str, weights: Gathered, weight_names: str, out: str
) -> Activation:
    """Tokens, or experts' results, times the weights of all experts or of the chosen ones.

    Parameters
    ----------
    names, weight_names, out : str
        Letters of the axes of the operands and of the result.
    """
    contracted = set(names) & set(weight_names) - set(out)
    if len(contracted) != 1 or len(set(names)) < len(names) or len(set(weight_names)) < len(weight_names):
        raise Refusal("a product with stacked weights over several axes", REMEDY)
    (over,) = contracted
    x = settle_curve(context, x)
    index, names = _without_repeats(x.full_index(), names, weight_names, over)
    index, names = np.moveaxis(index, names.index(over), -1), names.replace(over, "")
    outer, outer_names = _squeezed(weights.outer, weight_names)
    if over in outer_names or weights.stack.ndim != 3:
        raise Refusal("a product over the experts", REMEDY)
    matrices, feature, feature_names = _matrices(weights, weight_names, over)
    code = _spread(outer, outer_names, out)
    base = x.base
    layers: dict[int, Base]
    if isinstance(base, ExpertsBase):
        before, layers = _of_experts(base, weights.chosen, index), {**base.experts}
        before = _spread(before, names, out)
        aligned = before == code if weights.chosen is not None else before % base.count == code
        code = before
    else:
        tokens = tokens_of(context, Activation(base, index.shape, index, node=x.node))
        rows = np.arange(context.batch * tokens.base.tokens) if tokens.rows is None else tokens.rows
        rows = _spread(rows.reshape(tokens.leading), names, out)
        layers = dict.fromkeys(range(len(weights.stack)), tokens.base)
        if weights.chosen is None:
            aligned, code = np.True_, rows * len(weights.stack) + code
        else:
            aligned = rows == code // weights.chosen.k
    if not np.all(aligned) or len(layers) != len(weights.stack):
        raise Refusal("the weights of one token's experts meet another token", REMEDY)
    width = matrices.shape[1]
    first = layers[0]
    made = context.new(
        ExpertsBase,
        tokens=first.tokens,
        features=width * (len(weights.stack) if weights.chosen is None else weights.chosen.k),
        chosen=weights.chosen,
        experts={number: layer(context, layers[number], matrix) for number, matrix in enumerate(matrices)},
        count=len(weights.stack),
    )
    result = (code * width + _spread(feature, feature_names, out)).astype(np.int32)
    return Activation(made, result.shape, result, node=context.node)


def _without_repeats(index: Index, names: str, others: str, over: str) -> tuple[Index, str]:
    """Without the axes along which a tensor only repeats itself for each axis of the other operand."""
    for name in names:
        axis = names.index(name)
        first = index.take([0], axis)
        if name != over and name in others and (index == first).all():
            index, names = first.squeeze(axis), names.replace(name, "")
    return index, names


def _squeezed(array: Index, names: str) -> tuple[Index, str]:
    kept = "".join(name for name, size in zip(names, array.shape, strict=True) if size > 1)
    return array.reshape([size for size in array.shape if size > 1]), kept


def _spread(array: NDArray[Any], names: str, out: str) -> NDArray[Any]:
    """The axes of an array in the order of the result's, length 1 where it has none."""
    if set(names) - set(out):
        raise Refusal("a product with stacked weights that sums over tokens", REMEDY)
    array = array.transpose([names.index(name) for name in out if name in names])
    return np.expand_dims(array, [axis for axis, name in enumerate(out) if name not in names])


def _matrices(weights: Gathered, names: str, over: str) -> tuple[Float, Index, str]:
    """The weights (experts, out, in), and which of the outputs each element of the other axes is."""
    inner, kept = _squeezed(weights.inner, names)
    if over not in kept:
        inner, kept = inner[..., None], kept + over
    inner, kept = np.moveaxis(inner, kept.index(over), -1), kept.replace(over, "")
    row, column = np.divmod(inner, weights.stack.shape[2])
    for output, summed, stack in (
        (row, column, weights.stack),
        (column, row, weights.stack.transpose(0, 2, 1)),
    ):
        whole = inner.shape[-1] == stack.shape[2] and (summed == np.arange(stack.shape[2])).all()
        if whole and (output == output[..., :1]).all():
            return stack, output[..., 0], kept
    raise Refusal("the product runs over a part of an expert's weights", REMEDY)


def _of_experts(base: ExpertsBase, chosen: GateBase | None, index: Index) -> NDArray[Any]:
    """The token and place that each vector of experts' results belongs to."""
    code, feature = np.divmod(index, base.width)
    whole = index.shape[-1] == base.width and (feature == np.arange(base.width)).all()
    if not whole or (code != code[..., :1]).any() or base.gates is not None:
        raise Refusal("a product with a part of an expert's features", REMEDY)
    if not _same(base.chosen, chosen) or len(base.experts) != base.count:
        raise Refusal("the results of some experts meet the weights of others", REMEDY)
    return np.asarray(code[..., 0])


def _same(one: GateBase | None, other: GateBase | None) -> bool:
    if one is None or other is None:
        return one is other
    return same_choice(one, other)


def weighted(context: Context, gate: Activation, x: Activation) -> Activation:
    """Experts' results times their routing weights."""
    gates, x = gate.base, settle_curve(context, x)
    base = x.base
    assert isinstance(gates, GateBase) and isinstance(base, ExpertsBase)
    fits = gates.stage == ("gates" if base.chosen is None else "chosen") and gate.curve is None
    if not fits or (base.chosen is not None and not same_choice(base.chosen, gates)):
        raise Refusal("experts' results are weighted by something else than their routing weights", REMEDY)
    shape = np.broadcast_shapes(gate.shape, x.shape)
    index = np.broadcast_to(x.full_index(), shape)
    if base.gates is not None or (gate.full_index() != index // base.width).any():
        raise Refusal("the result of one expert is weighted for another", REMEDY)
    made = context.new(
        ExpertsBase,
        tokens=base.tokens,
        features=base.features,
        parent=base,
        chosen=base.chosen,
        experts=base.experts,
        count=base.count,
        gates=gates if base.chosen is None else scattered(context, gates),
    )
    return Activation(made, shape, index, node=context.node)


def reduce_sum(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """ReduceSum over the experts: of weighted results, or of routing weights."""
    x = inputs[0]
    if not isinstance(x, Activation) or not isinstance(x.base, ExpertsBase):
        return mixture.total(context, node, inputs)
    axes = attribute(node, "axes") if len(inputs) < 2 else np.ravel(context.constant(inputs[1], "its axes"))
    if axes is None or len(axes) != 1:
        raise Refusal("a sum of experts' results over several axes", REMEDY)
    return [total(context, x, int(axes[0]) % len(x.shape), keep=bool(attribute(node, "keepdims", 1)))]


def total(context: Context, x: Activation, axis: int, *, keep: bool) -> Activation:
    """The sum over the experts of their weighted results."""
    base = x.base
    assert isinstance(base, ExpertsBase)
    if base.gates is None or x.curve is not None:
        raise Refusal("experts' results are summed without routing weights", REMEDY)
    if len(base.experts) != base.count:
        missing = sorted(set(range(base.count)) - set(base.experts))
        raise Refusal(f"the mixture lacks expert {', '.join(map(str, missing))}", REMEDY)
    code, feature = np.divmod(np.moveaxis(x.full_index(), axis, -1), base.width)
    row, place = np.divmod(code, base.places)
    index = row * base.width + feature
    every = place.shape[-1] == base.places and (place == np.arange(base.places)).all()
    if not every or (index != index[..., :1]).any():
        raise Refusal("a sum over something else than all of a token's experts", REMEDY)
    for expert in base.experts.values():
        check_expert(expert, base.gates)
    made = context.new(
        MixtureBase, tokens=base.tokens, features=base.width, gates=base.gates, experts=base.experts
    )
    index = index[..., 0]
    if keep:
        index = np.expand_dims(index, axis)
    return Activation(made, index.shape, context.unless_whole(made, index), node=context.node)


def added(context: Context, left: Activation, right: Activation) -> Activation | None:
    """The sum of the weighted results of some places of the choice and of others; None where it is none."""
    one, other = _in_some_places(left), _in_some_places(right)
    if one is None or other is None:
        return None
    (base, index), (second, second_index) = one, other
    assert base.places is not None and second.places is not None
    same = all(_same_layer(base.experts[number], second.experts[number]) for number in base.experts)
    if base.gates is not second.gates or not same or not np.array_equal(index, second_index):
        raise Refusal("a sum of results of different experts or tokens", REMEDY)
    places = base.places | second.places
    if base.places & second.places:
        raise Refusal("the results of one place of the choice are added twice", REMEDY)
    made = context.new(
        MixtureBase,
        tokens=base.tokens,
        features=base.features,
        gates=base.gates,
        experts=base.experts,
        places=None if len(places) == base.gates.k else places,
    )
    for expert in base.experts.values():
        check_expert(expert, base.gates)
    return Activation(made, index.shape, context.unless_whole(made, index), node=context.node)


def _in_some_places(x: Activation) -> tuple[MixtureBase, Index] | None:
    """Weighted results of one place of the choice, or of some, as a part of a mixture, with its indices."""
    base = x.base
    if x.curve is not None or x.offset is not None:
        return None
    if isinstance(base, MixtureBase) and base.places is not None:
        return base, x.full_index()
    if not isinstance(base, ExpertsBase) or base.chosen is None or base.gates is None:
        return None
    code, feature = np.divmod(x.full_index(), base.width)
    row, place = np.divmod(code, base.places)
    if (place != place.flat[0]).any() or len(base.experts) != base.count:
        return None
    part = MixtureBase(
        order=base.order,
        tokens=base.tokens,
        features=base.width,
        gates=base.gates,
        experts=base.experts,
        places=frozenset([int(place.flat[0])]),
    )
    return part, (row * base.width + feature).astype(np.int32)


def _same_layer(one: Base, other: Base) -> bool:
    """The same function of the same tokens."""
    if one is other or not isinstance(one, LinearBase) or not isinstance(other, LinearBase):
        return one is other
    same = one.activation == other.activation and np.array_equal(one.weight, other.weight)
    return same and np.array_equal(one.bias, other.bias) and _same_layer(one.source, other.source)


def contracted(
    context: Context, gate: Activation, names: str, x: Activation, result_names: str, out: str
) -> Activation:
    """Routing weights times experts' results, summed over the experts, as one product."""
    over = set(names) & set(result_names) - set(out)
    if len(over) != 1 or set(names + result_names) - set(out) - over:
        raise Refusal("a product of routing weights and experts' results over several axes", REMEDY)
    order = out + over.pop()
    gate_index, index = (_spread(y.full_index(), n, order) for y, n in ((gate, names), (x, result_names)))
    weights = Activation(gate.base, gate_index.shape, gate_index, gate.curve, node=context.node)
    results = Activation(x.base, index.shape, index, x.curve, node=context.node)
    return total(context, weighted(context, weights, results), len(out), keep=False)
