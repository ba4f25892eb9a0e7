"""Operators that only move elements: carried out on the indices of a tensor."""

from __future__ import annotations

import numpy as np
import onnx

from hwattn.quant.onnx_bases import ConvBase, Float
from hwattn.quant.onnx_values import Activation, Index, Known, Refusal, Scores, Value
from hwattn.quant.patterns import experts
from hwattn.quant.patterns.context import Context, attribute

VIEWS = frozenset(
    ["Reshape", "Transpose", "Slice", "Gather", "Squeeze", "Unsqueeze", "Split", "Expand", "Flatten", "Tile"]
)


def view(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """A view of one activation, of attention scores, or of routing indices."""
    x, *arguments = inputs
    if isinstance(x, Scores):
        return [_reshape_scores(context, node, x, arguments)]
    if not isinstance(x, Activation):
        raise Refusal(
            f"{node.op_type} of an intermediate step of LayerNorm or routing",
            "write LayerNorm and routing as torch exports them",
        )
    known = [None if a is None else context.constant(a, f"an argument of {node.op_type}") for a in arguments]
    if node.op_type == "Reshape" and known[0] is not None and (np.ravel(known[0]) < -1).any():
        raise Refusal("a shape with a size below -1", "check the model with onnx.checker")
    index = context.run(node, [x.full_index(), *known])
    if not all(part.size for part in index):
        raise Refusal("its result is empty", "check the bounds of slices and splits")
    offset: list[Float] = context.run(node, [x.offset, *known]) if x.offset is not None else []
    return [
        Activation(
            x.base,
            part.shape,
            context.unless_whole(x.base, part),
            x.curve,
            offset[i] if offset else None,
            context.node,
        )
        for i, part in enumerate(index)
    ]


def pad(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """Zeros before and behind patches: room for constant tokens."""
    x, pads, value, axes = (*inputs, None, None, None)[:4]
    plain = attribute(node, "mode", b"constant") == b"constant" and axes is None
    filled = 0 if value is None else value.scalar if isinstance(value, Known) else None
    if not isinstance(x, Activation) or not isinstance(x.base, ConvBase) or not plain or filled != 0:
        raise Refusal("Pad of something else than patches with zeros", "concatenate constant tokens instead")
    widths = np.ravel(context.constant(pads, "its pads")).astype(np.int64).reshape(2, -1).T
    if (widths < 0).any() or len(widths) != len(x.shape):
        raise Refusal(f"Pad by {widths.T.tolist()}", "pad every axis by at least zero")
    index = np.pad(x.full_index(), widths, constant_values=-1)
    offset = np.zeros(index.shape, np.float32) if x.offset is None else np.pad(x.offset, widths)
    return [Activation(x.base, index.shape, index, x.curve, offset, context.node)]


def _reshape_scores(
    context: Context, node: onnx.NodeProto, x: Scores, arguments: list[Value | None]
) -> Scores:
    remedy = "compute attention as softmax(q k^T * scale) v, without moving the scores"
    if node.op_type not in ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Expand"):
        raise Refusal(f"{node.op_type} of attention scores", remedy)
    known = [None if a is None else context.constant(a, "the shape") for a in arguments]
    shape = context.run(node, [np.zeros(x.shape, np.bool_), *known])[0].shape
    same = len(shape) >= 2 and shape[-2:] == x.shape[-2:] and np.prod(shape) == np.prod(x.shape)
    if not same:
        raise Refusal(f"attention scores of shape {x.shape} become {shape}", remedy)
    return Scores(x.query, x.key, x.image, x.head, x.scale, shape, x.normalized)


def concat(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """Concatenation of parts of one base and constants: class tokens before patches, heads side by side."""
    parts = [part for part in inputs if isinstance(part, Activation)]
    if len(parts) + sum(isinstance(part, Known) for part in inputs) != len(inputs):
        raise Refusal("Concat of attention scores or routing steps", "concatenate tokens or features only")
    axis = attribute(node, "axis", 0)
    if len(parts) == len(inputs) and len({part.base.order for part in parts}) == len(parts) > 1:
        results = experts.side_by_side(context, parts, axis)
        if results is not None:
            return [results]
    base, curve = parts[0].base, parts[0].curve
    for part in parts:
        same_curve = part.curve is curve or (
            part.curve is not None and curve is not None and np.array_equal(part.curve, curve)
        )
        if part.base is not base or not same_curve:
            raise Refusal(
                "it concatenates the results of different layers",
                "concatenate only constant tokens (class, register) and patches, or parts of one layer",
            )
    constant = len(parts) < len(inputs) or any(part.offset is not None for part in parts)
    if constant and curve is not None:
        raise Refusal(
            "it concatenates constants with an activation's result", "concatenate before the blocks"
        )
    index: list[Index] = []
    offset: list[Float] = []
    for value in inputs:
        if isinstance(value, Activation):
            index.append(value.full_index())
            offset.append(np.zeros(value.shape, np.float32) if value.offset is None else value.offset)
        elif isinstance(value, Known):
            index.append(np.full(value.array.shape, -1, np.int32))
            offset.append(np.asarray(value.array, np.float32))
    try:
        joined = np.concatenate(index, axis)
        total = np.concatenate(offset, axis) if constant else None
    except ValueError as error:
        raise Refusal(f"it cannot be evaluated: {error}", "check the model with onnx.checker") from error
    return [Activation(base, joined.shape, joined, curve, total, context.node)]
