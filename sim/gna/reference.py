"""Reference attention in NumPy: the definition, for checking kernels, not for speed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hwattn.sim.gna.axis import axis_mask
from hwattn.sim.gna.pattern import Pattern
from hwattn.spec.errors import RefusedError

FloatArray = npt.NDArray[np.float64]

_QUERY_BLOCK = 256


def mask_rows(pattern: Pattern, queries: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Rows of the mask for some row-major query indices, bool (queries, N)."""
    coordinates = np.unravel_index(queries, pattern.layout)
    rows = np.ones((len(queries), 1), dtype=np.bool_)
    for axis, coordinate in zip(pattern.axes, coordinates, strict=True):
        selected = axis_mask(axis)[coordinate]
        rows = (rows[:, :, None] & selected[:, None, :]).reshape(len(queries), -1)
    return rows


def attention(
    query: npt.ArrayLike,
    key: npt.ArrayLike,
    value: npt.ArrayLike,
    pattern: Pattern,
    scale: float | None = None,
    additional_keys: npt.ArrayLike | None = None,
    additional_values: npt.ArrayLike | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Generalized neighborhood attention.

    Parameters
    ----------
    query : array, shape (batch, *layout, heads, head_dim)
    key : array, shape (batch, *layout, heads_kv, head_dim)
    value : array, shape (batch, *layout, heads_kv, value_dim)
        ``heads_kv`` divides ``heads``; query head ``h`` uses KV head ``h // (heads // heads_kv)``.
    pattern : Pattern
    scale : float, optional
        Of the logits; ``head_dim ** -0.5`` by default (0 means the default, as in NATTEN).
    additional_keys, additional_values : array, shape (batch, M, heads_kv, ...), optional
        Extra context tokens that every query sees, in one softmax with its neighborhood.

    Returns
    -------
    output : float64 array, shape (batch, *layout, heads, value_dim)
    lse : float64 array, shape (batch, *layout, heads)
        Natural logarithm of the sum of exponentials of the scaled logits.
    """
    q, k, v = (np.asarray(array, dtype=np.float64) for array in (query, key, value))
    _check_shapes(q, k, v, pattern)
    batch, heads, head_dim = q.shape[0], q.shape[-2], q.shape[-1]
    tokens, group = pattern.tokens, heads // k.shape[-2]
    q = q.reshape(batch, tokens, heads, head_dim)
    k, v = (array.reshape(batch, tokens, *array.shape[-2:]) for array in (k, v))
    extra = 0
    if (additional_keys is None) != (additional_values is None):
        raise RefusedError("additional keys or values alone", "both or neither", "give both")
    if additional_keys is not None and additional_values is not None:
        more_k, more_v = np.asarray(additional_keys, np.float64), np.asarray(additional_values, np.float64)
        extra = more_k.shape[1]
        k, v = np.concatenate([k, more_k], axis=1), np.concatenate([v, more_v], axis=1)
    k, v = np.repeat(k, group, axis=2), np.repeat(v, group, axis=2)
    factor = scale or head_dim**-0.5
    output = np.empty((batch, tokens, heads, v.shape[-1]))
    lse = np.empty((batch, tokens, heads))
    for begin in range(0, tokens, _QUERY_BLOCK):
        block = slice(begin, min(begin + _QUERY_BLOCK, tokens))
        visible = mask_rows(pattern, np.arange(block.start, block.stop))
        visible = np.pad(visible, ((0, 0), (0, extra)), constant_values=True)
        logits = np.einsum("bqhd,bkhd->bhqk", q[:, block], k) * factor
        logits = np.where(visible, logits, -np.inf)
        peak = logits.max(axis=-1, keepdims=True)
        weights = np.exp(logits - peak)
        total = weights.sum(axis=-1, keepdims=True)
        output[:, block] = np.einsum("bhqk,bkhd->bqhd", weights / total, v)
        lse[:, block] = (peak + np.log(total))[..., 0].transpose(0, 2, 1)
    shape = (batch, *pattern.layout, heads)
    return output.reshape(*shape, -1), lse.reshape(shape)


def _check_shapes(q: FloatArray, k: FloatArray, v: FloatArray, pattern: Pattern) -> None:
    for name, array in (("query", q), ("key", k), ("value", v)):
        if array.ndim != pattern.rank + 3 or array.shape[1:-2] != pattern.layout:
            raise RefusedError(
                f"{name} of shape {array.shape}",
                f"(batch, {', '.join(map(str, pattern.layout))}, heads, dim)",
                "put the heads after the layout (heads-last)",
            )
    if q.shape[0] != k.shape[0] or k.shape[:-1] != v.shape[:-1] or q.shape[-1] != k.shape[-1]:
        raise RefusedError(
            f"query, key and value of shapes {q.shape}, {k.shape} and {v.shape}",
            "equal batches, equal KV heads, and equal head_dim of query and key",
            "correct the shapes",
        )
    if q.shape[-2] % k.shape[-2]:
        raise RefusedError(
            f"{q.shape[-2]} heads with {k.shape[-2]} KV heads",
            "a divisor of the heads",
            "repeat keys and values",
        )


def merge(
    first: tuple[FloatArray, FloatArray], second: tuple[FloatArray, FloatArray]
) -> tuple[FloatArray, FloatArray]:
    """Join two attentions of the same queries over disjoint keys, each (output, lse), into one softmax."""
    (output0, lse0), (output1, lse1) = first, second
    weight: Any = 1.0 / (1.0 + np.exp(lse0 - lse1))
    merged: FloatArray = output0 - weight[..., None] * (output0 - output1)
    return merged, np.logaddexp(lse0, lse1)
