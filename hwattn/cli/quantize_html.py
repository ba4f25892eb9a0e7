"""The evidence of ``hwattn quantize`` as one HTML file with plots."""

from __future__ import annotations

import html
import io
import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from hwattn.quant.quantizer import Quantization
from hwattn.quant.reference import evaluate
from hwattn.quant.report import Evidence
from hwattn.quant.simulate import simulate
from hwattn.spec.files import write_complete
from hwattn.spec.graph import Float

_SHOWN = 8
"""Layers whose histograms are drawn: those with the least SQNR."""


def write_html(
    path: Path, made: Quantization, evidence: Evidence, images: Float, warnings: list[str]
) -> None:
    """Write the report; `images` (N, channels, height, width) are those of the histograms.

    Raises
    ------
    RefusedError
        The file cannot be written.
    """
    rows = "".join(
        f"<tr><td>{html.escape(e.name)}</td><td>{e.kind}</td><td>{e.sqnr_db:.1f}</td>"
        f"<td>{e.cosine:.5f}</td><td>{e.saturated:.2%}</td></tr>"
        for e in evidence.layers
    )
    facts = [f"{name}: agreement {share:.2%}" for name, share in evidence.agreement.items()]
    if evidence.decisions:
        facts.append(f"routing flips: {evidence.flips} of {evidence.decisions}")
    items = "".join(f"<li>{html.escape(text)}</li>" for text in [*facts, *warnings])
    text = (
        "<!doctype html><meta charset='utf-8'>"
        f"<title>{html.escape(made.model.name)}, quantized</title>"
        "<style>body{font-family:sans-serif;margin:2em}td,th{padding:2px 12px;text-align:left}</style>"
        f"<h1>{html.escape(made.model.name)}</h1><p>{evidence.images} images</p><ul>{items}</ul>"
        f"<h2>SQNR of each layer</h2>{_levels(evidence)}"
        f"<h2>Before and after</h2>{_histograms(made, evidence, images)}"
        f"<table><tr><th>layer<th>kind<th>SQNR dB<th>cosine<th>saturated</tr>{rows}</table>"
    )
    write_complete(path, text.encode())


def _levels(evidence: Evidence) -> str:
    levels = [layer.sqnr_db if math.isfinite(layer.sqnr_db) else np.nan for layer in evidence.layers]
    figure = Figure((10, 0.18 * len(levels) + 1))
    axes = figure.subplots()
    axes.barh(range(len(levels)), levels)
    axes.set_yticks(range(len(levels)), [layer.name for layer in evidence.layers], fontsize=6)
    axes.invert_yaxis()
    axes.set_xlabel("SQNR in dB")
    return _svg(figure)


def _histograms(made: Quantization, evidence: Evidence, images: Float) -> str:
    exact, rounded = evaluate(made.graph, images, 0), simulate(made.model, images, 0).tensors
    worst = [layer.name for layer in sorted(evidence.layers, key=lambda one: one.sqnr_db)][:_SHOWN]
    figure = Figure((10, 2.2 * math.ceil(len(worst) / 2)))
    for place, name in enumerate(worst):
        axes = figure.add_subplot(math.ceil(len(worst) / 2), 2, place + 1)
        edges = np.histogram_bin_edges(exact[name], 100).tolist()
        axes.hist(exact[name].ravel(), edges, histtype="step", label="float")
        axes.hist(rounded[name].ravel(), edges, histtype="step", label="integer")
        axes.set_yscale("log")
        axes.set_title(name, fontsize=8)
        axes.legend(fontsize=6)
    figure.tight_layout()
    return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]
