"""C++ compilers and the open ap_types headers: where they are, and one machine of the library compiled for use from Python."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from hwattn.hls.headers import config_header, constants_header, isa_header, tables_header
from hwattn.spec.cache import cache_folder, digest, made_once
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import FailedError, RefusedError

INCLUDE = Path(__file__).parent / "include"
C_INTERFACES = {name: Path(__file__).parent / "capi" / f"{name}.cpp" for name in ("machine", "attention")}

STANDARD = "-std=c++14"
"""What the compiler of Vitis HLS takes by default."""

WARNINGS = ("-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-label", "-Wno-uninitialized")
"""Directives are pragmas and labels that a C++ compiler does not know; the last is for the ap_types headers under g++."""


def ap_types_folder() -> Path:
    """Folder of the open ap_types headers (ap_int.h, hls_stream.h) that come with hls4ml; hls4ml itself is not imported.

    Raises
    ------
    RefusedError
        They are not installed.
    """
    found = importlib.util.find_spec("hls4ml")
    for root in found.submodule_search_locations or () if found else ():
        folder = Path(root) / "templates" / "vivado" / "ap_types"
        if (folder / "ap_int.h").is_file():
            return folder
    raise RefusedError(
        "no ap_types headers (ap_int.h)",
        "those in the PyPI package hls4ml",
        "run: pip install --no-deps hls4ml==1.3.0",
    )


def find_compiler(name: str = "g++") -> str:
    """Path of a C++ compiler.

    Raises
    ------
    RefusedError
        It is not on the PATH.
    """
    path = shutil.which(name)
    if path is None:
        raise RefusedError(
            f"{name} is not on the PATH", "a C++14 compiler", f"install it: apt-get install {name}"
        )
    return path


def write_headers(folder: Path, config: AcceleratorConfig) -> None:
    """Write the generated headers that the library includes."""
    for name, text in {
        "constants.hpp": constants_header(),
        "tables.hpp": tables_header(),
        "isa.hpp": isa_header(),
        "config.hpp": config_header(config),
    }.items():
        (folder / name).write_text(text)


def compile_cpp(
    sources: Sequence[Path],
    target: Path,
    includes: Sequence[Path],
    options: Sequence[str],
    compiler: str = "g++",
) -> str:
    """Compile C++ with the ap_types headers and -O2, without which they are twenty times slower.

    Returns
    -------
    str
        The compiler's warnings.

    Raises
    ------
    RefusedError
        There is no such compiler, or no ap_types headers.
    FailedError
        The code does not compile.
    """
    command = [find_compiler(compiler), STANDARD, "-O2", *WARNINGS, *options]
    command += ["-isystem", str(ap_types_folder()), *(f"-I{folder}" for folder in includes)]
    command += [*map(str, sources), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[-300:])
        raise FailedError(f"{compiler} refused the C++: {first}", "C++ that compiles", "report it")
    return done.stderr


def simulate_project(folder: Path, compiler: str = "g++") -> str:
    """Run ``make csim`` in a project's folder.

    Returns
    -------
    str
        What the testbenches say, one line for each top.

    Raises
    ------
    RefusedError
        There is no make or no compiler.
    FailedError
        It does not compile, or differs from the golden vectors; ``csim.log`` has it all.
    """
    if shutil.which("make") is None:
        raise RefusedError("make is not on the PATH", "make", "install it: apt-get install make")
    command = ["make", "csim", f"CXX={find_compiler(compiler)}", f"AP_TYPES={ap_types_folder()}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    (folder / "csim.log").write_text(done.stdout + done.stderr)
    if done.returncode:
        lines = [
            line
            for line in (done.stderr + done.stdout).splitlines()
            if "error" in line or "DIFFERENT" in line
        ]
        raise FailedError(
            f"the C simulation failed: {lines[0] if lines else done.stderr[-200:]}",
            "the bits of the golden vectors",
            "read csim.log",
        )
    return "\n".join(line for line in done.stdout.splitlines() if "different from the NumPy model" in line)


def compile_interface(
    name: str,
    config: AcceleratorConfig,
    definitions: Mapping[str, int] = MappingProxyType({}),
    compiler: str = "g++",
    options: Sequence[str] = (),
) -> Path:
    """Compile a C interface for one configuration, once: a shared library in the user's cache.

    Parameters
    ----------
    name : str
        A key of `C_INTERFACES`.
    config : AcceleratorConfig
    definitions : mapping of str to int
        Macros.
    compiler : str
    options : sequence of str

    Returns
    -------
    Path
    """
    source = C_INTERFACES[name]
    defined = [f"-D{macro}={value}" for macro, value in definitions.items()]
    with tempfile.TemporaryDirectory() as scratch_name:
        generated = Path(scratch_name)
        write_headers(generated, config)
        texts = [
            file.read_text()
            for file in [*sorted(INCLUDE.glob("*.hpp")), source, *sorted(generated.iterdir())]
        ]
        key = digest(compiler, STANDARD, *WARNINGS, *defined, *options, *texts)

        def compile_library(scratch: Path) -> None:
            flags = ["-shared", "-fPIC", *defined, *options]
            compile_cpp([source], scratch / f"{name}.so", [INCLUDE, generated], flags, compiler)

        folder = made_once(cache_folder() / "hls" / key, compile_library)
    return folder / f"{name}.so"
