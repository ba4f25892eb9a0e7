"""What `make` says on a system that lacks something."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "requirements" / "system-check"


@pytest.fixture
def check(tmp_path):
    """Run the script on a system that has only the given programs; returns the exit code and what it said."""

    def run(programs, python=sys.executable):
        for name in programs:
            (tmp_path / name).symlink_to(shutil.which(name))
        command = [shutil.which("sh"), SCRIPT, python]
        done = subprocess.run(
            command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
        )
        assert done.stdout == ""
        return done.returncode, done.stderr

    return run


def test_nothing_is_missing(check):
    assert check(["g++", "make"]) == (0, "")


def test_everything_is_missing(check):
    code, said = check([], python="python3")
    assert code == 2
    assert said.startswith("missing: python3 (Python 3.11 or newer)\nmissing: g++")
    assert said.endswith("\ninstall with: sudo apt-get install python3 python3-venv python3-dev g++ make\n")


def test_one_thing_is_missing(check):
    code, said = check(["make"])
    assert code == 2
    assert said.endswith("\ninstall with: sudo apt-get install g++\n")


@pytest.mark.parametrize(
    ("broken", "package"),
    [("ensurepip", "python3-venv"), ("ctypes.CDLL", "python3-dev")],
)
def test_half_a_python(check, tmp_path, broken, package):
    lame = tmp_path / "lame"
    spoil = {
        "ensurepip": "import sys; sys.modules['ensurepip'] = None",
        "ctypes.CDLL": "import ctypes\n\ndef missing(name):\n    raise OSError(name)\n\nctypes.CDLL = missing",
    }[broken]
    (tmp_path / "sitecustomize.py").write_text(spoil + "\n")
    lame.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    lame.chmod(0o755)
    code, said = check(["g++", "make"], python=str(lame))
    assert code == 2
    assert said.endswith(f"install with: sudo apt-get install {package}\n")


def test_an_old_python(check, tmp_path):
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\nif [ "$1" = -V ]; then echo Python 3.9.2; else exit 1; fi\n')
    old.chmod(0o755)
    code, said = check(["g++", "make"], python=str(old))
    assert code == 2
    assert "is Python 3.9.2. Install a newer one and say make PYTHON=/path/to/it" in said
