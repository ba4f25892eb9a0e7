"""``hwattn gna`` project, search, model: times on GPUs."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hwattn.cli.gna_arguments import (
    add_additional_kv,
    add_csv,
    add_gpu,
    add_layout,
    add_pattern,
    add_problem,
    add_tiles,
    add_window_rules,
    causal_of,
    cell,
    gpu_of,
    load_yaml,
    optional_tile,
    pattern_of,
    scalar,
    write_csv,
)
from hwattn.cli.gna_patterns import describe
from hwattn.cli.output import Output, table
from hwattn.sim.gna import Candidate, Projection, project, search
from hwattn.sim.gna.endtoend import end_to_end_speedup
from hwattn.sim.gna.parallel import project_parallel
from hwattn.sim.gna.projection import Problem
from hwattn.sim.gna.workloads import (
    Workload,
    WorkloadProjection,
    get_workload,
    make_workload,
    project_workload,
    workload_names,
)


def configure_project(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``project``."""
    add_pattern(parser)
    add_tiles(parser)
    add_gpu(parser)
    add_problem(parser)
    add_additional_kv(parser)
    add_csv(parser)
    parser.add_argument("--attention-share", type=float, metavar="P", help="of end-to-end time, 0 to 1")
    parser.add_argument("--steps", type=int, default=1, metavar="N", help="diffusion steps")
    parser.add_argument(
        "--dense-steps", type=int, default=0, metavar="N", help="steps that keep dense attention"
    )
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="divide over several GPUs")
    parser.add_argument("--parallel", choices=("heads", "sequence"), default="heads", help="what is divided")
    parser.add_argument(
        "--parallel-axis", type=int, default=0, metavar="N", help="axis that is cut (sequence)"
    )


def run_project(args: argparse.Namespace, out: Output) -> int:
    """Project kernel, token permutation and speedup."""
    pattern = pattern_of(args)
    gpu = gpu_of(args)
    shown = project(
        pattern,
        gpu,
        args.backend,
        heads=args.heads,
        head_dim=args.head_dim,
        batch=args.batch,
        dtype=args.dtype,
        q_tile=optional_tile(args.q_tile_shape),
        kv_tile=optional_tile(args.kv_tile_shape),
        heads_kv=args.heads_kv,
        additional_kv=args.additional_kv,
        backward=args.backward,
        natten_version=args.natten_version,
    )
    row: dict[str, Any] = {**describe(pattern), **shown.as_dict()}
    _print_projection(shown, out)
    if args.attention_share is not None:
        names = ("end_to_end_speedup", "end_to_end_low", "end_to_end_high")
        for name, value in zip(names, (shown.speedup, shown.speedup_low, shown.speedup_high), strict=True):
            row[name] = end_to_end_speedup(args.attention_share, value, args.dense_steps, args.steps)
        point, low, high = (row[name] for name in names)
        out.print(f"end to end    {point:.2f} times as fast ({low:.2f} to {high:.2f})")
    if args.gpus != 1:
        divided = project_parallel(
            pattern,
            args.gpus,
            gpu,
            args.parallel,
            args.parallel_axis,
            problem=_problem_of(args),
            backend=args.backend,
            q_tile=shown.q_tile,
            kv_tile=shown.kv_tile,
        )
        out.print(
            f"{divided.gpus} GPUs by {divided.mode}: {divided.total_ms:.4g} ms (kernel {divided.kernel_ms:.4g}, around it "
            f"{divided.permute_ms:.4g}, halo {divided.halo_ms:.4g} for {divided.halo_tokens} tokens), "
            f"efficiency {divided.efficiency:.2f}"
        )
        row["parallel"] = asdict(divided)
    write_csv(args.csv, [{name: value for name, value in row.items() if name != "parallel"}])
    out.result(row)
    return 0


def _problem_of(args: argparse.Namespace) -> Problem:
    return Problem(
        heads=args.heads,
        head_dim=args.head_dim,
        heads_kv=args.heads if args.heads_kv is None else args.heads_kv,
        batch=args.batch,
        dtype=args.dtype,
        additional_kv=args.additional_kv,
        backward=args.backward,
        natten_version=args.natten_version,
    )


