"""Mixtures in the index form: which tokens chose an expert, what becomes of them, and how they are put back.

The graph is run as if every token had chosen the expert at hand, in each place in turn; see ``Selection``. So the form
becomes the dense one, and what is done to the selected tokens is followed by the same handlers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hwattn.quant.onnx_bases import GateBase
from hwattn.quant.onnx_selections import Mask, Places, Selected, Selection
from hwattn.quant.onnx_values import Activation, Known, Refusal, Value
from hwattn.quant.patterns import views
from hwattn.quant.patterns.context import Context
from hwattn.quant.patterns.mixture import same_choice, scattered
from hwattn.quant.patterns.pointwise import BINARY, UNARY

Handler = Callable[[Context, onnx.NodeProto, list[Value | None]], list[Value]]

REMEDY = (
    "take the tokens of an expert as row, place = torch.where(chosen == expert), and add "
    "weights[row, place, None] * expert(x[row]) to their rows of a tensor of zeros"
)
ARITHMETIC = frozenset(["Add", "Sub", "Mul", "Div", "Mod", "Less", "Equal", "And", "Where", "Max", "Min"])
"""Operators of integers, element by element."""
TOKENWISE = frozenset([*UNARY, *BINARY, "Sum", "Clip", "MatMul", "Gemm", "Cast", "Identity", "Dropout"])
"""Operators that treat each token by itself."""


def places(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """Arithmetic and views of integers of the selected tokens."""
    selection = selection_of(inputs)
    view = node.op_type in views.VIEWS and isinstance(inputs[0], Places)
    if not view and node.op_type not in ARITHMETIC | {"Concat", "Cast", "Identity"}:
        raise Refusal(f"{node.op_type} of the places of selected tokens", REMEDY)
    for value in inputs:
        aligned = isinstance(value, Places) or (isinstance(value, Known) and value.scalar is not None)
        if not aligned and not view:
            raise Refusal("the places of selected tokens are combined with those of others", REMEDY)
    results: list[list[NDArray[Any]]] = []
    for place in range(selection.chosen.k):
        arrays = [
            value.numbers[place] if isinstance(value, Places) else context.constant(value, "an argument")
            for value in inputs
        ]
        results.append(context.run(node, arrays))
    if any(array.dtype.kind not in "iub" for array in results[0]):
        raise Refusal("the places of selected tokens become numbers to compute with", REMEDY)
    return [Places(selection, arrays) for arrays in zip(*results, strict=True)]


def take(context: Context, node: onnx.NodeProto, data: Value | None, at: Places) -> list[Value]:
    """Gather or GatherND of the selected tokens: of activations, routing weights, or zeros."""
    if isinstance(data, Known) and data.scalar is not None:
        return [Known(tuple(context.run(node, [data.array, at.numbers[0]])), counted=False)]
    if not isinstance(data, Activation) or data.offset is not None:
        raise Refusal("selected tokens of something else than the result of a layer", REMEDY)
    index = data.full_index()
    taken = [context.run(node, [index, numbers])[0] for numbers in at.numbers]
    first, base, k = taken[0], data.base, at.selection.chosen.k
    if isinstance(base, GateBase) and base.stage == "chosen" and data.curve is None:
        in_place = all(np.array_equal(one, first + place) for place, one in enumerate(taken))
        if not same_choice(base, at.selection.chosen) or not in_place or (first % k).any():
            raise Refusal("the routing weight of an expert is taken from the place of another", REMEDY)
        gates = scattered(context, base)
        column = (first // k * gates.features + at.selection.expert).astype(np.int32)
        return [Selected(at.selection, (Activation(gates, column.shape, column, node=context.node),))]
    if any(not np.array_equal(one, first) for one in taken[1:]):
        raise Refusal(
            "what is taken of a token depends on the place that its expert has in the choice", REMEDY
        )
    return [Selected(at.selection, (Activation(base, first.shape, first, data.curve, node=context.node),))]


def selected(
    context: Context, node: onnx.NodeProto, inputs: list[Value | None], handler: Handler | None
) -> list[Value]:
    """A node that treats each selected token by itself: as it is for all tokens."""
    selection = selection_of(inputs)
    x = inputs[0]
    if node.op_type in views.VIEWS and isinstance(x, Selected):
        moved = [views.view(context, node, [term, *inputs[1:]]) for term in x.terms]
        return [Selected(selection, tuple(map(_activation, terms))) for terms in zip(*moved, strict=True)]
    sums = [value for value in inputs if isinstance(value, Selected) and len(value.terms) > 1]
    if handler is None or sums or node.op_type not in TOKENWISE:
        raise Refusal(f"{node.op_type} of the tokens that chose an expert", REMEDY)
    dense: list[Value | None] = []
    for value in inputs:
        if isinstance(value, Activation) or (isinstance(value, Known) and value.counted):
            raise Refusal("the tokens that chose an expert are combined with others", REMEDY)
        dense.append(value.terms[0] if isinstance(value, Selected) else value)
    terms = tuple(value for value in dense if isinstance(value, Activation))
    if node.op_type == "Add" and len(terms) == 2 and not terms[0].same_elements(terms[1]):
        if terms[0].shape != terms[1].shape:
            raise Refusal(f"a sum of tensors of shapes {terms[0].shape} and {terms[1].shape}", REMEDY)
        return [Selected(selection, terms)]
    if node.op_type == "MatMul" and len(terms) > 1:
        raise Refusal("an attention among the tokens that chose an expert", REMEDY)
    return [Selected(selection, (_activation(value),)) for value in handler(context, node, dense)]


def _activation(value: Value) -> Activation:
    if not isinstance(value, Activation):
        raise Refusal("an expert that is not fc1, activation, fc2", REMEDY)
    return value


def selection_of(inputs: list[Value | None]) -> Selection:
    """The selection that all inputs belong to.

    Raises
    ------
    Refusal
        They belong to several.
    """
    found = [value.selection for value in inputs if isinstance(value, Places | Selected)]
    if any(one != found[0] for one in found[1:]):
        raise Refusal("the tokens of one expert are combined with those of another", REMEDY)
    return found[0]


def check_counts(inputs: list[Value | None]) -> None:
    """Refuse the number of selected tokens where it is not the shape of selected tokens."""
    counted = any(isinstance(value, Known) and value.counted for value in inputs)
    ours = any(isinstance(value, Places | Selected | Mask) for value in inputs)
    constant = all(value is None or isinstance(value, Known) for value in inputs)
    if counted and not ours and not constant:
        raise Refusal("the number of tokens that chose an expert is used for other tokens", REMEDY)


def uncounted(value: Known) -> Known:
    """A constant made from the number of selected tokens, which may be its shape but not a number in it."""
    if value.arrays[0].dtype.kind == "f":
        if value.scalar is None or value.arrays[0].ndim == 0:
            raise Refusal("it computes with the number of tokens that chose an expert", REMEDY)
        return Known(value.arrays)
    return value
