"""What a verb writes: text and tables for people, or one JSON document for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from hwattn.spec.errors import HwattnError

SCHEMA_VERSION = 1
"""Version of every JSON document; raised when a key changes its meaning or goes away."""

PIPED_WIDTH = 100
"""Columns of text when standard output is not a terminal."""


class Output:
    """Where a verb writes to.

    Parameters
    ----------
    json : bool
        Write one JSON document to standard output instead of text for people.
    """

    def __init__(self, json: bool = False) -> None:
        self.json = json
        self._stdout = sys.stdout
        self._stderr = sys.stderr
        self._console = _console(self._stdout)
        self._documents = 0

    def print(self, renderable: RenderableType = "") -> None:
        """Write text or a rich renderable to standard output; nothing with ``--json``.

        Parameters
        ----------
        renderable : str or rich renderable
            A str is written as it is: no markup, no wrapping.
        """
        if not self.json:
            self._console.print(renderable, soft_wrap=isinstance(renderable, str | Text))

    def result(self, document: Mapping[str, Any]) -> None:
        """Write the verb's JSON document, to which ``schema_version`` is added; nothing without ``--json``.

        Parameters
        ----------
        document : mapping of str
            Values may be NumPy scalars and arrays, tuples and paths. A number that is not finite becomes null.

        Raises
        ------
        RuntimeError
            A second document: a verb writes one.
        """
        if not self.json:
            return
        if self._documents:
            raise RuntimeError("a verb writes one JSON document")
        self._documents += 1
        print(json.dumps(plain({"schema_version": SCHEMA_VERSION, **document})), file=self._stdout)

    def error(self, error: HwattnError, prefix: str = "hwattn") -> None:
        """Write an error to standard error, and with ``--json`` as the document, unless one was written before."""
        print(f"{prefix}: {error}", file=self._stderr)
        if not self._documents:
            self.result({"error": {"found": error.found, "expected": error.expected, "remedy": error.remedy}})

    def warn(self, text: str) -> None:
        """Write a warning to standard error."""
        print(f"warning: {text}", file=self._stderr)

    @contextmanager
    def progress(self, total: int | None, text: str) -> Iterator[Callable[..., None]]:
        """Show a progress bar while the context lasts, if standard error is a terminal.

        Parameters
        ----------
        total : int or None
            Steps in all; None where that is not known.
        text : str
            What is going on.

        Yields
        ------
        Callable
            ``advance(steps=1)``.
        """
        if not self._stderr.isatty():
            yield lambda steps=1: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=_console(self._stderr), transient=True) as bar:
            task = bar.add_task(text, total=total)
            yield lambda steps=1: bar.advance(task, steps)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    right: Sequence[str] = (),
) -> Table:
    """Make a table for :meth:`Output.print`.

    Parameters
    ----------
    columns : sequence of str
        Headings.
    rows : iterable of sequences
        Cells, written with ``str``; None is an empty cell.
    title : str, optional
        Line above the table.
    right : sequence of str
        Headings of the columns that are aligned to the right (numbers).
    """
    made = Table(title=title, title_justify="left", header_style="bold")
    for heading in columns:
        made.add_column(Text(heading), justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return made


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: NumPy to Python, tuples to lists, paths to str, non-finite numbers to None."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value


def _console(stream: IO[str]) -> Console:
    """Return a console that colours only on a terminal, whatever the environment asks for, and prints text as it is."""
    terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=terminal,
        width=None if terminal else PIPED_WIDTH,
        markup=False,
        highlight=False,
        emoji=False,
    )
