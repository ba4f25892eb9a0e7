"""Calibration data from a reader, an ``.npz`` or a folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Float

SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".bmp", ".webp"])
"""Names of image files."""


class Reader(Protocol):
    """onnxruntime's ``CalibrationDataReader``: feeds, one after the other, then None."""

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the next feed."""


def read_all(reader: Reader) -> dict[str, NDArray[Any]]:
    """All feeds of a reader, one array for each input.

    Raises
    ------
    RefusedError
        There is none, or they do not go together.
    """
    feeds: list[dict[str, NDArray[Any]]] = []
    while (feed := reader.get_next()) is not None:
        feeds.append(feed)
    try:
        return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
    except (IndexError, KeyError, ValueError) as error:
        raise RefusedError(
            f"calibration data of {len(feeds)} feeds that do not go together ({error})",
            "at least one feed, all of the same inputs and shapes",
            "check the reader's get_next()",
        ) from error


def folder_images(
    folder: Path, shape: tuple[int, int, int], mean: Sequence[float], deviation: Sequence[float]
) -> Float:
    """The images of a folder, resized and normalized.

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width), one or three channels.
    mean, deviation : sequence of float
        Of each channel, of values from 0 to 1: one, or as many as channels.

    Returns
    -------
    ndarray of float32, shape (N, channels, height, width)

    Raises
    ------
    RefusedError
        There is no image, one cannot be read, or there are not as many means as channels.
    """
    channels, height, width = shape
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files or channels not in (1, 3):
        raise RefusedError(
            f"{folder} with {len(files)} images, for {channels} channels",
            "a folder of .png, .jpg, .bmp or .webp images, and a model of one or three channels",
            "name another folder, or give an .npz",
        )
    scale = []
    for values in (mean, deviation):
        if len(values) not in (1, channels) or not np.isfinite(values).all():
            raise RefusedError(
                f"a normalization by {len(values)} numbers",
                f"one, or {channels}",
                "correct --mean and --std",
            )
        scale.append(np.broadcast_to(np.asarray(values, np.float32), channels).reshape(-1, 1, 1))
    found = []
    for path in files:
        try:
            with Image.open(path) as image:
                resized = image.convert("RGB" if channels == 3 else "L").resize((width, height))
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise RefusedError(
                f"{path} cannot be read as an image ({error})", "an intact image", "remove it"
            ) from error
        pixels = np.asarray(resized, np.float32).reshape(height, width, channels).transpose(2, 0, 1) / 255
        found.append((pixels - scale[0]) / scale[1])
    return np.stack(found).astype(np.float32)
