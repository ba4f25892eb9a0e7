"""``hwattn boards``: the boards that ``hwattn build`` knows."""

from __future__ import annotations

import argparse
import dataclasses

from hwattn.boards.board import boards
from hwattn.cli.output import Output, table

HELP = "List the boards with their resources, clock, memory, and what each flow needs."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments: none."""


def run(args: argparse.Namespace, out: Output) -> int:
    """List the boards."""
    rows = []
    documents = []
    for board in boards().values():
        document = dataclasses.asdict(board)
        del document["platform"]
        documents.append(document)
        have = board.resources
        rows.append(
            (
                board.name,
                f"{have.lut:,}",
                have.dsp,
                f"{have.ram} x {board.ram_bits // 1024} kbit",
                f"{board.clock_mhz:g} MHz",
                board.preset,
            )
        )
    columns = ["board", "LUT", "DSP", "block RAM", "clock", "preset"]
    out.print(table(columns, rows, right=columns[1:5]))
    for board in boards().values():
        out.print(
            f"{board.name}: {board.title}; {board.device}; memory: {board.memory}; host: {board.host}; flow needs {board.needs}."
        )
        out.print(f"  write the bitstream with: {board.program_with}")
    out.result({"boards": documents})
    return 0
