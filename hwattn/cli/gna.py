"""``hwattn gna``: Generalized Neighborhood Attention simulated, searched and projected onto GPUs."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from hwattn.cli import gna_patterns, gna_projections, gna_reports
from hwattn.cli.output import Output

HELP = """Generalized Neighborhood Attention (arXiv 2504.16922): exact masks, KV tiles that each Q tile visits,
which strides and tiles pay, and what that means on a GPU. Arguments have the names of NATTEN's. See docs/gna.md."""

Subcommand = tuple[
    str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace, Output], int]
]

SUBCOMMANDS: dict[str, Subcommand] = {
    "mask": ("the exact mask", gna_patterns.configure_mask, gna_patterns.run_mask),
    "windows": ("keys of every query, per axis", gna_patterns.configure_windows, gna_patterns.run_windows),
    "explain": (
        "which keys one query sees, and why",
        gna_patterns.configure_explain,
        gna_patterns.run_explain,
    ),
    "simulate": (
        "tile visits, the speedups they allow, and block sparsity",
        gna_patterns.configure_simulate,
        gna_patterns.run_simulate,
    ),
    "search": (
        "strides, tiles and windows that pay on a GPU",
        gna_projections.configure_search,
        gna_projections.run_search,
    ),
    "project": (
        "time on a GPU, with its range, and the speedup over dense attention",
        gna_projections.configure_project,
        gna_projections.run_project,
    ),
    "model": (
        "a whole workload, end to end",
        gna_projections.configure_model,
        gna_projections.run_model,
    ),
    "reproduce": (
        "the published tables, recomputed",
        gna_reports.configure_reproduce,
        gna_reports.run_reproduce,
    ),
    "plot": ("plots as PNG or SVG", gna_reports.configure_plot, gna_reports.run_plot),
    "sweep": (
        "a batch of projections from a YAML file",
        gna_reports.configure_sweep,
        gna_reports.run_sweep_file,
    ),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    below = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", required=True)
    for name, (text, configure_one, _) in SUBCOMMANDS.items():
        configure_one(below.add_parser(name, help=text, description=text))


def run(args: argparse.Namespace, out: Output) -> int:
    """Run a subcommand; returns the exit code."""
    return SUBCOMMANDS[args.subcommand][2](args, out)
