"""``hwattn run`` from end to end on the bundled workload, and its refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hwattn.cli.main import main
from hwattn.cli.run import write_arrays
from hwattn.models import find_workload


@pytest.fixture(scope="module")
def images():
    return find_workload("digits").test_set()["image"]


def shapes(path):
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_writes_every_output_of_the_test_images(tmp_path, capsys):
    target = tmp_path / "y.npz"
    assert main(["run", "digits", "--images", "5", "-o", str(target), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["images"] == 5
    assert document["output"] == str(target)
    assert document["tasks"] == ["digit", "stroke"]
    found = shapes(target)
    assert {name: value.shape for name, value in found.items()} == {"digit": (5, 10), "stroke": (5, 16, 6)}
    assert all(value.dtype == np.float32 for value in found.values())
    assert [entry.name for entry in tmp_path.iterdir()] == ["y.npz"]


@pytest.mark.parametrize("task", ["stroke", "1"])
def test_runs_one_task_on_given_images(tmp_path, images, task):
    np.save(tmp_path / "x.npy", images[3:6])
    target = tmp_path / "y.npz"
    arguments = ["run", "digits", "--input", str(tmp_path / "x.npy"), "-o", str(target), "--task", task]
    assert main(arguments) == 0
    found = shapes(target)
    assert list(found) == ["stroke"]
    assert main(["run", "digits", "--images", "6", "-o", str(tmp_path / "all.npz")]) == 0
    assert (shapes(tmp_path / "all.npz")["stroke"][3:] == found["stroke"]).all()


def test_the_machine_does_not_change_the_result(tmp_path):
    for name, options in [("a", []), ("b", ["--config", "tiny"]), ("c", ["--set", "rows=5"])]:
        assert main(["run", "digits", "--images", "3", "-o", str(tmp_path / name), *options]) == 0
    a, b, c = (shapes(tmp_path / name) for name in "abc")
    for name, value in a.items():
        assert (value == b[name]).all()
        assert (value == c[name]).all()


REFUSALS = [
    (["-o", "{tmp}"], "is a folder"),
    (["-o", "{tmp}/no/y.npz"], "no folder"),
    (["-o", "{tmp}/y.npz", "--task", "2"], "no task 2; expected digit, stroke, or an index from 0 to 1"),
    (["-o", "{tmp}/y.npz", "--input", "{tmp}/x.npy"], "cannot be read"),
    (["-o", "{tmp}/y.npz", "--set", "rows=0"], "rows=0"),
    ([], "-o/--output"),
]


@pytest.mark.parametrize(("options", "message"), REFUSALS)
def test_refusals(options, message, tmp_path, capsys):
    assert main(["run", "digits", *(word.format(tmp=tmp_path) for word in options)]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_what_was_there(tmp_path):
    target = tmp_path / "y.npz"
    target.write_text("old")

    class Broken:
        def __array__(self, dtype=None, copy=None):
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_arrays(target, {"a": Broken()})
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1
