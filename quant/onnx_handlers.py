"""What becomes of an operator that depends on the image, by the operator's name."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from hwattn.quant.onnx_values import Activation, Known, Moment, NaNTest, Refusal, Scores, Value
from hwattn.quant.patterns import (
    attention,
    elementwise,
    experts,
    layernorm,
    linear,
    masks,
    mixture,
    products,
    rounding,
    views,
)
from hwattn.quant.patterns.context import Context, attribute, shape_of
from hwattn.quant.patterns.pointwise import BINARY, UNARY

Handler = Callable[[Context, onnx.NodeProto, list[Value | None]], list[Value]]

DEFAULT_REMEDY = "replace it by the operators of a plain ViT or mixture-of-experts ViT, as torch exports them"


def _softmax(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    x = inputs[0]
    axis = attribute(node, "axis", -1 if context.opset >= 13 else 1)
    shape = shape_of(x)
    if shape is None or axis not in (-1, len(shape) - 1):
        raise Refusal(f"Softmax over axis {axis}", "take the softmax over the last axis")
    if isinstance(x, Scores):
        return [attention.softmax(x)]
    if isinstance(x, Activation):
        return [mixture.softmax(context, x)]
    raise Refusal("Softmax of something else than scores", DEFAULT_REMEDY)


def _same(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """Operators that change nothing when the model runs."""
    x = inputs[0]
    assert x is not None
    if node.op_type == "Cast":
        target = attribute(node, "to")
        if not isinstance(x, Activation | Scores | Moment):
            return [x]
        if target not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
            name = onnx.TensorProto.DataType.Name(target)
            raise Refusal(f"a cast of activations to {name}", "export the model in float32, without autocast")
    if node.op_type == "Dropout":
        training = inputs[2] if len(inputs) > 2 else None
        if isinstance(training, Known) and training.scalar:
            raise Refusal("Dropout in training mode", "call model.eval() before exporting")
    return [x]


def _is_nan(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    assert inputs[0] is not None
    return [NaNTest(inputs[0])]


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(views.VIEWS, views.view),
    **dict.fromkeys(UNARY, elementwise.unary),
    **dict.fromkeys([*BINARY, "Sum"], elementwise.many),
    **dict.fromkeys(["Identity", "Cast", "Dropout"], _same),
    "Concat": views.concat,
    "Clip": elementwise.clip,
    "Where": elementwise.where,
    "IsNaN": _is_nan,
    "QuantizeLinear": rounding.quantize,
    "DequantizeLinear": rounding.dequantize,
    "Pad": views.pad,
    "Conv": linear.conv,
    "Gemm": linear.gemm,
    "MatMul": products.matmul,
    "Einsum": products.einsum,
    "Softmax": _softmax,
    "LayerNormalization": layernorm.layer_normalization,
    **dict.fromkeys(["RMSNormalization", "SimplifiedLayerNormalization"], layernorm.rms_normalization),
    "ReduceMean": layernorm.mean,
    "ReduceSum": experts.reduce_sum,
    "Attention": attention.operator,
    "TopK": mixture.top_k,
    **dict.fromkeys(["ArgMax", "ReduceMax"], mixture.largest),
    "Greater": masks.greater,
    "ScatterElements": mixture.scatter,
    "Scatter": mixture.scatter,
}
"""What to do with an operator that depends on the image."""
