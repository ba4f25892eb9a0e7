"""Element-wise functions, recognized by their values instead of by their operators.

Whatever chain of operators writes GELU or SiLU, it is carried out on a grid of numbers and compared with the
functions of ``spec.tables.ACTIVATIONS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from hwattn.quant.onnx_values import Curve
from hwattn.quant.patterns.context import attribute
from hwattn.spec.tables import ACTIVATIONS

GRID: Curve = np.concatenate(
    [np.linspace(-12, 12, 1537), [-60.0, -45.0, -30.0, -20.0, -15.0, 15.0, 20.0, 30.0, 45.0, 60.0]]
)
"""Where element-wise functions are sampled: every 1/64 around zero, and far out."""

TOLERANCE = 1e-5
"""Relative to max(1, |f|): constants in ONNX files are float32."""

_REFERENCE = {
    name: np.array([function(float(x)) for x in GRID]) for name, (function, _) in ACTIVATIONS.items()
}

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Curve) -> Curve:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def _gelu(node: onnx.NodeProto, x: Curve) -> Curve:
    form = attribute(node, "approximate", b"none")
    return _named("gelu_tanh" if form == b"tanh" else "gelu", x)


def _named(name: str, x: Curve) -> Curve:
    function = ACTIVATIONS[name][0]
    return np.array([function(float(value)) for value in x])


def _hard_sigmoid(node: onnx.NodeProto, x: Curve) -> Curve:
    return np.asarray(np.clip(attribute(node, "alpha", 0.2) * x + attribute(node, "beta", 0.5), 0, 1))


UNARY: dict[str, Callable[[onnx.NodeProto, Curve], Any]] = {
    "Erf": lambda _, x: _erf(x),
    "Tanh": lambda _, x: np.tanh(x),
    "Sigmoid": lambda _, x: _sigmoid(x),
    "Swish": lambda node, x: x * _sigmoid(attribute(node, "alpha", 1.0) * x),
    "Relu": lambda _, x: np.maximum(x, 0),
    "LeakyRelu": lambda node, x: np.where(x < 0, attribute(node, "alpha", 0.01) * x, x),
    "Elu": lambda node, x: np.where(x < 0, attribute(node, "alpha", 1.0) * np.expm1(np.minimum(x, 0)), x),
    "Exp": lambda _, x: np.exp(x),
    "Log": lambda _, x: np.log(x),
    "Neg": lambda _, x: -x,
    "Abs": lambda _, x: np.abs(x),
    "Sqrt": lambda _, x: np.sqrt(x),
    "Reciprocal": lambda _, x: 1 / x,
    "Softplus": lambda _, x: np.logaddexp(x, 0),
    "Gelu": _gelu,
    "BiasGelu": _gelu,
    "FastGelu": lambda _, x: _named("gelu_tanh", x),
    "QuickGelu": lambda node, x: x * _sigmoid(attribute(node, "alpha", 1.702) * x),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda _, x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Mish": lambda _, x: x * np.tanh(np.logaddexp(x, 0)),
}
"""Operators of one input besides a bias, on samples."""

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Min": np.minimum,
    "Max": np.maximum,
}
"""Operators of two inputs, on samples."""


def samples(curve: Curve | None) -> Curve:
    """The samples of an element-wise function; of the identity for None."""
    return GRID if curve is None else curve


def simplify(curve: Curve) -> Curve | None:
    """None where the function is the identity."""
    return None if np.array_equal(curve, GRID) else curve


def affine(curve: Curve) -> tuple[float, float] | None:
    """(slope, intercept) of a straight line, or None."""
    if not np.isfinite(curve).all():
        return None
    slope = float((curve[-1] - curve[-6]) / (GRID[-1] - GRID[-6]))
    intercept = float(curve[768])
    line = slope * GRID + intercept
    scale = max(abs(slope), abs(intercept), 1e-30)
    if np.abs(curve - line).max() > 1e-9 * scale * 60:
        return None
    return slope, intercept


def recognize(curve: Curve) -> str | None:
    """The activation that has these values, or None."""
    for name, reference in _REFERENCE.items():
        if (np.abs(curve - reference) <= TOLERANCE * np.maximum(1, np.abs(reference))).all():
            return name
    return None
