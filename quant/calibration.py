"""Calibration: what the float graph computes on sample images, and scales chosen from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwattn.quant.reference import evaluate, patches
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Attention, Float, Graph, Node, PatchEmbed

SAMPLE_ROWS = 4096
"""Tokens kept of each tensor and task."""

CHUNK_IMAGES = 16
"""Images evaluated at once, at most."""

CHUNK_PIXELS = 1 << 19
"""Numbers of the images evaluated at once (one image in any case): what bounds memory and keeps tensors near the caches."""

WHOLE_IMAGES = 4
"""Images of which queries, keys and values are kept whole, at least."""

WHOLE_TOKENS = 4096
"""Tokens of queries, keys and values that are kept so, at least, where there are as many."""

_SEED = 0
_SCALE_VALUES = 200_000
_INT8_MAX = 127


@dataclass(frozen=True)
class Statistics:
    """Samples of every tensor of a graph on the calibration images.

    Parameters
    ----------
    images : ndarray of float32, shape (N, channels, height, width)
        The calibration images.
    samples : dict of str to list of ndarray of float32, shape (rows, features)
        By tensor, one array per task (empty where the task's outputs do not depend on the tensor).
    whole : dict of str to ndarray of float32, shape (images, tokens, features)
        Queries, keys and values, with all tokens of a few images.
    peaks : dict of str to float
        Largest magnitude of each tensor, over all tokens of all images (where it was changed: of the samples).
    """

    images: Float
    samples: dict[str, list[Float]]
    whole: dict[str, Float]
    peaks: dict[str, float]

    def rows(self, name: str) -> Float:
        """Sampled tokens of a tensor, of all tasks, one below the other."""
        return np.concatenate(self.samples[name])

    def divided(self, factors: dict[str, NDArray[np.float32]]) -> Statistics:
        """Return these statistics with some tensors' features divided by factors, by tensor."""
        return self._changed(factors, np.divide)

    def moved(self, offsets: dict[str, NDArray[np.float32]]) -> Statistics:
        """Return these statistics with offsets subtracted from some tensors' features, by tensor."""
        return self._changed(offsets, np.subtract)

    def _changed(self, operands: dict[str, NDArray[np.float32]], change: np.ufunc) -> Statistics:
        samples, whole, peaks = dict(self.samples), dict(self.whole), dict(self.peaks)
        for name, operand in operands.items():
            samples[name] = [change(rows, operand) for rows in samples[name]]
            peaks[name] = max(float(np.abs(rows).max(initial=0.0)) for rows in samples[name])
            if name in whole:
                whole[name] = change(whole[name], operand)
        return Statistics(self.images, samples, whole, peaks)

    def inputs(self, node: Node) -> Float:
        """Rows that `node` multiplies by its weights: sampled tokens of its first input, or patches."""
        if isinstance(node, PatchEmbed):
            cut = patches(self.images, (node.weight.shape[2], node.weight.shape[3]))
            return _subset(cut.reshape(-1, cut.shape[-1]), SAMPLE_ROWS, np.random.default_rng(_SEED))
        return self.rows(node.inputs[0])


def chunks(images: Float) -> list[Float]:
    """Cut images into the parts that are evaluated at once."""
    count = max(1, min(CHUNK_IMAGES, CHUNK_PIXELS // max(1, images[0].size)))
    return [images[start : start + count] for start in range(0, len(images), count)]


def task_nodes(graph: Graph, task: int) -> list[Node]:
    """Nodes that the outputs of `task` depend on, in order."""
    needed = {output.tensor for output in graph.outputs if output.task in (None, task)}
    kept = []
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def collect(graph: Graph, images: Float) -> Statistics:
    """Evaluate the graph on the calibration images and sample every tensor.

    Parameters
    ----------
    images : ndarray of float32, shape (N, channels, height, width)

    Raises
    ------
    RefusedError
        If there is no image, an image holds a value that is not finite, the shape is wrong, or the model
        computes such a value from them.
    """
    if len(images) == 0 or not np.isfinite(images).all():
        raise RefusedError(
            "calibration images that are missing or hold values that are not finite",
            "at least one image of finite numbers",
            "give 32 to 512 typical images with --calibration",
        )
    samples: dict[str, list[Float]] = {node.name: [] for node in graph.nodes}
    peaks = dict.fromkeys(samples, 0.0)
    operands = {name for node in graph.nodes if isinstance(node, Attention) for name in node.inputs}
    whole: dict[str, Float] = {}
    for task in range(graph.tasks):
        rng = np.random.default_rng(_SEED)
        parts: dict[str, list[Float]] = {node.name: [] for node in task_nodes(graph, task)}
        for chunk in chunks(images):
            budget = -(-SAMPLE_ROWS * len(chunk) // len(images))
            with np.errstate(invalid="ignore", over="ignore"):  # reported below
                values = evaluate(graph, chunk, task)
            for name, kept in parts.items():
                value = values[name].reshape(-1, values[name].shape[-1])
                peaks[name] = max(peaks[name], float(np.abs(value).max()))
                kept.append(_subset(value, budget, rng))
                if name in operands:
                    held = whole.get(name, values[name][:0])
                    wanted = max(WHOLE_IMAGES, -(-WHOLE_TOKENS // values[name].shape[1]))
                    whole[name] = np.concatenate([held, values[name][: wanted - len(held)]])
        for name, kept in parts.items():
            samples[name].append(np.concatenate(kept))
    bad = [name for name, peak in peaks.items() if not np.isfinite(peak)]
    if bad:
        raise RefusedError(
            f"the float model computes values that are not finite, first in {bad[0]}",
            "finite activations on the calibration images",
            "check the weights and the normalization of the images",
        )
    return Statistics(images, samples, whole, peaks)


def _subset(rows: Float, count: int, rng: np.random.Generator) -> Float:
    if len(rows) <= count:
        return rows
    return rows[np.sort(rng.choice(len(rows), count, replace=False))]


def choose_scale(
    values: Float, smallest: float = 0.3, importance: Float | None = None, limit: int = _INT8_MAX
) -> float:
    """Scale of a tensor that leaves the least mean square error, clipping included.

    Parameters
    ----------
    values : ndarray of float32, shape (rows, features)
        Samples of the tensor.
    smallest : float
        Lower end of the ranges tried, as a fraction of the largest magnitude; 1 forbids clipping.
    importance : ndarray of float32, shape (features,), optional
        What a squared error of each feature counts; all the same by default.
    limit : int
        Largest integer.

    Returns
    -------
    float
        Range / limit; 1 / limit for a tensor that is zero.
    """
    return choose_shared_scale([(values, importance)], smallest, limit)


def choose_shared_scale(
    groups: Sequence[tuple[Float, Float | None]], smallest: float = 0.3, limit: int = _INT8_MAX
) -> float:
    """As `choose_scale`, for the least sum of the relative errors of several groups of rows.

    Parameters
    ----------
    groups : sequence of (values, importance)
        What each reader of the tensor sees of it; a class token so counts as much as all patches.
    """
    peak = max(float(np.abs(values).max(initial=0.0)) for values, _ in groups)
    if peak == 0.0:
        return 1.0 / limit
    candidates = peak / limit * np.linspace(1.0, smallest, 29 if smallest < 1 else 1)
    errors = np.zeros(len(candidates))
    for values, importance in groups:
        sample = values[:: max(1, values.size // _SCALE_VALUES)]
        weight = np.ones(values.shape[-1], np.float32) if importance is None else importance
        power = max(float((np.square(sample).mean(axis=0) * weight).sum()), 1e-30) if len(sample) else np.inf
        for index, scale in enumerate(candidates):
            error = np.square(fake(sample, scale, limit) - sample).sum(axis=0) @ weight
            errors[index] += float(error) / max(len(sample), 1) / power
    return float(candidates[int(np.argmin(errors))])


def image_scale(images: Float) -> float:
    """Scale of the image input: peak / n for the n from 64 to 127 that leaves the least error.

    Images of few grey levels are so represented exactly.
    """
    values, counts = np.unique(np.abs(images), return_counts=True)
    peak = float(values[-1])
    if peak == 0.0:
        return 1.0 / _INT8_MAX
    steps = np.arange(_INT8_MAX, 63, -1)
    errors = np.array([counts @ np.square(fake(values, peak / n) - values) for n in steps], np.float64)
    good = errors <= errors.min() + 1e-9 * float(counts @ np.square(values))
    return peak / float(steps[np.argmax(good)])


def fake(values: Float, scale: float | NDArray[np.float64], limit: int = _INT8_MAX) -> Float:
    """Round to multiples of `scale`, at most `limit` of them, and return real values (float32)."""
    rounded = np.asarray(values / np.float32(scale), np.float32)
    rounded += np.float32(0.5)
    np.floor(rounded, out=rounded)
    np.clip(rounded, -limit, limit, out=rounded)
    rounded *= np.float32(scale)
    return rounded
