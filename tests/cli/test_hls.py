"""``hwattn hls``: refusals before any work, what it writes and says, and what is left of a simulation that fails."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from hwattn.cli import hls
from hwattn.cli.main import main
from hwattn.cli.models import resolve_model
from hwattn.spec.errors import FailedError, RefusedError
from hwattn.spec.hwq import save_model


@pytest.fixture
def no_work(monkeypatch):
    def forbidden(*_arguments):
        raise AssertionError("work was done")

    for name in ("compile_model", "write_project", "simulate_project"):
        monkeypatch.setattr(hls, name, forbidden)


REFUSALS = [
    ([], "-o/--output"),
    (["-o", "{tmp}/file"], "file is a file; expected a new or empty folder"),
    (["-o", "{tmp}/old"], "old holds an earlier build; expected a new or empty folder"),
    (["-o", "{tmp}", "--force"], "holds other files than a build's"),
    (["-o", "{tmp}/new", "--csim", "--compiler", "no-such-compiler"], "no-such-compiler is not on the PATH"),
    (["-o", "{tmp}/new", "--images", "0"], "not a positive integer"),
    (["-o", "{tmp}/new", "--input", "{tmp}/absent.npy"], "absent.npy"),
    (["-o", "{tmp}/new", "--set", "lanes=3"], "lanes=3"),
]


@pytest.mark.parametrize(("options", "said"), REFUSALS, ids=[" ".join(words) for words, _ in REFUSALS])
def test_refusals(options, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(hls, "write_project", lambda *_arguments: pytest.fail("work was done"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / hls.MARKER).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert main(["hls", "digits", *(word.format(tmp=tmp_path) for word in options)]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert len(message.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("no_work")
def test_without_headers_nothing_is_begun(tmp_path, capsys, monkeypatch):
    def absent():
        raise RefusedError("no ap_types headers (ap_int.h)", "hls4ml", "run: pip install --no-deps hls4ml")

    monkeypatch.setattr(hls, "ap_types_folder", absent)
    monkeypatch.setattr(hls, "find_compiler", lambda name: name)
    assert main(["hls", "digits", "-o", str(tmp_path / "new"), "--csim"]) == 2
    assert "no ap_types headers (ap_int.h)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_project_of_given_images(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((3, 1, 8, 8), np.float32))
    target = tmp_path / "below" / "out"
    arguments = ["hls", "digits", "-o", str(target), "--input", str(tmp_path / "x.npy"), "--json"]
    assert main(arguments) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["images"] == 3
    assert written["tops"] == ["machine", "attention"]
    assert written["csim"] is None
    assert "src/machine.cpp" in written["files"] and "generated/isa.hpp" in written["files"]
    assert (
        sorted(str(file.relative_to(target)) for file in target.rglob("*") if file.is_file())
        == written["files"]
    )
    report = json.loads((target / "report.json").read_text())
    assert report["program_hash"] == written["program_hash"]
    assert [entry.name for entry in target.parent.iterdir()] == ["out"]


def test_a_model_without_workload_gets_noise(tmp_path, capsys):
    model = tmp_path / "stranger.hwq"
    save_model(dataclasses.replace(resolve_model("digits").model, source=""), model)
    assert main(["hls", str(model), "-o", str(tmp_path / "out"), "--images", "2"]) == 0
    assert "golden vectors of 2 images for every task" in capsys.readouterr().out


def test_simulated(tmp_path, capsys, monkeypatch):
    calls = []

    def simulate(folder, compiler):
        calls.append(compiler)
        return "machine: 1 images of 2 tasks, 0 different from the NumPy model, 0.10 s"

    monkeypatch.setattr(hls, "simulate_project", simulate)
    monkeypatch.setattr(hls, "find_compiler", lambda name: name)
    monkeypatch.setattr(hls, "ap_types_folder", lambda: None)
    assert main(["hls", "-o", str(tmp_path / "out"), "--images", "1", "--csim", "--compiler", "clang++"]) == 0
    assert calls == ["clang++"]
    assert "machine: 1 images of 2 tasks, 0 different from the NumPy model" in capsys.readouterr().out


def test_a_difference_fails_and_leaves_the_log(tmp_path, capsys, monkeypatch):
    def simulate(folder, compiler):
        (folder / "csim.log").write_text("task 0, image 0: DIFFERENT")
        raise FailedError(
            "the C simulation failed: task 0", "the bits of the golden vectors", "read csim.log"
        )

    monkeypatch.setattr(hls, "simulate_project", simulate)
    monkeypatch.setattr(hls, "find_compiler", lambda name: name)
    monkeypatch.setattr(hls, "ap_types_folder", lambda: None)
    assert main(["hls", "-o", str(tmp_path / "out"), "--images", "1", "--csim"]) == 1
    assert "the C simulation failed: task 0" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.failed"]
    assert (tmp_path / "out.failed" / "csim.log").is_file()
