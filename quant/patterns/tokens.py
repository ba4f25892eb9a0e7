"""From a tensor to the base that holds its tokens: activation settled, tokens and features selected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwattn.quant.onnx_bases import Base, ConvBase, LinearBase, MixtureBase, PatchBase, RowsBase
from hwattn.quant.onnx_selections import ExpertsBase
from hwattn.quant.onnx_values import Activation, Index, Refusal
from hwattn.quant.patterns.context import Context
from hwattn.quant.patterns.folding import activated, describe, fold
from hwattn.quant.patterns.pointwise import affine, recognize


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
        raise Refusal(f"the mixture lacks {base.missing}", "sum over all experts of the gate", x.node)
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
    return Activation(activated(context, base, name, x.node), x.shape, x.index, node=x.node)


def select_features(context: Context, base: Base, features: Index) -> Base:
    """Some features of a linear layer, in the given order."""
    if not isinstance(base, LinearBase):
        raise Refusal(
            f"features of {describe(base)} are taken apart or reordered",
            "split or reorder only the result of a linear layer",
        )
    features = features.astype(np.int32)
    return context.once(
        ("features", base.order, features.tobytes()),
        lambda: context.new(
            LinearBase,
            tokens=base.tokens,
            features=len(features),
            parent=base,
            source=base.source,
            weight=base.weight[..., features, :],
            bias=base.bias[..., features],
            activation=base.activation,
            step=None if base.step is None else base.step[features],
        ),
    )


def select_tokens(context: Context, base: Base, rows: Index) -> tuple[Base, Index | None]:
    """The base that holds just the tokens of `rows`, and their rows in it."""
    token, image = rows % base.tokens, rows // base.tokens
    start, stop = int(token.min()), int(token.max()) + 1
    wanted = context.batch * (stop - start)
    if len(rows) != wanted or len(np.unique(rows)) != wanted:
        raise Refusal(
            "it takes tokens that are no contiguous range, or one more than once",
            "slice a contiguous range of tokens, such as x[:, 0] or x[:, 1:]",
        )
    kept = (image * (stop - start) + token - start).astype(np.int32)
    in_order = np.array_equal(kept, np.arange(wanted))
    return rows_of(context, base, start, stop), None if in_order else kept


def rows_of(context: Context, base: Base, start: int, stop: int) -> Base:
    """Tokens `start` to `stop` - 1; a linear layer is computed only for them."""
    if (start, stop) == (0, base.tokens):
        return base
    if isinstance(base, LinearBase):
        source = rows_of(context, base.source, start, stop)
        return context.once(
            ("rows", base.order, start, stop),
            lambda: context.new(
                LinearBase,
                tokens=stop - start,
                features=base.features,
                parent=base,
                source=source,
                weight=base.weight,
                bias=base.bias,
                activation=base.activation,
                step=base.step,
            ),
        )
    return context.once(
        ("rows", base.order, start, stop),
        lambda: context.new(
            RowsBase,
            tokens=stop - start,
            features=base.features,
            parent=None,
            source=base,
            start=start,
            stop=stop,
        ),
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
