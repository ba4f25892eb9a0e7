"""The roofline of a run: what each layer makes of the multipliers, against the bytes that it moves."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from hwattn.sim.perf.layers import Layer
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import RefusedError
from hwattn.spec.external import ExternalMemory
from hwattn.spec.files import write_complete

FORMATS = ("png", "svg")


def roofline_points(parts: list[Layer], config: AcceleratorConfig) -> list[tuple[str, float, float, str]]:
    """Return (name, multiplications per byte, multiplications per cycle, bound) of the layers that multiply and take time.

    Multiplications count all of the array's in each streamed word. Bytes are those of external memory; of a machine without, or of a layer
    that moves none, the streamed bytes.
    """
    points = []
    for part in parts:
        if part.streamed and part.cycles:
            multiplications = part.streamed * config.multipliers
            moved = part.bytes_external or part.streamed * config.lanes
            rate = min(multiplications / part.cycles, config.multipliers)
            points.append((part.name, multiplications / moved, rate, part.bound))
    return points


def save_roofline(
    folder: Path, name: str, parts: list[Layer], config: AcceleratorConfig, memory: ExternalMemory
) -> list[Path]:
    """Draw the roofline as PNG and SVG; return the files.

    Raises
    ------
    RefusedError
        There is no matplotlib, or the folder cannot be written to.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise RefusedError("no matplotlib", "matplotlib for plots", "pip install matplotlib") from None
    points = roofline_points(parts, config)
    bandwidth = memory.bytes_per_cycle(config.lanes) if config.external_words else config.lanes
    where = "external memory" if config.external_words else "the memories on chip"
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes: Any = figure.add_subplot()
    knee = config.multipliers / bandwidth
    edges = [knee, *(intensity for _, intensity, _, _ in points)]
    low, high = min(edges) / 2, max(edges) * 2
    axes.plot(
        [low, knee, high],
        [low * bandwidth, config.multipliers, config.multipliers],
        color="black",
        label=f"{config.multipliers} multipliers, {bandwidth:.3g} bytes per cycle of {where}",
    )
    for bound in sorted({point[3] for point in points}):
        chosen = [point for point in points if point[3] == bound]
        axes.scatter(
            [intensity for _, intensity, _, _ in chosen],
            [rate for _, _, rate, _ in chosen],
            s=18,
            alpha=0.7,
            label=f"bound by {bound}",
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="multiplications per byte",
        ylabel="multiplications per cycle",
        title=f"{name}: roofline of its layers",
    )
    axes.legend(fontsize=8)
    folder.mkdir(parents=True, exist_ok=True)
    return [_save(figure, folder / f"{name}-roofline.{ending}") for ending in FORMATS]


def _save(figure: Any, target: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=target.suffix[1:], dpi=144)
    write_complete(target, buffer.getvalue())
    return target
