"""The wheel and the source archive, and the wheel installed away from the checkout."""

import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINKED = ("rtl", "sim", "quant", "hls", "boards")
OWN = ("spec", "compiler", "cli", "models")
SHIPPED = {".py", ".toml", ".onnx", ".npz", ".json", ".hpp", ".yaml", ".yml", ".typed"}
LEFT_BEHIND = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "sim_build")

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
for name in ("torch", "sklearn", "onnxscript"):
    sys.modules[name] = None  # an import of it fails
import hwattn
training = ("hwattn.models.digits.", "hwattn.models.networks.")
names = [module.name for module in pkgutil.walk_packages(hwattn.__path__, "hwattn.")]
for name in names:
    if not name.startswith(training):
        importlib.import_module(name)
print(hwattn.__file__, len(names))
"""


def run(*command, cwd):
    # programs of the dependencies (Yosys) are found as after activating this environment
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Source archive, made from a copy of the checkout, the wheel, made from the source archive, and what they must hold."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT, folder / "checkout", symlinks=True, ignore=LEFT_BEHIND)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", cwd=folder / "checkout")
    (source,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    return source, wheel, shipped_files(folder / "checkout")


@pytest.fixture(scope="module")
def installed(archives, tmp_path_factory):
    """Root of an environment that holds the wheel, and sees the packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    site = Path(
        run(folder / "bin/python", "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip()
    )
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin/python")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", archives[1], cwd=folder)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def shipped_files(checkout):
    """What the wheel must hold of a checkout, by its name in the wheel."""
    rooms = [(checkout / room, f"hwattn/{room}") for room in LINKED]
    rooms += [(checkout / "hwattn" / room, f"hwattn/{room}") for room in OWN]
    return {
        f"{prefix}/{path.relative_to(folder)}"
        for folder, prefix in rooms
        for path in folder.rglob("*")
        if path.suffix in SHIPPED and "__pycache__" not in path.parts
    } | {"hwattn/__init__.py", "hwattn/py.typed"}


def test_wheel_holds_real_files_of_every_room(archives):
    with zipfile.ZipFile(archives[1]) as wheel:
        entries = wheel.infolist()
    names = {entry.filename for entry in entries}
    assert archives[2] - names == set()
    assert {name.split("/")[0] for name in names} == {"hwattn", "hwattn-0.1.0.dist-info"}
    assert {"hwattn-0.1.0.dist-info/licenses/LICENSE", "hwattn-0.1.0.dist-info/licenses/NOTICE"} <= names
    for entry in entries:
        assert not stat.S_ISLNK(entry.external_attr >> 16), entry.filename


def test_source_archive_holds_real_files_of_every_room(archives):
    with tarfile.open(archives[0]) as source:
        members = source.getmembers()
    names = {member.name.partition("/")[2] for member in members}
    assert archives[2] - names == set()
    assert [member.name for member in members if member.issym() or member.islnk()] == []


def test_installed_program_runs_elsewhere(installed, tmp_path):
    text = run(installed / "bin/hwattn", "--help", cwd=tmp_path)
    assert "quantize" in text
    document = json.loads(run(installed / "bin/hwattn", "check", "--json", cwd=tmp_path))
    assert document["ready"] is True


def test_every_installed_module_can_be_imported_without_torch(installed, tmp_path):
    where, count = run(installed / "bin/python", "-c", IMPORT_EVERYTHING, cwd=tmp_path).split()
    assert Path(where).is_relative_to(installed)
    assert int(count) > 50


def test_installed_data_can_be_read(installed, tmp_path):
    program = """
from hwattn.models import find_workload
from hwattn.spec.config import load_preset
workload = find_workload("digits")
load_preset(workload.config)
print(len(workload.test_set()["image"]), workload.model.stat().st_size)
"""
    images, size = map(int, run(installed / "bin/python", "-c", program, cwd=tmp_path).split())
    assert images >= 700
    assert 0 < size <= 1_000_000
