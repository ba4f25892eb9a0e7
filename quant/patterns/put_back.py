"""ScatterND and ScatterElements of an expert's tokens: what the expert adds goes to the rows that it was computed for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hwattn.quant.onnx_bases import LinearBase, MixtureBase
from hwattn.quant.onnx_selections import ExpertsBase, Places, Selected, Selection
from hwattn.quant.onnx_values import Activation, Known, Refusal, Value
from hwattn.quant.patterns.context import Context, attribute
from hwattn.quant.patterns.elementwise import binary
from hwattn.quant.patterns.mixture import same_choice
from hwattn.quant.patterns.selection import REMEDY, selection_of
from hwattn.quant.patterns.tokens import settle_curve


def put_back(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """Selected tokens written to, or added to, their rows of a tensor."""
    data, at, updates = inputs[:3]
    if not isinstance(at, Places) or not isinstance(updates, Selected):
        raise Refusal("what is put back is not what an expert made of its tokens", REMEDY)
    selection = selection_of(inputs)
    if not isinstance(data, Known | Activation) or (isinstance(data, Known) and data.scalar != 0):
        raise Refusal("an expert's tokens are put into something else than zeros or a sum of experts", REMEDY)
    shape = data.shape if isinstance(data, Activation) else data.array.shape
    for term in updates.terms:
        _check_rows(selection, term)
    targets = [_targets(node, shape, numbers, updates.shape) for numbers in at.numbers]
    reduction = attribute(node, "reduction", b"none")
    if reduction not in (b"none", b"add"):
        raise Refusal(f"{node.op_type} with the reduction {reduction.decode()}", REMEDY)
    if any(not np.array_equal(one, targets[0]) for one in targets[1:]):
        return [_in_places(context, data, selection.chosen, selection.expert, updates, targets)]
    terms = [_laid(context, term, shape, targets[0]) for term in updates.terms]
    if reduction == b"add" or isinstance(data, Known):
        rest = None if isinstance(data, Known) else data
        part = terms[0] if len(terms) == 1 else None
    else:
        rest, part = _overwritten(data, terms, selection.chosen.k)
    if part is None or not isinstance(part.base, MixtureBase) or part.curve is not None:
        raise Refusal("an expert's result is put back without its routing weight, or not added", REMEDY)
    if set(part.base.experts) != {selection.expert} or not same_choice(part.base.gates, selection.chosen):
        raise Refusal("an expert's result is put back at the tokens of another", REMEDY)
    return [part if rest is None else binary(context, "Add", rest, part)]


def _check_rows(selection: Selection, term: Activation) -> None:
    """Each row of the updates must be what was made of its own token."""
    order = np.frombuffer(selection.order, np.int64)
    rows = term.full_index() // term.base.features
    repeats = len(rows) // len(order)
    expected = np.repeat(order, repeats).reshape(-1, *(1,) * (rows.ndim - 1))
    if term.offset is not None or len(expected) != len(rows) or (rows != expected).any():
        raise Refusal("the tokens of an expert are put back in another order", REMEDY)


def _overwritten(
    data: Activation, terms: list[Activation], k: int
) -> tuple[Activation | None, Activation | None]:
    """What was there and what is added to it, where rows are overwritten with both."""
    if len(terms) == 2:
        for one, other in (terms, terms[::-1]):
            if one.same_elements(data) and one.curve is None and data.curve is None:
                return data, other
    (part, *others) = terms
    old, new = data.base, part.base
    mixtures = (
        isinstance(old, MixtureBase) and isinstance(new, MixtureBase) and same_choice(old.gates, new.gates)
    )
    # with one expert for each token, the row that is overwritten is still zero
    if mixtures and not others and k == 1:
        return data, part
    return None, None


def _targets(
    node: onnx.NodeProto, shape: tuple[int, ...], numbers: NDArray[Any], updates: tuple[int, ...]
) -> NDArray[np.int64]:
    """For each element of the updates its place in the flattened tensor."""
    target: NDArray[np.int64]
    flat = np.arange(int(np.prod(shape))).reshape(shape)
    if node.op_type == "ScatterND":
        target = flat[tuple(np.moveaxis(numbers, -1, 0))]
    else:
        axis = attribute(node, "axis", 0) % len(shape)
        grid = list(np.indices(numbers.shape))
        grid[axis] = numbers
        target = flat[tuple(grid)]
    if target.shape != updates:
        raise Refusal(f"tokens of shape {updates} are put into places of shape {target.shape}", REMEDY)
    return target


def _laid(
    context: Context, term: Activation, shape: tuple[int, ...], target: NDArray[np.int64]
) -> Activation:
    """Updates as the tensor that they are put into."""
    index = np.full(shape, -1, np.int32)
    index.reshape(-1)[target] = term.full_index()
    if target.size != index.size or index.min() < 0:
        raise Refusal("an expert's tokens are put into a part of a tensor", REMEDY)
    return Activation(term.base, shape, context.unless_whole(term.base, index), term.curve, node=context.node)


def _in_places(
    context: Context,
    data: Known | Activation,
    chosen: Any,
    expert: int,
    updates: Selected,
    targets: list[NDArray[np.int64]],
) -> Activation:
    """An expert's results in a tensor with a row for every choice."""
    before = data.base if isinstance(data, Activation) else None
    partial = isinstance(before, ExpertsBase) and before.chosen is chosen and before.gates is None
    if len(updates.terms) != 1 or (before is not None and not partial):
        raise Refusal("experts' results for each choice are added to something else", REMEDY)
    term = settle_curve(context, updates.terms[0])
    layer = term.base
    if not isinstance(layer, LinearBase):
        raise Refusal("a row for every choice that holds something else than an expert's result", REMEDY)
    shape = data.shape if isinstance(data, Activation) else data.array.shape
    index = np.full(shape, -1, np.int32)
    row, feature = np.divmod(term.full_index(), layer.features)
    for place, target in enumerate(targets):
        index.reshape(-1)[target] = (row * chosen.k + place) * layer.features + feature
    if sum(target.size for target in targets) != index.size or index.min() < 0:
        raise Refusal("an expert's tokens are put into a part of a tensor", REMEDY)
    experts = {} if not isinstance(before, ExpertsBase) else before.experts
    if isinstance(data, Activation) and not np.array_equal(data.full_index(), index):
        raise Refusal("experts put their results in different places", REMEDY)
    if expert in experts:
        raise Refusal(f"the results of expert {expert} are put back twice", REMEDY)
    base = context.new(
        ExpertsBase,
        tokens=layer.tokens,
        features=layer.features * chosen.k,
        parent=before,
        chosen=chosen,
        experts=experts | {expert: layer},
        count=chosen.logits.features,
    )
    return Activation(base, shape, index, node=context.node)
