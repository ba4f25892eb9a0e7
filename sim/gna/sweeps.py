"""Batches of projections from one document: defaults, runs, and grids over any of their fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

from hwattn.sim.gna.pattern import Pattern
from hwattn.sim.gna.projection import project
from hwattn.spec.errors import RefusedError

PATTERN_FIELDS = ("layout", "window", "stride", "dilation", "is_causal")
PROJECT_FIELDS = (
    "gpu", "backend", "heads", "heads_kv", "head_dim", "batch", "dtype", "q_tile", "kv_tile", "additional_kv",
    "backward", "natten_version",
)  # fmt: skip
_KNOWN = ("name", *PATTERN_FIELDS, *PROJECT_FIELDS)


def expand(document: Any) -> list[dict[str, Any]]:
    """Runs of a sweep, grids multiplied out.

    Parameters
    ----------
    document : mapping
        ``runs``: a list of mappings with the fields of a pattern (``layout``, ``window``, ``stride``,
        ``dilation``, ``is_causal``) and of ``project``. ``defaults``: fields of all runs. ``grid``, at
        the top or in a run: for each field a list of values, all of whose combinations are run.
    """
    if not isinstance(document, Mapping):
        raise RefusedError(
            "a sweep that is not a mapping", "runs, and optionally defaults and grid", "see docs/gna.md"
        )
    _refuse_unknown(document, ("runs", "defaults", "grid"), "sweep")
    defaults, grid = document.get("defaults") or {}, document.get("grid") or {}
    runs = document.get("runs") or [{}]
    if not isinstance(runs, list) or not all(isinstance(run, Mapping) for run in runs):
        raise RefusedError("runs that are not a list of mappings", "a list of runs", "see docs/gna.md")
    for name, part in [
        ("defaults", defaults),
        ("grid", grid),
        *(("grid", run.get("grid") or {}) for run in runs),
    ]:
        if not isinstance(part, Mapping):
            raise RefusedError(f"{name} that is not a mapping", "fields and values", "see docs/gna.md")
    expanded = []
    for number, run in enumerate(runs):
        where = f"run {number}"
        axes = {**grid, **(run.get("grid") or {})}
        fields = {**defaults, **{name: value for name, value in run.items() if name != "grid"}}
        _refuse_unknown({**fields, **axes}, _KNOWN, where)
        for name, values in axes.items():
            if not isinstance(values, list) or not values:
                raise RefusedError(
                    f"{where}: grid over {name} is {values!r}", "a list of values", "list them"
                )
        for combination in product(*axes.values()):
            full = {**fields, **dict(zip(axes, combination, strict=True))}
            for name in ("layout", "window", "heads", "head_dim"):
                if name not in full:
                    raise RefusedError(
                        f"{where}: no {name}", "layout, window, heads and head_dim", f"add {name}"
                    )
            expanded.append(full)
    return expanded


def _refuse_unknown(found: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in found:
        if name not in known:
            raise RefusedError(f"{where}: field {name!r}", "one of " + ", ".join(known), "correct the field")


def run_sweep(
    document: Any, on_error: str = "refuse", advance: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Project every run of a sweep.

    Parameters
    ----------
    document : mapping
        See :func:`expand`.
    on_error : {"refuse", "note"}
        Refuse the sweep at the first invalid run, or put the reason in its row under ``error``.
    advance : callable
        Called after each run.

    Returns
    -------
    list of dict
        The fields of the run and of its projection.
    """
    rows = []
    for run in expand(document):
        row = dict(run)
        try:
            pattern = Pattern(
                run["layout"],
                run["window"],
                run.get("stride", 1),
                run.get("dilation", 1),
                run.get("is_causal", False),
            )
            shown = project(pattern, **{name: run[name] for name in PROJECT_FIELDS if name in run})
            tiles = pattern.speedup(shown.q_tile, shown.kv_tile, shown.tiling)
            row.update(shown.as_dict(), flopwise=tiles.flopwise, simulated=tiles.simulated, mean=tiles.mean)
        except RefusedError as error:
            if on_error == "refuse":
                raise
            row["error"] = str(error)
        rows.append(row)
        advance()
    return rows
