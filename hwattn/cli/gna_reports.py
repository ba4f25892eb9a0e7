"""``hwattn gna`` reproduce, plot, sweep: tables, pictures and batches."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hwattn.cli.gna_arguments import (
    add_csv,
    add_gpu,
    add_pattern,
    add_problem,
    add_tiles,
    causal_of,
    cell,
    gpu_of,
    load_yaml,
    optional_tile,
    pattern_of,
    scalar,
    tiles_of,
    write_csv,
)
from hwattn.cli.gna_patterns import describe
from hwattn.cli.output import Output, table
from hwattn.sim.gna import project, search
from hwattn.sim.gna.plots import plot_pareto, plot_roofline, plot_strides, plot_visits, save
from hwattn.sim.gna.reproduce import Row, projected_end_to_end, reproduce
from hwattn.sim.gna.sweeps import expand, run_sweep
from hwattn.sim.gna.timing import DTYPE_BYTES

PLOTS = ("stride", "visits", "pareto", "roofline")
EXPECTED_SIMULATED = 45


def configure_reproduce(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``reproduce``."""
    add_csv(parser)
    parser.add_argument(
        "--projected", action="store_true", help="also project each row onto a B200, beside the measured"
    )


def run_reproduce(args: argparse.Namespace, out: Output) -> int:
    """Recompute the published tables; exit code 1 if fewer figures agree than are known to."""
    rows = reproduce()
    shown = [_row(row, args.projected) for row in rows]
    write_csv(args.csv, shown)
    for name in dict.fromkeys(row.table for row in rows):
        _print_table(name, [pair for pair in zip(rows, shown, strict=True) if pair[0].table == name], out)
    for note in dict.fromkeys(row.note for row in rows if row.note):
        names = sorted({row.use_case for row in rows if row.note == note})
        out.print(f"! {', '.join(names)}: {note}")
    flopwise = sum(row.flopwise_agrees for row in rows)
    simulated = sum(row.simulated_agrees for row in rows)
    out.print(
        f"to the printed digit: {flopwise} of {len(rows)} FLOP-wise, {simulated} of {len(rows)} simulated"
    )
    errors = [abs(entry["projected_error"]) for entry in shown] if args.projected else []
    if errors:
        out.print(
            f"projected against measured: mean error {sum(errors) / len(errors):.1%}, largest {max(errors):.1%}"
        )
    out.result(
        {
            "figures": len(rows),
            "flopwise_reproduced": flopwise,
            "simulated_reproduced": simulated,
            "rows": shown,
        }
    )
    return 0 if flopwise == len(rows) and simulated >= EXPECTED_SIMULATED else 1


def _print_table(name: str, pairs: list[tuple[Row, dict[str, Any]]], out: Output) -> None:
    columns = ["window", "stride", "dense", "FLOP-wise", "paper", "simulated", "paper ", "measured"]
    projected = "projected" in pairs[0][1]
    if projected:
        columns += ["projected", "error"]
    cells = []
    for row, entry in pairs:
        line = [
            cell(row.pattern.window),
            cell(row.pattern.stride),
            f"{row.dense_steps}/{row.steps}",
            f"{row.flopwise:.2f}",
            f"{row.published_flopwise:.2f}",
            f"{row.simulated:.2f}" + ("" if row.simulated_agrees else " !"),
            f"{row.published_simulated:.2f}",
            f"{row.published_measured:.2f}",
        ]
        if projected:
            line += [f"{entry['projected']:.2f}", f"{entry['projected_error']:+.1%}"]
        cells.append(line)
    title = f"{name}: end-to-end speedups, ours beside the paper's (arXiv 2504.16922)"
    out.print(table(columns, cells, title=title, right=columns[3:]))


def _row(row: Row, projected: bool) -> dict[str, Any]:
    fields = {
        "table": row.table,
        "use_case": row.use_case,
        **describe(row.pattern),
        "q_tile": row.q_tile,
        "kv_tile": row.kv_tile,
        "dense_steps": row.dense_steps,
        "steps": row.steps,
        "attention_flopwise": row.attention_flopwise,
        "attention_simulated": row.attention_simulated,
        "flopwise": row.flopwise,
        "flopwise_published": row.published_flopwise,
        "simulated": row.simulated,
        "simulated_published": row.published_simulated,
        "measured_published": row.published_measured,
        "agrees": row.flopwise_agrees and row.simulated_agrees,
        "note": row.note,
    }
    if projected:
        point, low, high = projected_end_to_end(row)
        fields |= {"projected": point, "projected_low": low, "projected_high": high}
        fields["projected_error"] = point / row.published_measured - 1
    return fields


