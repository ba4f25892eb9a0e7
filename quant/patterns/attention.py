"""Attention: heads recovered from where the elements of q, k and v come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from hwattn.quant.onnx_bases import AttentionBase, Base
from hwattn.quant.onnx_values import Activation, Index, Known, Refusal, Scores, Value
from hwattn.quant.patterns.context import Context, attribute
from hwattn.quant.patterns.folding import describe
from hwattn.quant.patterns.pointwise import affine
from hwattn.quant.patterns.tokens import rows_of, select_features, settle_curve

_REMEDY = "compute attention as softmax(q k^T * scale) v, q, k and v split by heads as torch does"


@dataclass(frozen=True, eq=False)
class Heads:
    """A query, key or value: features of `base` head by head; image and head of each matrix of the stack."""

    base: Base
    image: NDArray[np.int64]
    head: NDArray[np.int64]

    @property
    def heads(self) -> int:
        """Number of heads."""
        return int(self.head.max()) + 1


def scores(context: Context, q: Activation, k: Activation) -> Scores:
    """Q k^T of every head; q (..., queries, head_dim), k (..., head_dim, keys)."""
    if len(q.shape) < 3 or len(k.shape) < 3 or q.shape[-1] != k.shape[-2]:
        raise Refusal(f"a product of activations of shapes {q.shape} and {k.shape}", _REMEDY)
    q, q_scale = _take_scale(context, q)
    k, k_scale = _take_scale(context, k)
    leading = _leading(q.shape, k.shape)
    query = _heads(context, q, _stack(q.full_index(), leading))
    key = _heads(context, k, _stack(k.full_index(), leading).transpose(0, 2, 1))
    _check_same(query, key)
    shape = (*leading, q.shape[-2], k.shape[-1])
    return Scores(query.base, key.base, query.image, query.head, q_scale * k_scale, shape)


def attend(context: Context, p: Scores, v: Activation) -> Activation:
    """P v of every head; v (..., keys, head_dim)."""
    if not p.normalized:
        raise Refusal("attention scores reach the values without a softmax", _REMEDY)
    v = settle_curve(context, v)
    if len(v.shape) < 3 or v.shape[-2] != p.shape[-1] or _leading(p.shape, v.shape) != p.shape[:-2]:
        raise Refusal(f"probabilities of shape {p.shape} times values of shape {v.shape}", _REMEDY)
    value = _heads(context, v, _stack(v.full_index(), p.shape[:-2]))
    _check_same(Heads(p.query, p.image, p.head), value)
    base = context.new(
        AttentionBase,
        tokens=p.shape[-2],
        features=value.base.features,
        query=p.query,
        key=p.key,
        value=value.base,
        heads=value.heads,
        scale=p.scale,
    )
    head_dim = v.shape[-1]
    row = p.image[:, None, None] * base.tokens + np.arange(base.tokens)[:, None]
    index = row * base.features + p.head[:, None, None] * head_dim + np.arange(head_dim)
    shape = (*p.shape[:-1], head_dim)
    return Activation(base, shape, index.astype(np.int32).reshape(shape), node=context.node)


def operator(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """The Attention operator; q, k and v (batch, heads, tokens, head_dim) or (batch, tokens, features)."""
    q, k, v, *others = inputs
    if others and hides_nothing(others[0]):
        others[0] = None
    plain = not attribute(node, "is_causal", 0) and not attribute(node, "softcap", 0.0)
    if not plain or any(other is not None for other in others) or any(node.output[1:]):
        raise Refusal("attention with a mask, a softcap or a cache", _REMEDY)
    if not (isinstance(q, Activation) and isinstance(k, Activation) and isinstance(v, Activation)):
        raise Refusal("attention of something else than query, key and value", _REMEDY)
    flat = len(q.shape) == 3
    if flat:
        heads, others_heads = attribute(node, "q_num_heads", 1), attribute(node, "kv_num_heads", 1)
        q, k, v = split(q, heads), split(k, others_heads), split(v, others_heads)
    y = of_heads(context, q, k, v, attribute(node, "scale"))
    return [joined(y) if flat else y]


def of_heads(
    context: Context, q: Activation, k: Activation, v: Activation, scale: float | None
) -> Activation:
    """Attention of q, k and v (batch, heads, tokens, head_dim); the scale of None is that of the head's features."""
    if q.shape[1] != k.shape[1]:
        raise Refusal("keys and values shared by several heads", "use as many key heads as query heads")
    factor = float(q.shape[-1] ** -0.5 if scale is None else scale)
    p = softmax(scaled(scores(context, q, _moved(k, (0, 1, 3, 2))), factor))
    return attend(context, p, v)


