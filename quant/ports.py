"""Outputs of the accelerator: a tensor of the ONNX model as the tokens of a base."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwattn.quant.onnx_bases import Base, GateBase
from hwattn.quant.onnx_values import Activation, Refusal, Value
from hwattn.quant.patterns.context import Context
from hwattn.quant.patterns.tokens import tokens_of

NO_SOFTMAX = "remove the softmax from the model's end: return logits"


@dataclass(frozen=True)
class Port:
    """An output of the accelerator.

    Parameters
    ----------
    name : str
        Of the ONNX tensor.
    base : Base
    shape : tuple of int
        Without the batch axis.
    task : int or None
        For which the output has meaning; None for all.
    """

    name: str
    base: Base
    shape: tuple[int, ...]
    task: int | None = None


def port_of(context: Context, name: str, value: Value, task: int | None = None) -> Port:
    """A tensor as an output.

    Raises
    ------
    Refusal
        It is no result of a layer, or not laid out as (batch, tokens, features).
    """
    remedy = "return logits (batch, classes) or (batch, tokens, classes)"
    if not isinstance(value, Activation):
        raise Refusal("it is not the result of a layer", remedy)
    if isinstance(value.base, GateBase):
        raise Refusal("it is a softmax, or the weights of a gate", NO_SOFTMAX, value.node)
    tokens = tokens_of(context, value)
    rows = int(np.prod(value.shape[1:-1]))
    if tokens.rows is not None or value.shape[0] != context.batch or rows != tokens.base.tokens:
        raise Refusal(f"its shape {value.shape[1:]} is not tokens by features", remedy)
    return Port(name, tokens.base, tuple(int(size) for size in value.shape[1:]), task)
