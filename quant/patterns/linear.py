"""Linear layers: MatMul and Gemm with constant weights, convolution as patch embedding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from hwattn.quant.onnx_bases import ConvBase, ImageBase, LinearBase, Steps
from hwattn.quant.onnx_values import Activation, Known, Refusal, Value
from hwattn.quant.patterns.context import Context, attribute
from hwattn.quant.patterns.elementwise import binary
from hwattn.quant.patterns.folding import describe
from hwattn.quant.patterns.tokens import settle_curve, tokens_of, tokenwise


def linear(context: Context, x: Activation, weight: Known) -> Activation:
    """``x @ weight``: weight (in, out), leading axes of length 1 allowed."""
    arrays = [np.asarray(array) for array in weight.arrays]
    shape = arrays[0].shape
    if arrays[0].dtype != np.float32:
        raise Refusal(f"weights of type {arrays[0].dtype}", "export the model in float32")
    if len(shape) < 2 or any(size != 1 for size in shape[:-2]) or len(shape) > max(2, len(x.shape)):
        raise Refusal(f"a constant operand of shape {shape}", "multiply tokens by one matrix (in, out)")
    matrices = [array.reshape(shape[-2:]).T for array in arrays]
    if shape[-2] != x.shape[-1]:
        raise Refusal(f"{x.shape} times {shape} does not fit", "check the model with onnx.checker")
    if isinstance(x.base, ImageBase):
        if len(matrices) > 1:
            raise Refusal("a patch embedding that depends on the task", "use one for all tasks")
        return _embed(context, x, Known((matrices[0],), tuple(s.reshape(shape[-2:]).T for s in weight.steps)))
    tokens = tokens_of(context, x)
    matrix = np.stack(matrices) if len(matrices) > 1 else matrices[0]
    base = context.new(
        LinearBase,
        tokens=tokens.base.tokens,
        features=shape[-1],
        source=tokens.base,
        weight=matrix,
        bias=np.zeros(matrix.shape[:-1], np.float32),
        step=row_steps([step.reshape(shape[-2:]).T for step in weight.steps]),
    )
    return tokenwise(context, base, tokens)


def row_steps(steps: Sequence[Steps]) -> Steps | None:
    """What each row (first axis) is a multiple of, where that is one number for every row and the same for all tasks."""
    rows = [step.reshape(len(step), -1) for step in steps]
    if not rows or any(not np.array_equal(step, rows[0]) for step in rows[1:]):
        return None
    first = rows[0][:, :1]
    return first[:, 0].copy() if (rows[0] == first).all() else None


def gemm(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """Gemm of an activation and a constant matrix."""
    x, weight, bias = (*inputs, None)[:3]
    if not isinstance(x, Activation) or not isinstance(weight, Known):
        raise Refusal(
            "Gemm whose second operand is no constant matrix", "multiply tokens by constant weights"
        )
    if len(x.shape) != 2:
        raise Refusal(f"Gemm of a tensor of shape {x.shape}", "check the model with onnx.checker")
    if attribute(node, "transA", 0):
        index = x.full_index().T
        x = Activation(x.base, index.shape, index, x.curve, None if x.offset is None else x.offset.T, x.node)
    alpha, beta = np.float32(attribute(node, "alpha", 1.0)), np.float32(attribute(node, "beta", 1.0))
    transposed = bool(attribute(node, "transB", 0))
    arrays, steps = (
        tuple(np.asarray(a.T if transposed else a) for a in each) for each in (weight.arrays, weight.steps)
    )
    if alpha != 1:
        arrays = tuple(np.multiply(a, alpha) for a in arrays)
        steps = tuple(np.abs(step * alpha) for step in steps)
    y = linear(context, x, Known(arrays, steps))
    if bias is None:
        return [y]
    if not isinstance(bias, Known):
        raise Refusal("Gemm whose third operand is no constant", "add activations with Add")
    return [binary(context, "Add", y, Known(tuple(np.multiply(a, beta) for a in bias.arrays)))]


def conv(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """The convolution that embeds patches: stride equal to kernel, no padding."""
    x = inputs[0]
    if not isinstance(x, Activation) or not isinstance(x.base, ImageBase):
        raise Refusal(
            "a convolution behind the patch embedding", "use a plain ViT: one convolution, on the image"
        )
    weight = np.asarray(context.constant(inputs[1], "the kernel"))
    bias = context.constant(inputs[2], "the bias") if len(inputs) > 2 and inputs[2] is not None else None
    if weight.dtype != np.float32 or weight.ndim != 4:
        raise Refusal(f"a kernel of type {weight.dtype} and shape {weight.shape}", "use Conv2d in float32")
    kernel = list(weight.shape[2:])
    strides = list(attribute(node, "strides", [1, 1]))
    plain = (
        attribute(node, "group", 1) == 1
        and not any(attribute(node, "pads", [0]))
        and all(step == 1 for step in attribute(node, "dilations", [1]))
        and list(attribute(node, "kernel_shape", kernel)) == kernel
        and attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    )
    if strides != kernel or not plain:
        raise Refusal(
            f"a convolution with kernel {kernel}, strides {strides}, "
            f"pads {list(attribute(node, 'pads', [0, 0, 0, 0]))}, group {attribute(node, 'group', 1)}",
            "embed patches that do not overlap: stride equal to kernel, no padding, one group",
        )
    x = settle_curve(context, x)
    image = x.base
    assert isinstance(image, ImageBase)
    if not np.array_equal(x.full_index(), image_index(context.batch, image)):
        raise Refusal(
            "a convolution on a cut or transposed image", "give the image itself to the convolution"
        )
    bias = np.zeros(len(weight), np.float32) if bias is None else np.asarray(bias, np.float32)
    high, wide = image.height // kernel[0], image.width // kernel[1]
    step = row_steps(inputs[1].steps) if isinstance(inputs[1], Known) else None
    base = patch_projection(context, image, weight, bias, high * wide, step)
    index = (
        context.whole(base).full_index().transpose(0, 2, 1).reshape(context.batch, len(weight), high, wide)
    )
    return [Activation(base, index.shape, index, node=context.node)]


def patch_projection(
    context: Context,
    image: ImageBase,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    patches: int,
    step: Steps | None,
) -> ConvBase:
    """The projection of patches, with the normalization of the image folded in."""
    bias = bias + np.einsum("ochw,c->o", weight, image.offset)
    if (image.gain != image.gain[0]).any():
        step = None
    return context.new(
        ConvBase,
        tokens=patches,
        features=len(weight),
        weight=np.asarray(weight * image.gain[None, :, None, None], np.float32),
        bias=np.asarray(bias, np.float32),
        step=None if step is None else np.abs(step * image.gain[0]),
    )


def image_index(batch: int, image: ImageBase) -> NDArray[np.int32]:
    """Indices of an image (N, C, H, W) in its base (N, pixels, C)."""
    index = np.arange(batch * image.tokens * image.features, dtype=np.int32)
    pixels = index.reshape(batch, image.height, image.width, image.features)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def _embed(context: Context, x: Activation, constant: Known) -> Activation:
    """A linear layer (out, in) on flattened patches of the image."""
    matrix = np.asarray(constant.array, np.float32)
    x = settle_curve(context, x)
    image = x.base
    if not isinstance(image, ImageBase) or x.offset is not None:
        raise Refusal(f"a linear layer on {describe(image)}", "embed patches of the image itself")
    index = x.full_index().reshape(-1, x.shape[-1])
    channel, pixel = index % image.features, index // image.features % image.tokens
    down, right = pixel // image.width, pixel % image.width
    kernel = (int(down[0].max()) + 1, int(right[0].max()) + 1)
    high, wide = image.height // kernel[0], image.width // kernel[1]
    weight = np.zeros((len(matrix), image.features, *kernel), np.float32)
    patch = np.arange(context.batch * high * wide) % (high * wide)
    fits = len(index) == len(patch) and index.shape[1] == weight[0].size
    if fits:
        number = np.arange(len(patch)) // (high * wide)
        row = patch[:, None] // wide * kernel[0] + down[0]
        column = patch[:, None] % wide * kernel[1] + right[0]
        place = ((number[:, None] * image.height + row) * image.width + column) * image.features + channel[0]
        fits = np.array_equal(index, place) and len(np.unique(index[0])) == index.shape[1]
    if not fits:
        raise Refusal(
            "its input is no row-major sequence of rectangular patches",
            "cut the image into patches that do not overlap, or embed them with Conv2d",
        )
    weight[:, channel[0], down[0], right[0]] = matrix
    bias = np.zeros(len(matrix), np.float32)
    base = patch_projection(context, image, weight, bias, high * wide, row_steps(constant.steps))
    whole = context.whole(base).full_index().reshape(*x.shape[:-1], base.features)
    return Activation(base, whole.shape, whole, node=context.node)