def _print_projection(shown: Projection, out: Output) -> None:
    mask = "masks every tile" if shown.masked else "needs no mask"
    out.print(
        f"{shown.backend} on {shown.gpu}, Q tile {cell(shown.q_tile)}, KV tile {cell(shown.kv_tile)}, "
        f"{shown.tiling} tiling; the kernel {mask}"
    )
    out.print(f"tile visits   most {shown.max_visited}, mean {shown.mean_visited:.1f}")
    out.print(
        f"kernel        {shown.kernel_ms:.4g} ms ({shown.kernel_low_ms:.4g} to {shown.kernel_high_ms:.4g})"
    )
    out.print(f"permutation   {shown.permute_ms:.4g} ms")
    if shown.other_ms:
        out.print(f"other         {shown.other_ms:.4g} ms")
    out.print(f"total         {shown.total_ms:.4g} ms ({shown.low_ms:.4g} to {shown.high_ms:.4g})")
    out.print(f"dense         {shown.dense_ms:.4g} ms")
    out.print(
        f"roofline      {shown.roofline_ms:.4g} ms: floor of the kernel, visited tiles at the peak of {shown.gpu}"
    )
    out.print(f"speedup       {shown.speedup:.2f} ({shown.speedup_low:.2f} to {shown.speedup_high:.2f})")
    out.print(f"basis         {shown.basis}")
    for note in shown.notes:
        out.print(f"note          {note}")


