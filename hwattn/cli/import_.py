"""``hwattn import``: what each node of an ONNX file becomes, or why it is refused."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict

from hwattn.cli.arguments import add_model
from hwattn.cli.changes import add_changes, changes_of
from hwattn.cli.models import float_model
from hwattn.cli.output import Output, table
from hwattn.quant.importer import ImportReport, MappedNode, import_onnx, refusal_of

HELP = "Show what each node of an ONNX file becomes, or why it cannot be mapped and what to do. Exit code 2 when a node is refused."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model(parser)
    parser.add_argument(
        "--nodes", action="store_true", help="one line for each ONNX node instead of one for each result"
    )
    add_changes(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Report every node.

    Raises
    ------
    RefusedError
        The file is no usable ONNX model, or a node is refused; the table is printed before.
    """
    source = float_model(args.model)
    report = import_onnx(source.onnx, changes_of(args))
    if args.nodes:
        out.print(table(["node", "operator", "becomes"], ((m.node, m.op, m.becomes) for m in report.mapped)))
    else:
        out.print(table(["becomes", "from", "nodes"], _by_result(report.mapped), right=["nodes"]))
    if report.refused:
        rows = ((entry.node, entry.op, entry.reason, entry.remedy) for entry in report.refused)
        out.print(table(["refused", "operator", "reason", "what to do"], rows))
    refusal = None if report.graph is not None else refusal_of(source.onnx, report)
    document = _document(report)
    if refusal is not None:
        document["error"] = {
            "found": refusal.found,
            "expected": refusal.expected,
            "remedy": refusal.remedy,
        }
    out.result(document)
    if refusal is not None:
        raise refusal
    for part in report.host:
        out.print(f"On the host, by onnxruntime: {part}")
    nodes = len(report.graph.nodes) if report.graph else 0
    out.print(
        f"{len(report.mapped)} ONNX nodes became {nodes} nodes; "
        f"{report.parameters:,} parameters, {report.macs:,} multiply-accumulates per image"
    )
    return 0


def _by_result(mapped: Iterable[MappedNode]) -> list[tuple[str, str, int]]:
    """For each result the operators that went into it, in the order of the file."""
    groups: dict[str, dict[str, int]] = {}
    for entry in mapped:
        operators = groups.setdefault(entry.becomes, {})
        operators[entry.op] = operators.get(entry.op, 0) + 1
    return [
        (
            becomes,
            ", ".join(f"{count} {op}" if count > 1 else op for op, count in operators.items()),
            sum(operators.values()),
        )
        for becomes, operators in groups.items()
    ]


def _document(report: ImportReport) -> dict[str, object]:
    return {
        "mapped": [{**asdict(entry), "reason": "", "remedy": ""} for entry in report.mapped],
        "refused": [asdict(entry) for entry in report.refused],
        "unreached": report.unreached,
        "host": report.host,
        "macs": report.macs,
        "parameters": report.parameters,
    }
