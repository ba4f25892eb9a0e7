"""The digits data: fixed split, normalization, and the per-patch stroke labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPLIT_SEED = 20250101
TEST_PER_DIGIT = 72
CALIBRATION_IMAGES = 256
INK_LEVELS = 16
PATCH_SIZE = 2

DIGIT_CLASSES = tuple(str(digit) for digit in range(10))
STROKE_CLASSES = (
    "background",
    "horizontal",
    "rising",
    "vertical",
    "falling",
    "undirected",
)

# Pixels on a side of the neighbourhood whose gradients give a patch its direction: the patch, and one more around it.
WINDOW_SIZE = 4
# Below this sum of squared Sobel gradients (at most 5120 per pixel) the neighbourhood holds no stroke.
ENERGY_MIN = 10_000
# Below this coherence of the structure tensor (0 = isotropic, 1 = one direction) no direction dominates.
COHERENCE_MIN = 0.25


@dataclass(frozen=True)
class Split:
    """Images and labels of one part of the data.

    Parameters
    ----------
    pixels : ndarray of int64, shape (images, 8, 8)
        Ink of each pixel, 0..16.
    digit : ndarray of int64, shape (images,)
        The digit, 0..9.
    """

    pixels: NDArray[np.int64]
    digit: NDArray[np.int64]


def load_split() -> tuple[Split, Split]:
    """Read the digits from scikit-learn and split them, the same way always.

    Returns
    -------
    (train, test) : pair of Split
        1077 images to train and calibrate with, and 720 held-out images, 72 of each digit, both in random order.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.asarray(bunch.images).astype(np.int64)
    digit = np.asarray(bunch.target).astype(np.int64)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(digit))
    held_out = np.zeros(len(digit), dtype=bool)
    for value in range(10):
        held_out[order[digit[order] == value][:TEST_PER_DIGIT]] = True
    train, test = order[~held_out[order]], order[held_out[order]]
    return Split(pixels[train], digit[train]), Split(pixels[test], digit[test])


def normalize(pixels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Pixels as the model expects them.

    Parameters
    ----------
    pixels : ndarray of int64, shape (images, 8, 8)
        Ink of each pixel, 0..16.

    Returns
    -------
    ndarray of float32, shape (images, 1, 8, 8)
        ``ink / 8 - 1``, -1 (paper) to 1 (ink), exact in float32.
    """
    return (pixels[:, None] / (INK_LEVELS / 2) - 1).astype(np.float32)


def stroke_labels(pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Direction of the stroke that runs through each patch.

    The structure tensor of the image gradient (Sobel), summed over the 4 x 4 pixels around each patch of 2 x 2,
    gives the direction across the stroke and how strongly it dominates (Bigun and Granlund, 1987). The gradients
    reach 6 x 6 pixels, so a patch's label cannot be read from its own 4 pixels: its neighbours are needed.

    Parameters
    ----------
    pixels : ndarray of int64, shape (images, 8, 8)
        Ink of each pixel, 0..16.

    Returns
    -------
    ndarray of int64, shape (images, 16)
        Index into `STROKE_CLASSES`, patches in row-major order.
    """
    pad = np.pad(pixels, ((0, 0), (1, 1), (1, 1)))
    across_rows = pad[:, :-2] + 2 * pad[:, 1:-1] + pad[:, 2:]
    across_columns = pad[:, :, :-2] + 2 * pad[:, :, 1:-1] + pad[:, :, 2:]
    gx = across_rows[:, :, 2:] - across_rows[:, :, :-2]
    gy = across_columns[:, 2:] - across_columns[:, :-2]
    jxx, jyy, jxy = (_around_patches(product) for product in (gx * gx, gy * gy, gx * gy))
    energy = jxx + jyy
    coherence = np.hypot(jxx - jyy, 2 * jxy) / np.maximum(energy, 1)
    # The stroke is perpendicular to the gradient; image rows grow downwards, hence "falling" at 45 degrees.
    gradient_angle = 0.5 * np.arctan2(2 * jxy, jxx - jyy)
    eighth_turns = np.mod(np.round((gradient_angle + np.pi / 2) / (np.pi / 4)).astype(np.int64), 4)
    direction = np.array([1, 4, 3, 2], dtype=np.int64)[eighth_turns]
    labels = np.where(coherence < COHERENCE_MIN, 5, direction)
    return np.where(energy < ENERGY_MIN, 0, labels).reshape(len(pixels), -1)


def _around_patches(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum `values` (images, 8, 8) over the neighbourhood of each patch: (images, 4, 4)."""
    reach = (WINDOW_SIZE - PATCH_SIZE) // 2
    padded = np.pad(values, ((0, 0), (reach, reach), (reach, reach)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (WINDOW_SIZE, WINDOW_SIZE), axis=(1, 2))
    sums: NDArray[np.int64] = windows[:, ::PATCH_SIZE, ::PATCH_SIZE].sum(axis=(3, 4))
    return sums