def configure_search(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``search``."""
    add_layout(parser)
    parser.add_argument(
        "-w",
        "--window-size",
        "--kernel-size",
        dest="window_size",
        type=int,
        nargs="+",
        metavar="N",
        help="the window",
    )
    parser.add_argument(
        "--sparsity", type=float, metavar="P", help="instead of a window: try windows of this sparsity"
    )
    add_window_rules(parser)
    add_gpu(parser)
    add_problem(parser)
    add_csv(parser)
    parser.add_argument("--all-backends", action="store_true", help="every backend that runs on the GPU")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="how many to print (default: 10)")


def candidate_row(candidate: Candidate) -> dict[str, Any]:
    """Return a candidate as one flat row."""
    tiles = candidate.speedup
    return {
        **describe(candidate.pattern),
        **candidate.projection.as_dict(),
        "flopwise": tiles.flopwise,
        "simulated": tiles.simulated,
        "mean": tiles.mean,
        "block_sparse": tiles.block_sparse,
        "locality": candidate.locality,
        "on_front": candidate.on_front,
    }


def run_search(args: argparse.Namespace, out: Output) -> int:
    """Search strides, tiles, and windows of a sparsity."""
    result = search(
        tuple(args.layout),
        gpu_of(args),
        heads=args.heads,
        head_dim=args.head_dim,
        window=None if args.window_size is None else scalar(args.window_size),
        sparsity=args.sparsity,
        dilation=scalar(args.dilation),
        causal=causal_of(args),
        backend=args.backend,
        all_backends=args.all_backends,
        batch=args.batch,
        dtype=args.dtype,
        heads_kv=args.heads_kv,
        backward=args.backward,
        natten_version=args.natten_version,
    )
    rows = [candidate_row(candidate) for candidate in result.candidates]
    write_csv(args.csv, rows)
    out.print(f"{result.considered} combinations; the fastest, and the Pareto front of time and locality (*)")
    shown = [row for rank, row in enumerate(rows) if rank < args.top or row["on_front"]]
    columns = (
        "",
        "window",
        "stride",
        "q tile",
        "kv tile",
        "ms",
        "range",
        "speedup",
        "simulated",
        "kept",
        "mask",
    )
    out.print(
        table(
            columns,
            [
                (
                    "*" if row["on_front"] else "",
                    cell(row["window"]),
                    cell(row["stride"]),
                    cell(row["q_tile"]),
                    cell(row["kv_tile"]),
                    f"{row['total_ms']:.4g}",
                    f"{row['low_ms']:.3g}-{row['high_ms']:.3g}",
                    f"{row['speedup']:.2f}",
                    f"{row['simulated']:.2f}",
                    f"{row['locality']:.0%}",
                    "yes" if row["masked"] else "no",
                )
                for row in shown
            ],
            right=("ms", "range", "speedup", "simulated", "kept"),
        )
    )
    basis = sorted({row["basis"] for row in rows})
    out.print(
        f"basis: {', '.join(basis)}; 'kept' is the share of the stride-1 neighborhood that the stride keeps"
    )
    out.result({"considered": result.considered, "best": rows[0], "candidates": rows})
    return 0


def configure_model(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``model``."""
    parser.add_argument(
        "workload", metavar="WORKLOAD", help=f"{', '.join(workload_names())}, or a YAML file of your own"
    )
    add_gpu(parser)
    add_csv(parser)
    parser.add_argument("--natten-version", default="0.20", help="token permutation of this version on")
    parser.add_argument("--hoist-permute", action="store_true", help="permute once per model, not per layer")


def _print_model(
    workload: Workload, shown: WorkloadProjection, rows: list[dict[str, Any]], out: Output
) -> None:
    columns = (
        "layer",
        "count",
        "window",
        "stride",
        "dilation",
        "q tile",
        "kv tile",
        "ms",
        "dense ms",
        "speedup",
    )
    out.print(
        table(
            columns,
            [
                (
                    row["layer"],
                    row["count"],
                    cell(row["window"]),
                    cell(row["stride"]),
                    cell(row["dilation"]),
                    cell(row["q_tile"]),
                    cell(row["kv_tile"]),
                    f"{row['total_ms']:.4g}",
                    f"{row['dense_ms']:.4g}",
                    f"{row['speedup']:.2f}",
                )
                for row in rows
            ],
            title=f"{workload.title} on {rows[0]['gpu']}",
            right=("count", "ms", "dense ms", "speedup"),
        )
    )
    out.print(
        f"attention of a step: {shown.attention_ms:.4g} ms, dense {shown.dense_ms:.4g} ms: "
        f"{shown.attention_speedup:.2f} times as fast ({shown.attention_speedup_low:.2f} to "
        f"{shown.attention_speedup_high:.2f}); tile counts alone: {shown.simulated:.2f}, FLOP-wise {shown.flopwise:.2f}"
    )
    if shown.end_to_end_speedup is None:
        out.print("end to end: no attention share is known for this workload")
    else:
        out.print(
            f"end to end: {shown.end_to_end_speedup:.2f} ({shown.end_to_end_low:.2f} to {shown.end_to_end_high:.2f}), "
            f"{workload.dense_steps} of {workload.steps} steps dense, attention {workload.attention_share:.1%} of the time"
        )


def run_model(args: argparse.Namespace, out: Output) -> int:
    """Project a whole workload."""
    if Path(args.workload).suffix.lower() in (".yaml", ".yml"):
        workload = make_workload(load_yaml(Path(args.workload)))
    else:
        workload = get_workload(args.workload)
    shown = project_workload(
        workload,
        gpu_of(args),
        args.backend,
        natten_version=args.natten_version,
        hoist_permute=args.hoist_permute,
    )
    rows = [
        {"layer": layer.name, "count": layer.count, **describe(layer.pattern), **projection.as_dict()}
        for layer, projection in shown.layers
    ]
    write_csv(args.csv, rows)
    _print_model(workload, shown, rows, out)
    totals = {name: value for name, value in vars(shown).items() if name != "layers"}
    out.result(
        {
            "workload": workload.name,
            "source": workload.source,
            "gpu": rows[0]["gpu"],
            "steps": workload.steps,
            "dense_steps": workload.dense_steps,
            "attention_share": workload.attention_share,
            **totals,
            "layers": rows,
        }
    )
    return 0
