"""Whole models: layers of attention patterns, diffusion steps, and what sparse attention makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwattn.sim.gna.backends import get_backend, tile_pairs
from hwattn.sim.gna.data import load
from hwattn.sim.gna.endtoend import end_to_end_speedup
from hwattn.sim.gna.exploration import best_tiles
from hwattn.sim.gna.gpus import Gpu, get_gpu
from hwattn.sim.gna.pattern import Pattern
from hwattn.sim.gna.projection import Problem, Projection, project_tiles
from hwattn.spec.errors import RefusedError


@dataclass(frozen=True)
class Layer:
    """Equal attention layers.

    Attributes
    ----------
    name : str
    count : int
        How many of them the model has.
    pattern : Pattern
    problem : Problem
    tiles : tuple or None
        (Q tile, KV tile) if given; otherwise the fastest of the backend.
    """

    name: str
    count: int
    pattern: Pattern
    problem: Problem
    tiles: tuple[tuple[int, ...], tuple[int, ...]] | None


@dataclass(frozen=True)
class Workload:
    """A model and how often it runs.

    Attributes
    ----------
    name, title, source : str
    layers : tuple of Layer
    steps, dense_steps : int
        Diffusion steps, and those that keep dense attention.
    attention_share : float or None
        Share of end-to-end time that dense attention takes.
    """

    name: str
    title: str
    source: str
    layers: tuple[Layer, ...]
    steps: int
    dense_steps: int
    attention_share: float | None


@dataclass(frozen=True)
class WorkloadProjection:
    """A workload on a GPU.

    Attributes
    ----------
    layers : tuple of (Layer, Projection)
    attention_ms, dense_ms : float
        Attention of one step, sparse and dense.
    attention_low_ms, attention_high_ms : float
    attention_speedup, attention_speedup_low, attention_speedup_high : float
    end_to_end_speedup, end_to_end_low, end_to_end_high : float or None
        None without an attention share.
    flopwise, simulated : float
        Speedups of attention that the tile counts alone promise, layers weighted by dense work.
    """

    layers: tuple[tuple[Layer, Projection], ...]
    attention_ms: float
    attention_low_ms: float
    attention_high_ms: float
    dense_ms: float
    attention_speedup: float
    attention_speedup_low: float
    attention_speedup_high: float
    end_to_end_speedup: float | None
    end_to_end_low: float | None
    end_to_end_high: float | None
    flopwise: float
    simulated: float


_LAYER_FIELDS = (
    "name", "count", "layout", "window", "stride", "dilation", "is_causal", "heads", "heads_kv", "head_dim",
    "batch", "dtype", "additional_kv", "q_tile", "kv_tile",
)  # fmt: skip
_WORKLOAD_FIELDS = ("name", "title", "source", "layers", "steps", "dense_steps", "attention_share")


def make_workload(description: Mapping[str, Any]) -> Workload:
    """Workload from a description, such as a YAML file's.

    Parameters
    ----------
    description : mapping
        ``name``, ``layers`` (a list of mappings), and optionally ``title``, ``source``, ``steps``,
        ``dense_steps``, ``attention_share``. A layer has ``count``, ``layout``, ``window`` (null: dense),
        ``stride``, ``dilation``, ``is_causal``, ``heads``, ``heads_kv``, ``head_dim``, ``batch``,
        ``dtype``, ``additional_kv``, ``q_tile``, ``kv_tile``; what all layers share can stand outside.

    Raises
    ------
    RefusedError
        An unknown field, a missing one, or an invalid pattern.
    """
    if not isinstance(description, Mapping):
        raise RefusedError(
            "a workload that is not a mapping", "fields and values", "see docs/gna.md for an example"
        )
    known = {*_WORKLOAD_FIELDS, *_LAYER_FIELDS}
    _refuse_unknown(description, known, "workload")
    layers = description.get("layers")
    if not isinstance(layers, list) or not layers:
        raise RefusedError("a workload without layers", "a list of layers", "add layers")
    shared = {name: description[name] for name in _LAYER_FIELDS if name in description and name != "name"}
    made = []
    for number, layer in enumerate(layers):
        if not isinstance(layer, Mapping):
            raise RefusedError(f"layer {number} is {layer!r}", "a mapping", "give its fields")
        _refuse_unknown(layer, set(_LAYER_FIELDS), f"layer {number}")
        made.append(_make_layer({"name": f"layer {number}", **shared, **layer}))
    share = description.get("attention_share")
    steps, dense_steps = description.get("steps", 1), description.get("dense_steps", 0)
    for name, value in (("steps", steps), ("dense_steps", dense_steps)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise RefusedError(f"{name} {value!r}", "an integer", f"correct {name}")
    if share is not None and not isinstance(share, (int, float)):
        raise RefusedError(f"attention_share {share!r}", "a number from 0 to 1", "correct attention_share")
    end_to_end_speedup(share or 0.0, 1.0, dense_steps, steps)
    name = str(description.get("name", "workload"))
    return Workload(
        name=name,
        title=str(description.get("title", name)),
        source=str(description.get("source", "user")),
        layers=tuple(made),
        steps=steps,
        dense_steps=dense_steps,
        attention_share=share,
    )


def _refuse_unknown(found: Mapping[str, Any], known: set[str], where: str) -> None:
    for name in found:
        if name not in known:
            raise RefusedError(
                f"{where}: field {name!r}", "one of " + ", ".join(sorted(known)), "correct the field"
            )


def _make_layer(fields: Mapping[str, Any]) -> Layer:
    for name in ("layout", "heads", "head_dim"):
        if name not in fields:
            raise RefusedError(f"{fields['name']}: no {name}", "layout, heads and head_dim", f"add {name}")
    for name in ("count", "heads", "heads_kv", "head_dim", "batch", "additional_kv"):
        value = fields.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < (name != "additional_kv"):
            raise RefusedError(f"{fields['name']}: {name} {value!r}", "a positive integer", f"correct {name}")
    window = fields.get("window")
    pattern = Pattern(
        fields["layout"],
        fields["layout"] if window is None else window,
        1 if window is None else fields.get("stride", 1),
        1 if window is None else fields.get("dilation", 1),
        False if window is None else fields.get("is_causal", False),
    )
    problem = Problem(
        heads=fields["heads"],
        head_dim=fields["head_dim"],
        heads_kv=fields.get("heads_kv", fields["heads"]),
        batch=fields.get("batch", 1),
        dtype=fields.get("dtype", "fp16"),
        additional_kv=fields.get("additional_kv", 0),
    )
    tiles = None
    if fields.get("q_tile") is not None and fields.get("kv_tile") is not None:
        tiles = pattern.tile_shapes(fields["q_tile"], fields["kv_tile"], "static")
    return Layer(str(fields["name"]), fields.get("count", 1), pattern, problem, tiles)


def workload_names() -> tuple[str, ...]:
    """Names of the workloads that come with the package."""
    return tuple(entry["name"] for entry in load("workloads.json")["workloads"])


def get_workload(name: str) -> Workload:
    """A workload that comes with the package."""
    for entry in load("workloads.json")["workloads"]:
        if entry["name"] == name:
            return make_workload(entry)
    raise RefusedError(
        f"workload {name!r}",
        "one of " + ", ".join(workload_names()),
        "name one, or give a YAML file of your own",
    )


def project_workload(
    workload: Workload,
    gpu: str | Gpu = "b200",
    backend: str | None = None,
    *,
    natten_version: str = "0.20",
    hoist_permute: bool = False,
) -> WorkloadProjection:
    """Project every layer of a workload, and the whole.

    Parameters
    ----------
    workload : Workload
    gpu : str or Gpu
    backend : str, optional
    natten_version : str
        Which token permutation.
    hoist_permute : bool
        Permute once per model instead of once per layer, which is possible where all layers use the
        same tiles and no dilation.
    """
    target = get_gpu(gpu)
    chosen = get_backend(target, backend)
    shown = []
    for layer in workload.layers:
        problem = Problem(**{**vars(layer.problem), "natten_version": natten_version})
        chosen.check(problem.dtype, problem.head_dim)
        pairs = tile_pairs(chosen.name, layer.pattern.rank, target.cc, problem.head_dim, problem.dtype)
        tiles = layer.tiles if layer.tiles in pairs else best_tiles(layer.pattern, target, chosen, problem)
        assert tiles is not None
        shown.append((layer, project_tiles(layer.pattern, target, chosen, problem, *tiles)))
    blocks = sum(layer.count for layer in workload.layers)
    if hoist_permute:
        _check_hoist(shown)

    def total(attribute: str) -> float:
        return sum(layer.count * float(getattr(projection, attribute)) for layer, projection in shown)

    saved = total("permute_ms") * (1 - 1 / blocks) if hoist_permute else 0.0
    dense, value, low, high = (total(name) for name in ("dense_ms", "total_ms", "low_ms", "high_ms"))
    value, low, high = value - saved, low - saved, high - saved
    point, least, greatest = (dense / time for time in (value, high, low))
    share = workload.attention_share

    def end_to_end(speedup: float) -> float | None:
        if share is None:
            return None
        return end_to_end_speedup(share, speedup, workload.dense_steps, workload.steps)

    flopwise, simulated = _tile_speedups(shown)
    return WorkloadProjection(
        layers=tuple(shown),
        attention_ms=value,
        attention_low_ms=low,
        attention_high_ms=high,
        dense_ms=dense,
        attention_speedup=point,
        attention_speedup_low=least,
        attention_speedup_high=greatest,
        end_to_end_speedup=end_to_end(point),
        end_to_end_low=end_to_end(least),
        end_to_end_high=end_to_end(greatest),
        flopwise=flopwise,
        simulated=simulated,
    )


def _check_hoist(shown: list[tuple[Layer, Projection]]) -> None:
    tiles = {(p.q_tile, p.kv_tile, layer.pattern.layout) for layer, p in shown if not layer.pattern.is_dense}
    if len(tiles) > 1 or any(set(layer.pattern.dilation) != {1} for layer, _ in shown):
        raise RefusedError(
            "layers with different tiles, layouts or dilation",
            "one layout and tile shape without dilation to permute only once",
            "leave out hoist_permute",
        )


def _tile_speedups(shown: list[tuple[Layer, Projection]]) -> tuple[float, float]:
    work = flopwise = simulated = 0.0
    for layer, projection in shown:
        dense = layer.count * layer.problem.heads * float(layer.pattern.tokens) ** 2
        speedup = layer.pattern.speedup(projection.q_tile, projection.kv_tile, projection.tiling)
        work += dense
        flopwise += dense / speedup.flopwise
        simulated += dense / speedup.simulated
    return work / flopwise, work / simulated
