"""What nextpnr prints while it routes, and its report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hwattn.boards.flow import Attempt
from hwattn.spec.errors import FailedError

CONFLICTS = re.compile(r"iter=\d+ .*overused=(\d+)")
"""In nextpnr's log, after each iteration of router2."""

MANY_CONFLICTS = 500
PATIENCE_MANY, PATIENCE_FEW = 15, 150
"""Iterations without fewer conflicts than ever before, after which a design with many of them, or with few, is given up."""


class NotRoutedError(FailedError):
    """nextpnr does not come nearer to an end."""


class RouterWatch:
    """Stops router2 when it has long ceased to have fewer conflicts: called with each line that nextpnr prints."""

    def __init__(self) -> None:
        self._conflicts: list[int] = []

    def __call__(self, line: str) -> NotRoutedError | None:
        if match := CONFLICTS.search(line):
            self._conflicts.append(int(match[1]))
        return hopeless(self._conflicts)


def hopeless(conflicts: Sequence[int]) -> NotRoutedError | None:
    """Return an error when the numbers of conflicts, one of each iteration, have long ceased to fall."""
    least_conflicts = min(conflicts, default=0)
    if not least_conflicts:
        return None
    since = len(conflicts) - 1 - conflicts.index(least_conflicts)
    if since < (PATIENCE_MANY if least_conflicts > MANY_CONFLICTS else PATIENCE_FEW):
        return None
    return NotRoutedError(
        f"nextpnr cannot route the design: of its wires, {least_conflicts:,} or more stay in conflict after {len(conflicts)} iterations",
        "a design that is routed",
        "try another --seed or more --tries, or lower rows, lanes or softmax_lanes (--set rows=...)",
    )


def read_report(report: dict[str, Any], seed: int, effort: str) -> Attempt:
    """Take clocks and critical path from nextpnr's report.

    Of several clocks each counts as what it allows the slowest one, the machine's, of which the others are multiples.
    """
    clocks = {name: float(entry["achieved"]) for name, entry in report["fmax"].items()}
    wanted = {name: float(entry["constraint"]) for name, entry in report["fmax"].items()}
    allowed = (clocks[name] * min(wanted.values()) / wanted[name] for name in clocks)
    paths = [path for path in report.get("critical_paths", []) if path["from"] == path["to"] and path["path"]]
    ends: list[str] = []
    if paths:
        slowest = max(paths, key=lambda path: sum(step["delay"] for step in path["path"]))
        ends = [slowest["path"][0]["from"]["cell"], slowest["path"][-1]["to"]["cell"]]
    return Attempt(seed, effort, min(allowed), clocks, ends)
