"""Host parts: what of a model onnxruntime runs, before or behind the accelerator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOKEN_DIGIT = 127
"""Ratio of the two int8 digits in which tokens from the host reach the accelerator: x = high + low / 127."""


@dataclass(frozen=True)
class HostPart:
    """A part of an ONNX model, as a model of its own.

    Parameters
    ----------
    onnx : ndarray of uint8
        The serialized ``ModelProto``, with its weights.
    inputs, outputs : tuple of str
        Names of the tensors that it reads and makes.
    """

    onnx: NDArray[np.uint8]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def token_image(tokens: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Tokens from the host as the image of the accelerator, in two digits.

    Parameters
    ----------
    tokens : ndarray of float32, shape (N, tokens, features)
    scale : float
        Of the image: the high digit is a multiple of it.

    Returns
    -------
    ndarray of float32, shape (N, 1, tokens, 2 * features)
        High digits, then `TOKEN_DIGIT` times what they leave.
    """
    high = np.clip(np.rint(tokens / np.float32(scale)), -127, 127) * np.float32(scale)
    low = (tokens - high) * np.float32(TOKEN_DIGIT)
    return np.concatenate([high, low], axis=-1, dtype=np.float32)[:, None]


def token_scale(tokens: NDArray[np.float32]) -> float:
    """Scale of the image for tokens of this range."""
    peak = float(np.abs(tokens).max(initial=0.0))
    return (peak or 1.0) / 127


FEATURES_MAX = 4096
"""Of a token that the host hands over: what the machine's LayerNorm takes."""


def token_weight(features: int) -> NDArray[np.float32]:
    """The kernel (features, 1, 1, 2 * features) that puts both digits together again."""
    one = np.eye(features, dtype=np.float32)
    return np.concatenate([one, one / np.float32(TOKEN_DIGIT)], axis=1)[:, None, None, :]
