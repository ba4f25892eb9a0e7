"""How large the result of an operator on arrays would be, known before it is computed: files ask for terabytes in a few bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hwattn.quant.onnx_values import Refusal

MAX_ELEMENTS = 2**26
"""Largest number of elements of a tensor: three images of 4,096 tokens of 4,096 features, or the words of a large vocabulary."""

_BROADCAST = frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Mod",
        "Min",
        "Max",
        "Where",
        "Equal",
        "Less",
        "LessOrEqual",
        "Greater",
        "GreaterOrEqual",
        "And",
        "Or",
        "Xor",
    ]
)

Arrays = Sequence[NDArray[Any] | None]


def check_size(node: onnx.NodeProto, arrays: Arrays) -> None:
    """Refuse a node whose result has more than `MAX_ELEMENTS` elements.

    Raises
    ------
    Refusal
    """
    elements = result_elements(node, arrays)
    if elements > MAX_ELEMENTS:
        raise Refusal(
            f"its result has {elements:.2g} elements, more than {MAX_ELEMENTS:,}",
            "check the shapes in the model; only tensors of a vision transformer's size are evaluated",
        )


def result_elements(node: onnx.NodeProto, arrays: Arrays) -> float:
    """Return the elements of a node's result where its inputs let it grow, else zero."""
    given = [array for array in arrays if array is not None]
    if not given:
        return 0
    first, second = given[0], given[1] if len(given) > 1 else None
    if node.op_type in _BROADCAST:
        return _broadcast([array.shape for array in given])
    if node.op_type == "ConstantOfShape":
        return _product(np.ravel(first))
    if second is None:
        return 0
    numbers = np.ravel(second).astype(np.float64)
    match node.op_type:
        case "Expand":
            return _broadcast([first.shape, tuple(max(int(length), 0) for length in np.ravel(second))])
        case "Tile" if len(numbers) == first.ndim:
            return _product(np.array(first.shape) * numbers)
        case "Range" if len(given) == 3 and all(array.size == 1 for array in given):
            start, limit, step = (float(np.ravel(array)[0]) for array in given)
            return abs((limit - start) / step) if step else 0
        case "Pad" if len(numbers) == 2 * first.ndim:
            return _product(first.shape + numbers.reshape(2, -1).sum(axis=0))
        case "OneHot" if numbers.size == 1:
            return first.size * abs(float(numbers[0]))
        case "Gather":
            axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 0)
            return (
                first.size / max(first.shape[axis], 1) * second.size
                if -first.ndim <= axis < first.ndim
                else 0
            )
        case "MatMul" if first.ndim > 1 and second.ndim > 1:
            outer = _broadcast([first.shape[:-2], second.shape[:-2]])
            return float(outer * first.shape[-2] * second.shape[-1])
    return 0


def _product(lengths: NDArray[Any]) -> float:
    return math.prod(abs(float(length)) for length in lengths)


def _broadcast(shapes: list[tuple[int, ...]]) -> float:
    """Elements of the shape that all broadcast to; zero where they do not."""
    try:
        return float(math.prod(np.broadcast_shapes(*shapes)))
    except ValueError:
        return 0
