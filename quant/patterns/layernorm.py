"""LayerNorm and RMSNorm: as one operator, and written out as mean, difference, square, mean, square root and quotient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray

from hwattn.quant.onnx_bases import NormBase
from hwattn.quant.onnx_values import Activation, Known, Moment, Refusal, Value
from hwattn.quant.patterns.context import Context, attribute
from hwattn.quant.patterns.pointwise import GRID
from hwattn.quant.patterns.tokens import placed, tokens_of, tokenwise


def layer_normalization(
    context: Context, node: onnx.NodeProto, inputs: list[Value | None], *, zero_mean: bool = False
) -> list[Value]:
    """The LayerNormalization operator over the last axis, with `zero_mean` those of RMSNorm."""
    x = inputs[0]
    if not isinstance(x, Activation):
        raise Refusal(f"{node.op_type} of something that is no tensor of tokens", "normalize tokens")
    axis = attribute(node, "axis", -1)
    if axis not in (-1, len(x.shape) - 1):
        raise Refusal(f"{node.op_type} from axis {axis}", "normalize over the last axis, the features")
    if len(node.output) > 1 and any(node.output[1:]):
        raise Refusal(f"{node.op_type} with mean or deviation as results", "use only its first result")
    gamma = np.asarray(context.constant(inputs[1], "its scale"), np.float32)
    beta = inputs[2] if len(inputs) > 2 else None
    shift = np.zeros_like(gamma) if beta is None else context.constant(beta, "its bias")
    # dequantized constants that float32 does not hold are float64
    shift = np.asarray(shift, np.promote_types(shift.dtype, np.float32))
    epsilon = float(attribute(node, "epsilon", 1e-5))
    return [normalize(context, x, epsilon, gamma, shift, zero_mean=zero_mean)]


def rms_normalization(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """RMSNormalization, and SimplifiedLayerNormalization of onnxruntime, over the last axis."""
    return layer_normalization(context, node, inputs[:2], zero_mean=True)


def normalize(
    context: Context,
    x: Activation,
    epsilon: float,
    gamma: NDArray[np.floating],
    beta: NDArray[np.floating],
    *,
    zero_mean: bool = False,
) -> Activation:
    """LayerNorm of a tensor of tokens, with `zero_mean` RMSNorm; `gamma` and `beta` broadcast to (features,)."""
    tokens = tokens_of(context, x)
    features = (tokens.base.features,)
    if gamma.size not in (1, *features) or beta.size not in (1, *features):
        raise Refusal("its scale or bias is not one number per feature", "normalize over the features alone")
    if not 0 <= epsilon < np.inf:
        raise Refusal(f"LayerNorm with an epsilon of {epsilon}", "use a small positive epsilon, such as 1e-5")
    base = context.new(
        NormBase,
        tokens=tokens.base.tokens,
        features=tokens.base.features,
        source=tokens.base,
        gamma=np.array(np.broadcast_to(gamma.ravel(), features)),
        beta=np.array(np.broadcast_to(beta.ravel(), features)),
        epsilon=epsilon,
        zero_mean=zero_mean,
    )
    return tokenwise(context, base, tokens)


def mean(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """ReduceMean over the features: the mean of a tensor, or of its squared differences."""
    x = inputs[0]
    source = x.source if isinstance(x, Moment) else x
    if not isinstance(source, Activation):
        raise Refusal(
            "ReduceMean of attention scores or routing steps", "reduce over features only, for LayerNorm"
        )
    axes = attribute(node, "axes") if len(inputs) < 2 else np.ravel(context.constant(inputs[1], "its axes"))
    last = len(source.shape) - 1
    over = [int(axis) % (last + 1) for axis in axes] if axes is not None else None
    if over != [last] or attribute(node, "keepdims", 1) != 1:
        if over is not None and last not in over:
            raise Refusal("mean pooling over the tokens", "classify from a class token, x[:, 0]")
        raise Refusal("a mean that is not over the features alone", "reduce over the last axis, keepdims=1")
    if isinstance(x, Activation):
        if x.curve is None:
            return [Moment("mean", x)]
        if np.array_equal(x.curve, GRID**2):
            plain = Activation(x.base, x.shape, x.index, None, x.offset, x.node)
            return [Moment("variance", plain, zero_mean=True)]
        raise Refusal("the mean of a function of the features", "use LayerNorm or RMSNorm")
    if isinstance(x, Moment) and x.kind == "square":
        return [Moment("variance", source)]
    raise Refusal("a mean that belongs to no LayerNorm", "use LayerNorm as torch exports it")


def combine(context: Context, op: str, left: Value, right: Value) -> Value | None:
    """A step of a LayerNorm of two operands, or None where it is none."""
    if op in ("Add", "Mul") and (isinstance(left, Known) or isinstance(right, Activation)):
        left, right = right, left
    match op, left, right:
        case "Sub", Activation(curve=None), Moment(kind="mean") if left.same_elements(right.source):
            return Moment("centred", left)
        case "Mul", Moment(kind="centred"), Moment(kind="centred") if left.source is right.source:
            return Moment("square", left.source)
        case "Pow", Moment(kind="centred"), Known() if right.scalar == 2:
            return Moment("square", left.source)
        case "Add", Moment(kind="variance"), Known() if right.scalar is not None:
            return replace(left, epsilon=left.epsilon + right.scalar)
        case "Pow", Moment(kind="variance"), Known() if right.scalar in (0.5, -0.5):
            return replace(left, kind="deviation" if right.scalar == 0.5 else "reciprocal")
        case "Div", Known(), Moment(kind="deviation") if left.scalar == 1:
            return replace(right, kind="reciprocal")
        case "Div", Activation() | Moment(), Moment(kind="deviation") if _divides(context, left, right):
            return _quotient(context, right)
        case "Mul", Activation() | Moment(), Moment(kind="reciprocal") if _divides(context, left, right):
            return _quotient(context, right)
        case "Mul", Moment(kind="reciprocal"), Moment(kind="centred") if _divides(context, right, left):
            return _quotient(context, left)
    return None


def unary(op: str, x: Moment) -> Moment | None:
    """A step of a LayerNorm of one operand, or None where it is none."""
    match op, x.kind:
        case "Sqrt", "variance":
            return replace(x, kind="deviation")
        case "Reciprocal", "deviation":
            return replace(x, kind="reciprocal")
    return None


def _divides(context: Context, x: Activation | Moment, deviation: Moment) -> bool:
    """The deviation is that of `x`: of a tensor for RMSNorm, of its difference from the mean for LayerNorm."""
    if isinstance(x, Moment):
        return x.kind == "centred" and x.source is deviation.source and not deviation.zero_mean
    return deviation.zero_mean and x.curve is None and placed(context, x).same_elements(deviation.source)


def _quotient(context: Context, deviation: Moment) -> Activation:
    one = np.ones(1, np.float32)
    source, epsilon = deviation.source, deviation.epsilon
    return normalize(context, source, epsilon, one, 0 * one, zero_mean=deviation.zero_mean)
