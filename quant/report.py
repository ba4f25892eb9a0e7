"""What quantization did to each layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hwattn.quant.calibration import chunks, task_nodes
from hwattn.quant.reference import evaluate
from hwattn.quant.simulate import simulate
from hwattn.spec.graph import Float, Graph
from hwattn.spec.quantized import QuantizedModel


@dataclass(frozen=True)
class LayerReport:
    """One layer.

    Parameters
    ----------
    name, kind : str
        Name of the node and the class of the float node.
    sqnr_db : float
        Power of the float tensor over the power of the difference, dB; infinite where they are equal. The
        errors of all layers before count.
    """

    name: str
    kind: str
    sqnr_db: float


def measure(graph: Graph, model: QuantizedModel, images: Float) -> tuple[LayerReport, ...]:
    """SQNR of every tensor over some images and all tasks.

    Parameters
    ----------
    graph : Graph
        The float graph that `model` was made from, after scale migration (``Quantization.graph``).
    images : ndarray of float32, shape (N, channels, height, width)
    """
    signal = dict.fromkeys(graph.by_name, 0.0)
    noise = dict.fromkeys(graph.by_name, 0.0)
    for task in range(graph.tasks):
        names = [node.name for node in task_nodes(graph, task)]
        for chunk in chunks(images):
            exact, rounded = evaluate(graph, chunk, task), simulate(model, chunk, task).tensors
            for name in names:
                signal[name] += float(np.square(exact[name], dtype=np.float64).sum())
                noise[name] += float(np.square(rounded[name] - exact[name], dtype=np.float64).sum())
    return tuple(
        LayerReport(node.name, type(node).__name__, _decibel(signal[node.name], noise[node.name]))
        for node in graph.nodes
    )


def _decibel(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