def joined(y: Activation) -> Activation:
    """Heads (batch, heads, tokens, head_dim) side by side, (batch, tokens, features)."""
    y = _moved(y, (0, 2, 1, 3))
    shape = (*y.shape[:2], y.shape[2] * y.shape[3])
    return Activation(y.base, shape, y.full_index().reshape(shape), node=y.node)


def hides_nothing(mask: Value | None) -> bool:
    """A mask that is all true, or adds zeros."""
    if not isinstance(mask, Known) or len(mask.arrays) != 1:
        return False
    array = mask.array
    return bool(array.all()) if array.dtype == np.bool_ else not array.any()


def split(x: Activation, heads: int) -> Activation:
    """Features (batch, tokens, features) as heads (batch, heads, tokens, head_dim)."""
    batch, tokens, features = x.shape
    index = x.full_index().reshape(batch, tokens, heads, features // heads)
    return _moved(Activation(x.base, index.shape, index, x.curve, node=x.node), (0, 2, 1, 3))


def _moved(x: Activation, axes: tuple[int, ...]) -> Activation:
    index = x.full_index().transpose(axes)
    return Activation(x.base, index.shape, index, x.curve, node=x.node)


def softmax(p: Scores) -> Scores:
    """The probabilities of scores."""
    if p.normalized:
        raise Refusal("a second softmax of attention probabilities", _REMEDY)
    return Scores(p.query, p.key, p.image, p.head, p.scale, p.shape, True)


def scaled(p: Scores, factor: float) -> Scores:
    """Scores times a number."""
    if p.normalized:
        raise Refusal("attention probabilities are scaled", _REMEDY)
    if not np.isfinite(factor):
        raise Refusal(f"attention scores are multiplied by {factor}", _REMEDY)
    return Scores(p.query, p.key, p.image, p.head, p.scale * factor, p.shape)


def _take_scale(context: Context, x: Activation) -> tuple[Activation, float]:
    """Take a factor out of a query or key."""
    straight = None if x.curve is None else affine(x.curve)
    if straight is not None and straight[1] == 0:
        return Activation(x.base, x.shape, x.index, None, x.offset, x.node), straight[0]
    return settle_curve(context, x), 1.0


def _leading(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(left[:-2], right[:-2])
    except ValueError as error:
        raise Refusal(f"a product of activations of shapes {left} and {right}", _REMEDY) from error


def _stack(index: Index, leading: tuple[int, ...]) -> Index:
    return np.broadcast_to(index, (*leading, *index.shape[-2:])).reshape(-1, *index.shape[-2:])


def _heads(context: Context, x: Activation, index: Index) -> Heads:
    """Read heads from the indices (matrices, tokens, head_dim) of a query, key or value."""
    base = x.base
    row, feature = index[:, :, 0] // base.features, index[:, 0, :] % base.features
    in_place = index.min() >= 0 and np.array_equal(index, row[:, :, None] * base.features + feature[:, None])
    image, token = row[:, 0] // base.tokens, row[0] % base.tokens
    start = int(token[0])
    in_place = in_place and np.array_equal(token, np.arange(start, start + len(token)))
    if x.offset is not None or not in_place:
        raise Refusal(
            f"a query, key or value is no split of {describe(base)} into heads",
            "split the result of a linear layer into (batch, heads, tokens, head_dim)",
        )
    in_place = np.array_equal(row, image[:, None] * base.tokens + token)
    of_first = feature[image == 0]
    head = np.zeros(len(image), np.int64)
    for number in range(context.batch):
        mine = image == number
        head[mine] = np.arange(mine.sum())
        in_place = in_place and np.array_equal(feature[mine], of_first)
    if not in_place:
        raise Refusal("the heads of a query, key or value differ from image to image", _REMEDY)
    features = of_first.reshape(-1)
    if not np.array_equal(features, np.arange(base.features)):
        base = select_features(context, base, features)
    return Heads(rows_of(context, base, start, start + len(token)), image.astype(np.int64), head)


def _check_same(left: Heads, right: Heads) -> None:
    if not np.array_equal(left.image, right.image) or not np.array_equal(left.head, right.head):
        raise Refusal("query, key and value are stacked in different orders", _REMEDY)
