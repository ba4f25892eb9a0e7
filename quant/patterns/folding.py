"""Biases, scales and activations folded into the base that they follow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hwattn.quant.onnx_bases import (
    Base,
    ConvBase,
    GateBase,
    ImageBase,
    LinearBase,
    MixtureBase,
    NormBase,
    PatchBase,
    Steps,
)
from hwattn.quant.onnx_selections import ExpertsBase
from hwattn.quant.onnx_values import Refusal
from hwattn.quant.patterns.context import Context

Vector = NDArray[np.floating]


def fold(
    context: Context, base: Base, gain: Vector, offset: Vector, key: tuple[object, ...] | None = None
) -> Base | None:
    """``base * gain + offset`` per feature, as a base of the same kind; None where the kind cannot hold it.

    Parameters
    ----------
    gain, offset : ndarray, shape (features,) or (tasks, features)
        With a task axis only for linear layers.
    key : tuple, optional
        Equal keys give the same base.
    """

    def make() -> Base:
        same = {"tokens": base.tokens, "features": base.features, "parent": base}
        match base:
            case LinearBase():
                weight = base.weight * gain[..., None]
                bias = base.bias * gain + offset
                weight = np.broadcast_to(weight, (*bias.shape, weight.shape[-1]))
                bias = np.broadcast_to(bias, weight.shape[:-1])
                return context.new(
                    LinearBase,
                    **same,
                    source=base.source,
                    weight=_f32(weight),
                    bias=_f32(bias),
                    step=_steps(base.step, gain),
                )
            case NormBase():
                return context.new(
                    NormBase,
                    **same,
                    source=base.source,
                    gamma=_f32(base.gamma * gain),
                    beta=_f32(base.beta * gain + offset),
                    epsilon=base.epsilon,
                    zero_mean=base.zero_mean,
                )
            case ConvBase():
                return context.new(
                    ConvBase,
                    **same,
                    weight=_f32(base.weight * gain[:, None, None, None]),
                    bias=_f32(base.bias * gain + offset),
                    step=_steps(base.step, gain),
                )
            case ImageBase():
                return context.new(
                    ImageBase,
                    **same,
                    height=base.height,
                    width=base.width,
                    gain=_f32(base.gain * gain),
                    offset=_f32(base.offset * gain + offset),
                )
        raise AssertionError(base)

    if isinstance(base, ExpertsBase) and gain.ndim == offset.ndim == 1:
        return _fold_experts(context, base, gain.reshape(base.places, -1), offset.reshape(base.places, -1))
    kinds = (LinearBase, NormBase, ConvBase, ImageBase)
    if not isinstance(base, kinds) or (isinstance(base, LinearBase) and base.activation):
        return None
    if not isinstance(base, LinearBase) and (gain.ndim > 1 or offset.ndim > 1):
        return None
    return make() if key is None else context.once(("fold", base.order, *key), make)


def _fold_experts(context: Context, base: ExpertsBase, gain: Vector, offset: Vector) -> ExpertsBase | None:
    """Scales and biases of each place, which are those of an expert or the same for all."""
    if base.chosen is not None and ((gain != gain[0]).any() or (offset != offset[0]).any()):
        return None
    return with_experts(
        context,
        base,
        lambda number, layer: fold(context, layer, gain[number % len(gain)], offset[number % len(gain)]),
    )


def with_experts(
    context: Context, base: ExpertsBase, change: Callable[[int, LinearBase], Base | None]
) -> ExpertsBase:
    """Experts' results with the layer of each expert changed."""
    experts = {number: change(number, layer) for number, layer in base.experts.items()}
    if base.gates is not None or not all(isinstance(layer, LinearBase) for layer in experts.values()):
        raise Refusal(
            "a bias, scale or activation behind an expert's activation or routing weights",
            "make each expert two linear layers with an activation between them",
        )
    return context.new(
        ExpertsBase,
        tokens=base.tokens,
        features=base.features,
        parent=base,
        chosen=base.chosen,
        experts=experts,
        count=base.count,
    )


def activated(context: Context, base: Base, name: str, node: int) -> Base:
    """A linear layer, or one of each expert, with the activation behind it."""
    if isinstance(base, ExpertsBase):
        return with_experts(context, base, lambda _, layer: activated(context, layer, name, node))
    if not isinstance(base, LinearBase) or base.activation or base.weight.ndim != 2:
        raise Refusal(
            f"{name} follows {describe(base)}", "apply activations to the result of a linear layer", node
        )
    return context.once(
        ("activation", base.order, name),
        lambda: context.new(
            LinearBase,
            tokens=base.tokens,
            features=base.features,
            parent=base,
            source=base.source,
            weight=base.weight,
            bias=base.bias,
            activation=name,
            step=base.step,
        ),
    )


def describe(base: Base) -> str:
    """What a base is, for messages."""
    match base:
        case LinearBase():
            return "a linear layer with an activation" if base.activation else "a linear layer"
        case NormBase():
            return "a LayerNorm"
        case ImageBase():
            return "the image"
        case PatchBase() | ConvBase():
            return "the patch embedding"
        case GateBase():
            return "the weights of a gate"
        case MixtureBase():
            return "a mixture of experts"
        case ExpertsBase():
            return "experts' results that are not summed yet"
    return {"AttentionBase": "attention", "AddBase": "a residual addition", "RowsBase": "a range of tokens"}[
        type(base).__name__
    ]


def _steps(step: Steps | None, gain: Vector) -> Steps | None:
    """What rows are multiples of after a gain for each of them."""
    return None if step is None or gain.ndim != 1 else np.abs(step * gain)


def _f32(x: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.asarray(x, np.float32)