def configure_plot(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``plot``."""
    parser.add_argument(
        "kind", choices=PLOTS, help="speedup against stride, visits per Q tile, Pareto front, roofline"
    )
    add_pattern(parser)
    add_tiles(parser)
    add_gpu(parser)
    add_problem(parser)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="a .png or .svg file"
    )
    parser.add_argument("--axis", type=int, default=0, metavar="N", help="whose stride is varied (stride)")
    parser.add_argument(
        "--plane", type=int, default=0, metavar="N", help="plane of Q tiles along axis 0 (visits)"
    )


def run_plot(args: argparse.Namespace, out: Output) -> int:
    """Draw one plot."""
    pattern = pattern_of(args)
    gpu = gpu_of(args)
    (q_tile, kv_tile), backend = tiles_of(args, pattern)
    if args.kind == "stride":
        pattern.windows(args.axis)
        figure = plot_strides(pattern, args.axis, q_tile, kv_tile, backend.tiling)
    elif args.kind == "visits":
        figure = plot_visits(pattern, q_tile, kv_tile, backend.tiling, args.plane)
    elif args.kind == "pareto":
        result = search(
            pattern.layout,
            gpu,
            heads=args.heads,
            head_dim=args.head_dim,
            window=pattern.window,
            dilation=scalar(args.dilation),
            causal=causal_of(args),
            backend=args.backend,
            batch=args.batch,
            dtype=args.dtype,
            natten_version=args.natten_version,
        )
        figure = plot_pareto(result)
    else:
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
        )
        flops = 4.0 * args.batch * args.heads * args.head_dim * pattern.unmasked_pairs
        moved = 4.0 * DTYPE_BYTES[args.dtype] * args.batch * args.heads * args.head_dim * pattern.tokens
        label = f"{shown.backend}, window {cell(pattern.window)}, stride {cell(pattern.stride)}"
        figure = plot_roofline(gpu, [(label, flops, moved)], [shown])
    save(figure, args.output)
    out.print(f"wrote {args.output}")
    out.result({"kind": args.kind, "file": args.output, **describe(pattern)})
    return 0


def configure_sweep(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sweep``."""
    parser.add_argument(
        "file", type=Path, metavar="SWEEP.yaml", help="runs, defaults and grids: see docs/gna.md"
    )
    parser.add_argument(
        "--keep-going", action="store_true", help="note invalid runs in their row instead of refusing"
    )
    add_csv(parser)


def run_sweep_file(args: argparse.Namespace, out: Output) -> int:
    """Project every run of a YAML file."""
    document = load_yaml(args.file)
    runs = expand(document)
    with out.progress(len(runs), "projecting") as advance:
        rows = run_sweep(document, "note" if args.keep_going else "refuse", advance)
    write_csv(args.csv, rows)
    columns = (
        "run",
        "gpu",
        "stride",
        "q tile",
        "kv tile",
        "kernel ms",
        "range",
        "total ms",
        "dense ms",
        "speedup",
    )
    cells: list[tuple[object, ...]] = []
    for number, row in enumerate(rows):
        head = (row.get("name", number), row.get("gpu", "b200"), cell(row.get("stride", 1)))
        if "error" in row:
            cells.append(head)
            continue
        cells.append(
            (
                *head,
                cell(row["q_tile"]),
                cell(row["kv_tile"]),
                f"{row['kernel_ms']:.2f}",
                f"{row['kernel_low_ms']:.3g}-{row['kernel_high_ms']:.3g}",
                f"{row['total_ms']:.2f}",
                f"{row['dense_ms']:.2f}",
                f"{row['speedup']:.2f}",
            )
        )
    out.print(
        table(columns, [(*line, *[""] * (len(columns) - len(line))) for line in cells], right=columns[5:])
    )
    for number, row in enumerate(rows):
        if "error" in row:
            out.print(f"run {row.get('name', number)}: {row['error']}")
    out.result({"runs": len(rows), "rows": rows})
    return 0
