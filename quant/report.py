"""What quantization did to each layer, on images that it did not see."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from hwattn.quant.calibration import chunks, task_nodes
from hwattn.quant.reference import evaluate, outputs, route
from hwattn.quant.simulate import Simulation, simulate
from hwattn.spec.graph import Float, Graph, MixtureOfExperts
from hwattn.spec.quantized import QuantizedModel

SATURATED_SHARE = 0.01
"""Share of saturated elements above which a tensor's range is called too small."""

DROP_DB = 6.0
"""dB that a layer may lose against the worst of its inputs before it is named."""


@dataclass(frozen=True)
class LayerReport:
    """One layer.

    Parameters
    ----------
    name, kind : str
        Name of the node and the class of the float node.
    sqnr_db : float
        Power of the float tensor over the power of the difference, dB; infinite where they are equal, or nothing was
        measured. The errors of all layers before count.
    cosine : float
        Between the float and the integer tensor, all images in one.
    saturated : float
        Share of elements at the end of their range.
    drop_db : float
        What is lost against the worst input; 0 where nothing is.
    """

    name: str
    kind: str
    sqnr_db: float
    cosine: float = 1.0
    saturated: float = 0.0
    drop_db: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """Layers, and what comes out.

    Parameters
    ----------
    layers : tuple of LayerReport
    images : int
        Looked at.
    agreement : dict of str to float
        By output: how often the largest element is the float model's.
    flips, decisions : int
        Chosen experts that the float model did not choose, and all of them.
    """

    layers: tuple[LayerReport, ...]
    images: int
    agreement: dict[str, float]
    flips: int
    decisions: int


@dataclass
class _Sums:
    signal: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    power: float = 0.0
    saturated: int = 0
    elements: int = 0

    def add(self, exact: Float, rounded: Float, saturated: int) -> None:
        a, b = exact.astype(np.float64).ravel(), rounded.astype(np.float64).ravel()
        self.signal += float(a @ a)
        self.power += float(b @ b)
        self.product += float(a @ b)
        self.noise += float((b - a) @ (b - a))
        self.saturated += saturated
        self.elements += a.size


@dataclass
class _Decisions:
    flips: int = 0
    decisions: int = 0
    agreed: dict[str, list[float]] = field(default_factory=dict)


def measure(graph: Graph, model: QuantizedModel, images: Float) -> tuple[LayerReport, ...]:
    """The layers of `gather` alone."""
    return gather(graph, model, images).layers


def gather(graph: Graph, model: QuantizedModel, images: Float) -> Evidence:
    """Compare every tensor over some images and all tasks.

    Parameters
    ----------
    graph : Graph
        The float graph that `model` was made from, after scale migration (``Quantization.graph``).
    images : ndarray of float32, shape (N, channels, height, width)
    """
    sums = {name: _Sums() for name in graph.by_name}
    chosen = _Decisions()
    for task in range(graph.tasks):
        names = [node.name for node in task_nodes(graph, task)]
        for chunk in chunks(images):
            exact, rounded = evaluate(graph, chunk, task), simulate(model, chunk, task)
            for name in names:
                sums[name].add(exact[name], rounded.tensors[name], rounded.saturated[name])
            _decide(graph, exact, rounded, task, chosen)
    layers = _layers(graph, sums)
    agreement = {name: float(np.mean(values)) for name, values in chosen.agreed.items()}
    return Evidence(layers, len(images), agreement, chosen.flips, chosen.decisions)


def unmeasured(graph: Graph) -> Evidence:
    """The layers of a model of which no image was looked at."""
    layers = (LayerReport(node.name, type(node).__name__, math.inf) for node in graph.nodes)
    return Evidence(tuple(layers), 0, {}, 0, 0)


def _decide(graph: Graph, exact: dict[str, Float], rounded: Simulation, task: int, found: _Decisions) -> None:
    for node in task_nodes(graph, task):
        if isinstance(node, MixtureOfExperts):
            expected, _ = route(node, exact[node.inputs[0]], task)
            made = rounded.routing[node.name]
            found.flips += int((made[..., :, None] != expected[..., None, :]).all(axis=-1).sum())
            found.decisions += made.size
    wanted, got = outputs(graph, exact, task), outputs(graph, rounded.tensors, task)
    for name, value in wanted.items():
        agrees = value.argmax(axis=-1) == got[name].argmax(axis=-1)
        found.agreed.setdefault(name, []).extend(np.ravel(agrees).astype(float).tolist())


def _layers(graph: Graph, sums: dict[str, _Sums]) -> tuple[LayerReport, ...]:
    levels = {name: _decibel(entry.signal, entry.noise) for name, entry in sums.items()}
    found = []
    for node in graph.nodes:
        entry = sums[node.name]
        before = [levels[name] for name in node.inputs if name in levels]
        drop = min(before) - levels[node.name] if before else 0.0
        power = math.sqrt(entry.signal * entry.power)
        found.append(
            LayerReport(
                node.name,
                type(node).__name__,
                levels[node.name],
                entry.product / power if power else 1.0,
                entry.saturated / max(entry.elements, 1),
                max(drop, 0.0) if math.isfinite(drop) else 0.0,
            )
        )
    return tuple(found)


def advice(layers: tuple[LayerReport, ...], weak_db: float) -> tuple[str, ...]:
    """A sentence for each layer that hurts, and what to try; the worst first."""
    found = []
    for layer in sorted(layers, key=lambda one: one.sqnr_db):
        if layer.saturated > SATURATED_SHARE:
            what = f"{layer.saturated:.1%} of its numbers saturate; try --calibrator min-max"
        elif layer.drop_db > DROP_DB and layer.sqnr_db < weak_db:
            what = (
                f"it loses {layer.drop_db:.0f} dB; try more typical images, or another --calibrator "
                "(percentile where few outliers set the range)"
            )
        else:
            continue
        found.append(f"{layer.name} ({layer.sqnr_db:.1f} dB): {what}")
    return tuple(found)


def _decibel(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
