"""Yosys, from its wheel on PyPI (pyosys), in a process of its own: a crash, or a kill, takes nothing else along."""

from __future__ import annotations

import importlib.util
import sys

from hwattn.spec.errors import RefusedError

PACKAGE = "pyosys"

_RUN = (
    "import sys; from pyosys import libyosys; libyosys.run_pass('script ' + sys.argv[1], libyosys.Design())"
)


def yosys_command(script: str) -> list[str]:
    """Return the command that runs a script of Yosys.

    Parameters
    ----------
    script : str
        Name of the file, from the folder in which the command runs; without spaces.

    Returns
    -------
    list of str
        It logs to standard output, says an error on standard error, and then ends with code 1.

    Raises
    ------
    RefusedError
        Yosys is not installed.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise RefusedError(
            "Yosys is not installed", f"the PyPI package {PACKAGE}", f"run: pip install {PACKAGE}==0.70"
        )
    return [sys.executable, "-c", _RUN, script]
