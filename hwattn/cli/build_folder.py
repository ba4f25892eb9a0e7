"""Folders that a build makes: refused before any work, complete or absent, and what a failed build leaves."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hwattn.spec.errors import FailedError, RefusedError

VERILOG = "hwattn.v"
"""The file that every board's build writes first: a folder that holds it is an earlier build's."""


def check_folder(target: Path, force: bool, marker: str = VERILOG) -> None:
    """Refuse a target that exists, before any work; ``--force`` replaces what an earlier build has made, and nothing else.

    Parameters
    ----------
    target : Path
    force : bool
    marker : str
        File by which an earlier build's folder is known.
    """
    parent = next(folder for folder in target.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise RefusedError(
            f"{parent} cannot be written to", "a folder to make another in", "name another one"
        )
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / marker).is_file():
        found = "is a file" if target.is_file() else "holds other files than a build's"
        raise RefusedError(f"{target} {found}", "a new or empty folder", "name another one")
    if not force:
        raise RefusedError(
            f"{target} holds an earlier build",
            "a new or empty folder",
            "name another one, or add --force to replace it",
        )


def failed_folder(target: Path) -> Path:
    """Return where the logs of a failed build go."""
    return target.with_name(f"{target.name}.failed")


@contextmanager
def complete_folder(target: Path) -> Iterator[Path]:
    """Yield a folder under a temporary name beside `target`, which it becomes if nothing goes wrong.

    What a failed build has made (logs, netlist) is kept beside it under the name ``DIR.failed``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    scratch.chmod(0o755)
    failed = failed_folder(target)
    if failed.exists():
        shutil.rmtree(failed)
    try:
        yield scratch
        if target.exists():
            shutil.rmtree(target)
        scratch.rename(target)
    except FailedError as error:
        scratch.replace(failed)
        raise FailedError(error.found, error.expected, f"{error.remedy}; logs are in {failed}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
