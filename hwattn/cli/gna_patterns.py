"""``hwattn gna`` mask, windows, explain, simulate: what a pattern is, and which tiles it visits."""

from __future__ import annotations

import argparse
import hashlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hwattn.cli.gna_arguments import (
    add_additional_kv,
    add_csv,
    add_gpu,
    add_pattern,
    add_tiles,
    cell,
    gpu_of,
    pattern_of,
    tiles_of,
    write_csv,
)
from hwattn.cli.output import Output, table
from hwattn.sim.gna import Pattern
from hwattn.sim.gna.backends import get_backend, tile_pairs
from hwattn.sim.gna.explanation import explain
from hwattn.sim.gna.sparsity import kernel_skips_mask
from hwattn.sim.gna.tiles import TILINGS
from hwattn.spec.errors import RefusedError

SHOWN_TOKENS = 128
"""Largest mask that is printed."""


def describe(pattern: Pattern) -> dict[str, Any]:
    """Return the fields of a pattern for ``--json`` and CSV."""
    return {
        "layout": pattern.layout,
        "window": pattern.window,
        "stride": pattern.stride,
        "dilation": pattern.dilation,
        "causal": pattern.causal,
    }


def configure_mask(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mask``."""
    add_pattern(parser)
    add_additional_kv(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.npy", help="write the mask, bool (N, N)")


def run_mask(args: argparse.Namespace, out: Output) -> int:
    """Show the mask."""
    pattern = pattern_of(args)
    mask = pattern.mask(args.additional_kv)
    if args.output is not None:
        _save_array(args.output, mask)
    if pattern.tokens <= SHOWN_TOKENS:
        for row in mask:
            out.print("".join("#" if seen else "." for seen in row))
    out.print(
        f"{pattern.tokens} queries x {mask.shape[1]} keys, {int(mask.sum())} visible pairs, "
        f"sparsity {pattern.sparsity:.4f}"
    )
    document = {
        **describe(pattern),
        "tokens": pattern.tokens,
        "additional_kv": args.additional_kv,
        "unmasked_pairs": int(mask.sum()),
        "sparsity": pattern.sparsity,
        "mask_sha256": hashlib.sha256(np.packbits(mask).tobytes()).hexdigest(),
    }
    out.result({**document, "mask": mask.astype(int) if pattern.tokens <= SHOWN_TOKENS else None})
    return 0


def _save_array(path: Path, array: Any) -> None:
    if path.suffix != ".npy":
        raise RefusedError(f"mask file {path.name}", "a name that ends in .npy", "rename it")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.npy")
    try:
        np.save(unfinished, array)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def configure_windows(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``windows``."""
    add_pattern(parser)
    add_csv(parser)


def run_windows(args: argparse.Namespace, out: Output) -> int:
    """Show the window of every query along every axis."""
    pattern = pattern_of(args)
    windows = [pattern.windows(axis) for axis in range(pattern.rank)]
    rows = [
        {
            "axis": axis,
            "query": query,
            "start": start,
            "stop": stop,
            "step": step,
            "keys": len(range(start, stop, step)),
        }
        for axis, rows in enumerate(windows)
        for query, (start, stop, step) in enumerate(rows.tolist())
    ]
    write_csv(args.csv, rows)
    for axis in range(pattern.rank):
        out.print(f"axis {axis}: queries, their keys (first to last), step")
        for first, last, (start, stop, step), keys in _runs([row for row in rows if row["axis"] == axis]):
            queries = f"{first}" if first == last else f"{first}-{last}"
            out.print(
                f"  {queries:>12}  {start} to {stop - 1}"
                + (f" step {step}" if step > 1 else "")
                + f"  ({keys} keys)"
            )
    out.result({**describe(pattern), "windows": windows})
    return 0


def _runs(rows: list[dict[str, int]]) -> list[tuple[int, int, tuple[int, int, int], int]]:
    """Join neighbouring queries with the same window."""
    runs: list[tuple[int, int, tuple[int, int, int], int]] = []
    for row in rows:
        window = (row["start"], row["stop"], row["step"])
        if runs and runs[-1][2] == window:
            runs[-1] = (runs[-1][0], row["query"], window, row["keys"])
        else:
            runs.append((row["query"], row["query"], window, row["keys"]))
    return runs


def configure_explain(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``explain``."""
    add_pattern(parser)
    parser.add_argument(
        "--query", type=int, nargs="+", required=True, metavar="N", help="coordinates of the query"
    )
    parser.add_argument("--key", type=int, nargs="+", metavar="N", help="is this key seen, and if not, why")


def run_explain(args: argparse.Namespace, out: Output) -> int:
    """Tell which keys a query sees, and why."""
    pattern = pattern_of(args)
    told = explain(pattern, tuple(args.query))
    out.print(f"query {told.query} sees {told.key_count} of {pattern.tokens} keys")
    for index, axis in enumerate(told.axes):
        every = f" step {axis.step}" if axis.step > 1 else ""
        out.print(f"  axis {index}: keys {axis.start} to {axis.stop - 1}{every}: {axis.reason}")
    document: dict[str, Any] = {
        **describe(pattern),
        "query": told.query,
        "key_count": told.key_count,
        "axes": [{**asdict(axis), "keys": list(axis.keys)} for axis in told.axes],
    }
    if args.key is not None:
        key = tuple(args.key)
        if len(key) != pattern.rank or not all(0 <= k < n for k, n in zip(key, pattern.layout, strict=True)):
            raise RefusedError(f"key {key}", f"a token of the layout {pattern.layout}", "correct --key")
        failures = told.sees(key)
        out.print(f"key {key} is " + ("seen" if not failures else "not seen: " + "; ".join(failures)))
        document |= {"key": key, "seen": not failures, "why_not": failures}
    out.result(document)
    return 0


def configure_simulate(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``simulate``."""
    add_pattern(parser)
    add_tiles(parser)
    add_gpu(parser)
    add_additional_kv(parser)
    add_csv(parser)
    parser.add_argument("--tiling", choices=TILINGS, help="default: the backend's")
    parser.add_argument("--backward", "--backprop", action="store_true", help="Q tiles per KV tile")
    parser.add_argument("--all-tiles", action="store_true", help="every tile shape of the backend")
    parser.add_argument("--visits", action="store_true", help="list the visits of every tile")


def run_simulate(args: argparse.Namespace, out: Output) -> int:
    """Count tile visits, and show the speedups that they allow."""
    pattern = pattern_of(args)
    shapes, backend = tiles_of(args, pattern)
    tiling = args.tiling or backend.tiling
    pairs = [shapes]
    if args.all_tiles:
        gpu = gpu_of(args)
        name = get_backend(gpu, args.backend).name
        pairs = list(tile_pairs(name, pattern.rank, gpu.cc, backward=args.backward))
    rows = []
    for q_tile, kv_tile in pairs:
        speedup = pattern.speedup(q_tile, kv_tile, tiling, args.additional_kv, args.backward)
        skips = kernel_skips_mask(pattern, q_tile, kv_tile, tiling)
        tiles = {"q_tile": q_tile, "kv_tile": kv_tile, "tiling": tiling}
        rows.append({**tiles, **asdict(speedup), "kernel_skips_mask": skips})
    write_csv(args.csv, [{**describe(pattern), **row} for row in rows])
    columns = (
        "q tile",
        "kv tile",
        "flopwise",
        "simulated",
        "mean",
        "most",
        "mean visits",
        "dense",
        "block-sparse",
    )
    out.print(
        table(
            columns,
            [
                (
                    cell(row["q_tile"]),
                    cell(row["kv_tile"]),
                    f"{row['flopwise']:.2f}",
                    f"{row['simulated']:.2f}",
                    f"{row['mean']:.2f}",
                    row["max_visited"],
                    f"{row['mean_visited']:.1f}",
                    row["dense_tiles"],
                    "yes" if row["block_sparse"] else "no",
                )
                for row in rows
            ],
            title=f"{tiling} tiling, {'backward' if args.backward else 'forward'}: speedups over dense attention",
            right=columns[2:8],
        )
    )
    if len(rows) == 1:
        for reason in rows[0]["reasons"]:
            out.print(f"needs a mask: {reason}")
    document: dict[str, Any] = {**describe(pattern), "sparsity": pattern.sparsity, "backward": args.backward}
    document |= rows[0] if len(rows) == 1 else {"rows": rows}
    if args.visits:
        visits = (
            pattern.visited_q_tiles(*shapes, tiling)
            if args.backward
            else pattern.visited_kv_tiles(*shapes, tiling, args.additional_kv)
        )
        out.print("visits: " + " ".join(map(str, visits.tolist())))
        document["visited_q_tiles" if args.backward else "visited_kv_tiles"] = visits
    out.result(document)
    return 0
