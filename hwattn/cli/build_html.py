"""A build's report as one page of HTML, without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 0.5em 0 1.5em; }
th, td { border: 1px solid #ccc; padding: 0.25em 0.7em; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
code { overflow-wrap: anywhere; }
"""


def page(report: dict[str, Any]) -> str:
    """Return the page of a report (``hwattn build --json``). Power is not in it: nobody has measured it."""
    sections = [
        f"<h1>hwattn on {escape(report['board'])}</h1>",
        _summary(report),
        _section("Resources", ["resource", "used", "available", "share"], _resources(report)),
        _section(
            "Clock, by run of place and route",
            ["seed", "clock", "MHz reached", "MHz wanted"],
            _clocks(report),
        ),
        _section(
            "Critical path", ["from", "to"], [report["critical_path"]] if report["critical_path"] else []
        ),
        _section("Latency of one image", ["task", "cycles", "ms"], _latency(report)),
        _section(
            "Tools",
            ["tool", "seconds", "MiB"],
            [
                (stage["name"], round(stage["seconds"], 1), round(stage["memory_mib"]))
                for stage in report["stages"]
            ],
        ),
        _section("Configuration", ["field", "value"], report["config"].items()),
    ]
    title = f"hwattn on {escape(report['board'])}"
    body = "\n".join(section for section in sections if section)
    return f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>\n{body}\n</html>\n'


def _summary(report: dict[str, Any]) -> str:
    lines = [f"Model: {report['model'] or 'none (the machine is loaded over its link)'}."]
    lines.append(f"{report['multipliers']} multipliers at {report['clock_mhz']:g} MHz.")
    if report["fmax_mhz"]:
        lines.append(f"Place and route reaches {report['fmax_mhz']:.1f} MHz.")
    if report["frames_per_second"]:
        lines.append(
            f"{report['frames_per_second']:,.0f} images per second expected of the slowest task ({report['latency_source']})."
        )
    if report["timing_note"]:
        lines.append(f"{report['timing_note']}.")
    return "<p>" + escape(" ".join(lines)) + "</p>"


def _resources(report: dict[str, Any]) -> list[Sequence[object]]:
    return [
        (name.upper(), entry["used"], entry["available"], f"{entry['used'] / entry['available']:.0%}")
        for name, entry in report["resources"].items()
        if entry["used"]
    ]


def _clocks(report: dict[str, Any]) -> list[Sequence[object]]:
    return [
        (attempt["seed"], name, round(reached, 2), report["clock_mhz"])
        for attempt in report["attempts"]
        for name, reached in attempt["clocks_mhz"].items()
    ]


def _latency(report: dict[str, Any]) -> list[Sequence[object]]:
    return [
        (name, round(report["cycles"][name]), round(value, 4))
        for name, value in report["latency_ms_by_task"].items()
    ]


def _section(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a heading and a table, or nothing where there are no rows."""
    lines = [f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows]
    if not lines:
        return ""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    return f"<h2>{escape(title)}</h2>\n<table><tr>{head}</tr>\n" + "\n".join(lines) + "</table>"


def _cell(value: object) -> str:
    if isinstance(value, int | float):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{escape(str(value))}</td>"
