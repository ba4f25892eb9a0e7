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
    ready = not any(tool.required for tool in missing)
    out.print(
        table(
            ["tool", "version", "needed by"],
            [
                (
                    tool.name,
                    versions[tool.name] or ("MISSING" if tool.required else "not found (optional)"),
                    tool.needed_by,
                )
                for tool in TOOLS
            ],
        )
    )
    out.print(
        "Everything that make demo needs is here." if ready else "Something that make demo needs is missing."
    )
    if missing:
        out.print(table(["to have", "run"], [(tool.name, tool.install) for tool in missing]))
    out.result(
        {
            "ready": ready,
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
    return 0 if ready else 1
