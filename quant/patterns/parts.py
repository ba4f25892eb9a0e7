"""Parts of a result (some of its features, some of its tokens), and what to call it."""

from __future__ import annotations

import numpy as np

from hwattn.quant.onnx_selections import ExpertsBase
from hwattn.quant.onnx_values import (
    Base,
    ConvBase,
    GateBase,
    ImageBase,
    Index,
    LinearBase,
    MixtureBase,
    NormBase,
    PatchBase,
    Refusal,
    RowsBase,
)
from hwattn.quant.patterns.context import Context


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
