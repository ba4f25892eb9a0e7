"""How many bits the probabilities of an attention need."""

from __future__ import annotations

import numpy as np

from hwattn.spec.graph import Attention, Float

KEYS_MAX = 512
"""Above so many keys an attention gets 16-bit probabilities: most of them round to zero in 8 bits."""

PROBABILITY_SQNR_MIN = 36.0
"""dB that 8-bit probabilities alone must leave in the result, about what int8 activations leave."""

_LEVELS = 255


def probability_bits(node: Attention, query: Float, key: Float, value: Float) -> int:
    """8 where that serves, else 16, which costs a second pass over the values.

    Parameters
    ----------
    query, key, value : ndarray of float32, shape (N, tokens, heads * head_dim)
        Samples in real numbers.
    """
    if key.shape[1] > KEYS_MAX:
        return 16
    exact, rounded = mixed_values(node, query, key, value)
    noise = float(np.square(rounded - exact).sum())
    signal = float(np.square(exact).sum())
    return 8 if signal >= noise * 10 ** (PROBABILITY_SQNR_MIN / 10) else 16


def mixed_values(node: Attention, query: Float, key: Float, value: Float) -> tuple[Float, Float]:
    """The result (N, heads, tokens, head_dim) of an attention, and what 8-bit probabilities alone make of it."""
    q, k, v = (x.reshape(*x.shape[:2], node.heads, -1).transpose(0, 2, 1, 3) for x in (query, key, value))
    scores = (q * np.float32(node.scale)) @ k.transpose(0, 1, 3, 2)
    # the running maximum is an integer power of two, so the largest probability lies between 1/2 and 1
    exponent = scores * np.float32(np.log2(np.e))
    p = np.exp2(exponent - np.ceil(exponent.max(axis=-1, keepdims=True)))
    total = p.sum(axis=-1, keepdims=True)
    rounded = np.minimum(np.floor(p * (_LEVELS + 1) + 0.5), _LEVELS) / (_LEVELS + 1)
    return p @ v / total, rounded @ v / total
