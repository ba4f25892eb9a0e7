"""``hwattn sim``: what it refuses, and its report and document of given findings; the simulation itself is tested in the sim room."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from hwattn.cli import sim
from hwattn.cli.main import main
from hwattn.cli.models import resolve_model
from hwattn.rtl.multipliers import MultiplierStyle
from hwattn.sim.cosim.job import Findings, Mismatch, Run
from hwattn.sim.cosim.session import CosimResult
from hwattn.spec.config import load_preset, preset_memory
from hwattn.spec.errors import FailedError
from hwattn.spec.external import ExternalMemory
from hwattn.spec.hwq import save_model
from hwattn.spec.isa import Queue
from hwattn.spec.registers import COUNTERS, Register


@pytest.fixture
def no_simulation(monkeypatch):
    """A refusal comes before any simulation."""

    def simulate(*_args, **_options):
        raise AssertionError("a simulation was started")

    monkeypatch.setattr(sim, "simulate", simulate)
    monkeypatch.setattr(sim, "drive_over_pins", simulate)


REFUSALS = [
    (["--task", "colour"], "colour"),
    (["--task", "2"], "2"),
    (["--simulator", "questa"], "questa"),
    (["--config", "no-such-preset"], "no preset named no-such-preset"),
    (["--set", "weight_words=64"], "weight_words"),
    (["--images", "0"], "images"),
    (["--input", "{tmp}/absent.npy"], "absent.npy"),
    (["--waves", "{tmp}/file"], "is a file"),
    (["--uart", "--waves", "{tmp}/waves"], "--uart alone"),
    (["--multipliers", "triple"], "triple"),
    (["--uart", "--stepped", "0"], "--uart alone"),
    (["--uart", "--simulator", "icarus"], "--uart alone"),
]


@pytest.mark.usefixtures("no_simulation")
@pytest.mark.parametrize(("options", "said"), REFUSALS, ids=[" ".join(words) for words, _ in REFUSALS])
def test_refusals(options, said, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["sim", "digits", *(word.format(tmp=tmp_path) for word in options)]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert len(message.splitlines()) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("no_simulation")
def test_a_file_without_workload_needs_images(tmp_path, capsys):
    model = tmp_path / "stranger.hwq"
    save_model(dataclasses.replace(resolve_model("digits").model, source=""), model)
    assert main(["sim", str(model)]) == 2
    assert "add --input X.npy" in capsys.readouterr().err


def findings(mismatches=()):
    """Two runs of 1000 and 1400 cycles whose counters add up."""
    runs = []
    for task, cycles in ((0, 1000), (1, 1400)):
        counters = dict.fromkeys(COUNTERS, 0)
        counters |= {int(Register.CYCLES): cycles, int(Register.MATRIX_ACTIVE): cycles // 2}
        counters |= {
            Register.BUSY + Queue.MATRIX: cycles * 3 // 4,
            Register.WAITING + Queue.MATRIX: cycles // 5,
        }
        runs.append(Run(task, 0, cycles, counters, 7))
    return Findings(runs, list(mismatches), "", 24_000, 2.0)


def simulating(monkeypatch, result):
    """Let `result` be found; the list that is returned fills with the arguments of the calls."""
    calls = []

    def simulate(program, images, tasks, simulator, **options):
        calls.append((images.shape, tasks, simulator, options))
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(sim, "simulate", simulate)
    return calls


def test_document(monkeypatch, capsys):
    calls = simulating(monkeypatch, CosimResult(findings(), None))
    assert main(["sim", "digits", "--images", "3", "--stepped", "0", "--readback", "2", "--json"]) == 0
    shape, tasks, simulator, options = calls[0]
    assert shape[0] == 3
    assert (tasks, simulator) == ([0, 1], "verilator")
    assert options == {
        "multiplier_style": MultiplierStyle.SINGLE,
        "stepped": 0,
        "whole": 1,
        "readback": 2,
        "waves": None,
        "memory": ExternalMemory(),
    }
    written = json.loads(capsys.readouterr().out)
    assert written["bit_exact"] is True
    assert written["cycles"] == [1000, 1400]
    assert written["cycles_mean"] == 1200
    assert written["cycles_by_task"] == {"digit": [1000], "stroke": [1400]}
    assert written["instructions_compared"] == 14
    assert written["cycles_per_second"] == 12_000
    shares = written["cycle_shares"]
    assert shares["streaming"] == 0.5
    assert sum(shares.values()) == pytest.approx(1)
    for lengths in written["queue_lengths"].values():
        # 17 tokens, two experts each; the class token alone in the last mixture where nothing else is needed
        assert sum(lengths[0]) == 34


def test_memory_is_that_of_the_preset_or_as_told(monkeypatch, capsys):
    calls = simulating(monkeypatch, CosimResult(findings(), None))
    assert main(["sim", "digits", "--memory", "latency=9,beats=2,cycles=3"]) == 0
    assert calls[0][3]["memory"] == ExternalMemory(latency=9, beats=2, cycles=3)
    assert preset_memory("m3vit-tiny") == ExternalMemory(latency=64, beats=8, cycles=9)
    assert main(["sim", "digits", "--memory", "width=4"]) == 2
    assert "'width=4' of the external memory" in capsys.readouterr().err


def test_packed_multipliers(monkeypatch, capsys):
    calls = simulating(monkeypatch, CosimResult(findings(), None))
    assert main(["sim", "digits", "--multipliers", "packed", "--json"]) == 0
    assert calls[0][3]["multiplier_style"] is MultiplierStyle.PACKED
    written = json.loads(capsys.readouterr().out)
    assert written["multiplier_style"] == "packed"
    assert written["multipliers"] == load_preset("digits").multipliers


def test_a_difference_is_reported_and_fails(monkeypatch, capsys):
    wrong = Mismatch(1, 0, 42, "POST columns=3", 17, "00ff", "01ff")
    simulating(monkeypatch, CosimResult(findings([wrong]), None))
    assert main(["sim", "digits"]) == 1
    report = capsys.readouterr().out
    assert "NOT bit-exact" in report
    line = " ".join(report.split())
    assert "task 1, image 0, instruction 42 (POST columns=3): word 17 is 01ff, the model says 00ff" in line


def test_a_hang_fails_with_one_sentence(monkeypatch, capsys):
    error = FailedError("the simulated machine hung: queue POST", "every instruction to end", "report it")
    simulating(monkeypatch, error)
    assert main(["sim", "digits"]) == 1
    assert "the simulated machine hung: queue POST" in capsys.readouterr().err


def test_given_images(monkeypatch, tmp_path):
    calls = simulating(monkeypatch, CosimResult(findings(), None))
    np.save(tmp_path / "x.npy", np.zeros((4, 1, 8, 8), np.float32))
    assert main(["sim", "digits", "--input", str(tmp_path / "x.npy"), "--task", "stroke"]) == 0
    assert calls[0][:2] == ((4, 1, 8, 8), [1])
