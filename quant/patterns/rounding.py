"""QuantizeLinear and DequantizeLinear: values pass unchanged, and what the file rounds them to is written down."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hwattn.quant.onnx_bases import Steps
from hwattn.quant.onnx_values import Grid, Known, Quantized, Refusal, Value
from hwattn.quant.patterns.context import Context, attribute, shape_of

OPERATORS = frozenset(["QuantizeLinear", "DequantizeLinear"])
DOMAINS = frozenset(["", "ai.onnx", "com.microsoft"])
"""Domains of `OPERATORS`; before opset 21 the 16-bit forms are in onnxruntime's own."""

_MOVES = frozenset(
    [
        "Reshape",
        "Transpose",
        "Slice",
        "Gather",
        "Squeeze",
        "Unsqueeze",
        "Split",
        "Expand",
        "Flatten",
        "Identity",
    ]
)
_REMEDY = "quantize with QuantizeLinear and DequantizeLinear pairs (QDQ), int8 or int16"
_INTEGERS = {np.dtype(kind) for kind in (np.int8, np.uint8, np.int16, np.uint16, np.int32)}


def quantize(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """Integers of a constant; of another value the value itself and its grid."""
    x = inputs[0]
    assert x is not None
    default = onnx.TensorProto.UINT8
    kind = onnx.helper.tensor_dtype_to_np_dtype(attribute(node, "output_dtype", 0) or default)
    grid = _grid(context, node, inputs, kind)
    if isinstance(x, Quantized):
        raise Refusal("integers are quantized once more", _REMEDY)
    if not isinstance(x, Known):
        return [Quantized(x, grid)]
    made = []
    for array in x.arrays:
        step, zero = (along(part, array.ndim, grid.axis) for part in (grid.step, grid.zero))
        made.append(
            np.clip(np.rint(array / step.astype(np.float32)) + zero, grid.low, grid.high).astype(
                _dtype(inputs, kind)
            )
        )
    return [Known(tuple(made))]


def dequantize(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """Real numbers of constant integers, or the value that was quantized before."""
    x = inputs[0]
    if isinstance(x, Known):
        grid = _grid(context, node, inputs, x.arrays[0].dtype)
        arrays, steps = zip(*(_real(array, grid) for array in x.arrays), strict=True)
        return [Known(arrays, steps)]
    if not isinstance(x, Quantized):
        raise Refusal("it dequantizes what was not quantized before", _REMEDY)
    grid = _grid(context, node, inputs, np.dtype(np.int8))
    zero_given = len(inputs) > 2 and inputs[2] is not None
    same = np.array_equal(grid.step, x.grid.step) and (
        not zero_given or np.array_equal(grid.zero, x.grid.zero)
    )
    if not same or (not zero_given and x.grid.zero.any()):
        raise Refusal("it dequantizes with another scale or zero point than QuantizeLinear had", _REMEDY)
    context.roundings.append((x.of, x.grid))
    return [x.of]


def clipped(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """Clip of integers, as Brevitas writes narrower types than int8."""
    x, *bounds = inputs
    assert isinstance(x, Quantized)
    low, high = ([*bounds, None, None])[:2]
    limits = [
        attribute(node, name, default) if bound is None else context.constant(bound, "a bound of Clip").item()
        for name, bound, default in (("min", low, x.grid.low), ("max", high, x.grid.high))
    ]
    grid = dataclasses.replace(
        x.grid, low=max(x.grid.low, int(limits[0])), high=min(x.grid.high, int(limits[1]))
    )
    if grid.low >= grid.high:
        raise Refusal(f"integers are clipped to {limits[0]} .. {limits[1]}", _REMEDY)
    return [Quantized(x.of, grid)]


def check_movable(node: onnx.NodeProto, inputs: list[Value | None]) -> None:
    """Refuse computing with integers before they are dequantized: only views may come between."""
    grids = [value.grid for value in inputs if isinstance(value, Quantized)]
    if node.op_type not in _MOVES or len(grids) != 1 or not isinstance(inputs[0], Quantized):
        raise Refusal(f"{node.op_type} of integers that are not dequantized", _REMEDY)
    if grids[0].step.size > 1:
        raise Refusal(f"{node.op_type} of integers with several scales", "dequantize them before")


def _dtype(inputs: list[Value | None], default: np.dtype[Any]) -> np.dtype[Any]:
    zero = inputs[2] if len(inputs) > 2 else None
    return zero.arrays[0].dtype if isinstance(zero, Known) else default


def _grid(context: Context, node: onnx.NodeProto, inputs: list[Value | None], default: np.dtype[Any]) -> Grid:
    """The grid of a node, whose integers are of the zero point's type or else of `default`."""
    kind = _dtype(inputs, default)
    if kind not in _INTEGERS or attribute(node, "block_size", 0):
        raise Refusal(f"{node.op_type} to {kind}, or in blocks", _REMEDY)
    step = np.asarray(context.constant(inputs[1], "its scale"), np.float64)
    zero_input = inputs[2] if len(inputs) > 2 else None
    points = np.zeros(step.shape) if zero_input is None else context.constant(zero_input, "its zero point")
    zero = np.asarray(points, np.int64)
    if step.ndim > 1 or step.size != zero.size or not (np.isfinite(step) & (step > 0)).all():
        raise Refusal(
            f"{node.op_type} with scales of shape {step.shape} and zero points of shape {zero.shape}",
            "one positive scale, or one for each place of an axis, and as many zero points",
        )
    axis = attribute(node, "axis", 1)
    shape = shape_of(inputs[0])
    if step.size > 1 and (shape is None or not -len(shape) <= axis < len(shape) or shape[axis] != step.size):
        raise Refusal(f"{step.size} scales along axis {axis} of {shape}", "check the model with onnx.checker")
    limits = np.iinfo(kind)
    return Grid(step, zero, axis, int(limits.min), int(limits.max))


def along(values: NDArray[Any], dimensions: int, axis: int) -> NDArray[Any]:
    """One number, or numbers along an axis, ready to broadcast."""
    if values.size == 1:
        return values.reshape(())
    shape = [1] * dimensions
    shape[axis] = -1
    return values.reshape(shape)


def _real(array: NDArray[Any], grid: Grid) -> tuple[NDArray[np.floating], Steps]:
    step, zero = (along(part, array.ndim, grid.axis) for part in (grid.step, grid.zero))
    real = (array.astype(np.int64) - zero) * step
    exact = np.abs(array.astype(np.int64)).max(initial=0) < 1 << 24
    return real.astype(np.float32 if exact else np.float64), np.broadcast_to(step, array.shape)
