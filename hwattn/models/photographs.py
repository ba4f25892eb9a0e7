"""Images for the built workloads: seeded crops of the two photographs that come with scikit-learn.

Calibration images are cut from the left halves, test images from the right halves: they share no pixel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MEAN = (0.485, 0.456, 0.406)
STANDARD_DEVIATION = (0.229, 0.224, 0.225)
"""Of ImageNet's images, red, green and blue, 0..1: what DeiT's images are normalized with."""

SOURCE = (
    "crops of china.jpg and flower.jpg, the sample photographs of scikit-learn (sklearn.datasets.load_sample_images); "
    "weights are random, so there are no labels: the metric is agreement with the float model"
)
LICENCE = (
    "CC BY 2.0: china.jpg by danielbuechele (flickr.com/photos/danielbuechele/6061409035), "
    "flower.jpg from flickr.com/photos/vultilion/6056698931; both distributed with scikit-learn"
)

_SCALES = (0.6, 1.0)
_GAMMAS = (0.7, 1.4)


def photographs(count: int, size: tuple[int, int], seed: int, held_out: bool) -> NDArray[np.float32]:
    """Cut, resize, mirror and normalize crops of the photographs.

    Parameters
    ----------
    count : int
        Images to return; they are taken from the two photographs in turn.
    size : tuple of int
        Height and width of an image, pixels.
    seed : int
        Of the places, sizes and brightness of the crops.
    held_out : bool
        Cut from the right halves (to test with) instead of the left ones (to calibrate with).

    Returns
    -------
    ndarray of float32, shape (count, 3, height, width)
        Normalized by ImageNet's mean and standard deviation.
    """
    from PIL import Image
    from sklearn.datasets import load_sample_images

    sources = [np.asarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng([seed, int(held_out)])
    height, width = size
    crops = []
    for index in range(count):
        source = sources[index % len(sources)]
        rows, columns = source.shape[0], source.shape[1] // 2
        half = source[:, columns:] if held_out else source[:, :columns]
        largest = min(rows / height, columns / width)
        scale = largest * rng.uniform(*_SCALES)
        top = rng.uniform(0, rows - scale * height)
        left = rng.uniform(0, columns - scale * width)
        box = (left, top, left + scale * width, top + scale * height)
        resized = Image.fromarray(half).resize((width, height), Image.Resampling.BICUBIC, box)
        crop = np.asarray(resized, np.float64) / 255
        crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        crops.append(crop ** rng.uniform(*_GAMMAS))
    pixels = (np.stack(crops) - MEAN) / STANDARD_DEVIATION
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)
