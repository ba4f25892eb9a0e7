"""``hwattn check``: each external tool, found or not, its version, and the command that installs it."""

from __future__ import annotations

import argparse

from hwattn.boards.tools import TOOLS
from hwattn.cli.output import Output, table

HELP = "Look for every program and package outside hwattn. Exit code 1 when something that make demo needs is missing."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments: it has none."""


def run(args: argparse.Namespace, out: Output) -> int:
    """Report every tool; 1 when a required one is missing, else 0."""
    versions = {tool.name: tool.find_version() for tool in TOOLS}
    missing = [tool for tool in TOOLS if versions[tool.name] is None]
    blocking = [tool for tool in missing if tool.required]
    out.print(
        table(
            ["tool", "version", "needed by", "install with"],
            [
                (
                    tool.name,
                    versions[tool.name] or ("MISSING" if tool.required else "not found (optional)"),
                    tool.needed_by,
                    tool.install if tool in missing else None,
                )
                for tool in TOOLS
            ],
        )
    )
    if blocking:
        out.print(f"Missing: {', '.join(tool.name for tool in blocking)}. Install with:")
        for command in dict.fromkeys(tool.install for tool in blocking):
            out.print(f"    {command}")
    else:
        out.print("Everything that make demo needs is here.")
    out.result(
        {
            "ready": not blocking,
            "tools": [
                {
                    "name": tool.name,
                    "found": versions[tool.name] is not None,
                    "version": versions[tool.name],
                    "required": tool.required,
                    "needed_by": tool.needed_by,
                    "install": tool.install,
                }
                for tool in TOOLS
            ],
        }
    )
    return 1 if blocking else 0
