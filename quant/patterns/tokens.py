"""From a tensor to the base that holds its tokens: bias and activation folded in, tokens and features selected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwattn.quant.onnx_selections import ExpertsBase
from hwattn.quant.onnx_values import (
    Activation,
    Base,
    ConvBase,
    ImageBase,
    Index,
    LinearBase,
    MixtureBase,
    NormBase,
    PatchBase,
    Refusal,
    Steps,
)
from hwattn.quant.patterns.context import Context
from hwattn.quant.patterns.parts import describe, select_features, select_tokens
from hwattn.quant.patterns.pointwise import affine, recognize

Vector = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Tokens:
    """A tensor as rows of a base.

    Parameters
    ----------
    base : Base
        All of its features, and all of its tokens, are in the tensor.
    rows : ndarray of int32 or None
        For each row of the tensor its row (image * tokens + token) in the base; None for all rows in order.
    leading : tuple of int
        The tensor's shape without its last axis.
    """

    base: Base
    rows: Index | None
    leading: tuple[int, ...]


def tokens_of(context: Context, x: Activation) -> Tokens:
    """Find the tokens that a tensor's rows are.

    Raises
    ------
    Refusal
        Rows are not tokens, or not each token of a range exactly once.
    """
    if not x.settled:
        x.settled.append(_tokens_of(context, x))
    (tokens,) = x.settled
    assert isinstance(tokens, Tokens)
    return tokens


def _tokens_of(context: Context, x: Activation) -> Tokens:
    if isinstance(x.base, ConvBase):
        return Tokens(place_patches(context, x), None, x.shape[:-1])
    x = settle_curve(context, x)
    base, count = x.base, x.base.features
    if isinstance(base, MixtureBase) and not base.whole:
        missing = sorted(set(range(base.gates.logits.features)) - set(base.experts))
        raise Refusal(
            f"the mixture lacks expert {', '.join(map(str, missing))}",
            "sum over all experts of the gate",
            x.node,
        )
    if isinstance(base, ExpertsBase):
        raise Refusal(
            "experts' results are used before they are summed with their routing weights",
            "multiply them by the routing weights and sum over the experts",
            x.node,
        )
    if x.index is None and len(x.shape) >= 2 and x.shape[-1] == count:
        return Tokens(base, None, x.shape[:-1])
    if len(x.shape) < 2:
        raise Refusal(
            f"a tensor of shape {x.shape} has no token axis", "keep features on the last axis", x.node
        )
    index = x.full_index().reshape(-1, x.shape[-1])
    features, rows = index[0] % count, index[:, 0] // count
    if index.min() < 0 or not np.array_equal(index, rows[:, None] * count + features):
        raise Refusal(
            "its input is reshaped so that a row is no longer the features of one token",
            "keep (batch, tokens, features), with features on the last axis",
        )
    if not np.array_equal(features, np.arange(count)):
        base = select_features(context, base, features)
    base, kept = select_tokens(context, base, rows)
    return Tokens(base, kept, x.shape[:-1])


def tokenwise(context: Context, base: Base, like: Tokens) -> Activation:
    """The result `base` of a token-wise operation, laid out like its input."""
    shape = (*like.leading, base.features)
    whole = like.rows is None and like.leading == (context.batch, base.tokens)
    index = None
    if not whole:
        rows = np.arange(context.batch * base.tokens, dtype=np.int32) if like.rows is None else like.rows
        places = rows[:, None] * base.features + np.arange(base.features, dtype=np.int32)
        index = places.astype(np.int32).reshape(shape)
    return Activation(base, shape, index, node=context.node)


def placed(context: Context, x: Activation) -> Activation:
    """Patches among constant tokens as the result of a patch embedding; other tensors as they are."""
    if x.offset is None:
        return x
    tokens = tokens_of(context, x)
    made = tokenwise(context, tokens.base, tokens)
    made.node = x.node
    return made


def settle_curve(context: Context, x: Activation) -> Activation:
    """Turn the element-wise function of a tensor into a scaled layer or a layer's activation."""
    if x.curve is None:
        return x
    base = x.base
    straight = affine(x.curve)
    if straight is not None:
        slope, intercept = straight
        gain, offset = np.full(base.features, slope), np.full(base.features, intercept)
        folded = fold(context, base, gain, offset, ("affine", slope, intercept))
        if folded is not None:
            return Activation(folded, x.shape, x.index, node=x.node)
        raise Refusal(
            f"{describe(base)} is multiplied by {slope:g} and {intercept:g} is added",
            "scale the linear layer or LayerNorm before it instead",
            x.node,
        )
    name = recognize(x.curve)
    if name is None:
        raise Refusal(
            "it is part of an element-wise function that is no activation of the machine",
            "use GELU (erf or tanh), QuickGELU, SiLU, softplus, hard-swish or ReLU",
            x.node,
        )
    return Activation(_activated(context, base, name, x.node), x.shape, x.index, node=x.node)


def _activated(context: Context, base: Base, name: str, node: int) -> Base:
    """A linear layer, or one of each expert, with the activation behind it."""
    if isinstance(base, ExpertsBase):
        return with_experts(context, base, lambda _, layer: _activated(context, layer, name, node))
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


def place_patches(context: Context, x: Activation) -> PatchBase:
    """Patches and constant tokens (N, tokens, dim) as one patch embedding."""
    x = settle_curve(context, x)
    conv = x.base
    assert isinstance(conv, ConvBase)
    if len(x.shape) != 3 or x.shape[0] != context.batch or x.shape[2] != conv.features:
        raise Refusal(
            f"patches reach it as a tensor of shape {x.shape}",
            "flatten and transpose patches to (batch, tokens, features)",
        )
    index = x.full_index()
    is_patch = index[0, :, 0] >= 0
    first = int(is_patch.argmax())
    place = np.full(x.shape, -1, np.int32)
    found = place[:, first : first + conv.tokens].shape[1]
    if found == conv.tokens:
        place[:, first : first + conv.tokens] = np.arange(
            context.batch * conv.tokens * conv.features, dtype=np.int32
        ).reshape(context.batch, conv.tokens, conv.features)
    if found != conv.tokens or not np.array_equal(index, place):
        raise Refusal(
            "the patches are not all there, in row-major order, next to each other",
            "flatten patches row by row and put class and register tokens before or behind them",
        )
    init = np.zeros(x.shape[1:], np.float32)
    if x.offset is not None:
        init += x.offset[0]
        if not (x.offset == x.offset[0]).all():
            raise Refusal("constant tokens differ from image to image", "use the same for all images")
    init[first : first + conv.tokens] += conv.bias
    return context.new(
        PatchBase, tokens=x.shape[1], features=conv.features, parent=conv, conv=conv, init=init, first=first
    )


def _steps(step: Steps | None, gain: Vector) -> Steps | None:
    """What rows are multiples of after a gain for each of them."""
    return None if step is None or gain.ndim != 1 else np.abs(step * gain)


def _f32(x: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.asarray(x, np.float32)
