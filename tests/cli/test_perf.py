"""``hwattn perf``: what it prints, where clocks and queue lengths come from, what it refuses, and a validation that fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_models import vit

from hwattn.cli import perf
from hwattn.cli.main import main
from hwattn.compiler import compile_model
from hwattn.sim.cosim.job import Findings, Run
from hwattn.sim.cosim.session import CosimResult
from hwattn.sim.perf.machine import Machine
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.external import ExternalMemory
from hwattn.spec.program_file import load_program, save_program

CONFIG = AcceleratorConfig(
    rows=3,
    lanes=4,
    act_words=128,
    weight_words=512,
    acc_columns=32,
    row_words=8,
    experts=4,
    tokens=16,
    external_words=1 << 14,
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled program with a mixture of 4 experts in each of two tasks."""
    model = vit(image=(1, 4, 4), dim=12, heads=2, hidden=16, experts=4, expert_hidden=8, blocks="m")
    path = tmp_path_factory.mktemp("perf") / "small.hwp"
    save_program(compile_model(model, CONFIG), path)
    return path


@pytest.fixture(scope="module")
def images(program: Path) -> Path:
    shape = load_program(program).image.shape
    path = program.parent / "images.npy"
    np.save(path, np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32))
    return path


def asked(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    """Exit code and document."""
    code = main(["perf", *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_figures_fit_together(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = asked(
        capsys, program, "--queue-lengths", "even", "--clock", "250", "--memory", "beats=1,cycles=2"
    )
    assert code == 0
    assert found["cycles"] == max(task["cycles"] for task in found["tasks"])
    for task in found["tasks"]:
        assert sum(layer["cycles"] for layer in task["layers"]) == task["cycles"]
        assert sum(task["causes"].values()) == task["cycles"]
        assert task["bytes_external"] == sum(layer["bytes_external"] for layer in task["layers"]) > 0
        assert task["latency_ms"] == pytest.approx(task["cycles"] / 250e3)
        assert task["matrix_utilization"] == pytest.approx(task["macs"] / (task["cycles"] * 12))
        assert 0 < task["matrix_utilization"] < task["matrix_active"] < 1
        [lengths] = task["queue_lengths"]
        assert max(lengths) - min(lengths) <= 1
    assert (found["clock_mhz"], found["clock_source"]) == (250, "assumed")
    assert found["memory"]["bytes_per_cycle"] == 2
    assert found["validation"] is None


def test_the_image_routes(program: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = asked(capsys, program, "--input", images)
    for task in found["tasks"]:
        [lengths] = task["queue_lengths"]
        asked_for = ",".join(map(str, lengths))
        _, again = asked(capsys, program, "--task", task["name"], "--queue-lengths", asked_for)
        assert again["cycles"] == task["cycles"]


def test_the_table_names_the_clock(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["perf", str(program), "--queue-lengths", "10,10,0,0", "--task", "out1"]) == 2
    assert "with the sum" in capsys.readouterr().err
    assert main(["perf", str(program), "--queue-lengths", "even", "--task", "0"]) == 0
    text = capsys.readouterr().out
    assert "at 100 MHz (assumed)" in text
    assert "b0.moe" in text


def test_clocks_of_builds(program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (program, "--queue-lengths", "even", "--task", "0", "--build", tmp_path)
    report = {"fmax_mhz": 41.5, "clock_mhz": 40.0, "config_hash": f"{load_program(program).config.hash:08x}"}
    target = tmp_path / "report.json"
    target.write_text(json.dumps(report))
    _, found = asked(capsys, *words)
    assert (found["clock_mhz"], found["clock_source"]) == (40, "placed and routed")
    for wrong, message in (
        ({"fmax_mhz": None}, "not routed"),
        ({"config_hash": "0"}, "another configuration"),
        ({"clock_mhz": None}, "no report"),
    ):
        target.write_text(json.dumps(report | wrong))
        assert main(["perf", *map(str, words)]) == 2
        assert message in capsys.readouterr().err


def test_the_clock_of_a_board(capsys: pytest.CaptureFixture[str]) -> None:
    _, found = asked(capsys, "digits", "--board", "ulx3s-85f", "--task", "0")
    assert (found["clock_mhz"], found["clock_source"]) == (25, "board")
    assert found["memory"] is None


def test_the_memory_of_a_board(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("digits", "--board", "ulx3s-85f", "--config", "sdram", "--task", "0")
    _, found = asked(capsys, *words)
    memory = found["memory"]
    assert (memory["latency"], memory["beats"], memory["cycles"]) == (9, 38, 79)
    assert found["bytes_external"] > 0
    _, slower = asked(capsys, *words, "--memory", "latency=9,beats=1,cycles=20")
    assert slower["cycles"] > found["cycles"]
    _, processors = asked(capsys, *words[:1], "--board", "zcu102", *words[3:])
    memory = processors["memory"]
    assert (memory["latency"], memory["beats"], memory["cycles"]) == (30, 1, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no image that routes"),
        (("--queue-lengths", "even", "--config", "small"), "another configuration"),
        (("--queue-lengths", "even", "--clock", "0"), "a clock in MHz"),
        (("--queue-lengths", "even", "--memory", "speed=3"), "external memory"),
        (("--queue-lengths", "even", "--validate"), "without an image"),
        (("--queue-lengths", "five"), "queue lengths"),
    ],
)
def test_refusals(
    program: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["perf", str(program), *words]) == 2
    assert message in capsys.readouterr().err


def test_plots(program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = asked(capsys, program, "--queue-lengths", "even", "--task", "0", "--plot", tmp_path / "new")
    assert code == 0
    png, svg = map(Path, found["plots"])
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "<svg" in svg.read_text()


@pytest.mark.parametrize("slower", [0, 12])
def test_validation_fails_where_the_hardware_is_slower(
    program: Path,
    images: Path,
    slower: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The co-simulation is stood in for: `tests/sim/perf/test_cosim.py` does the real one."""

    def stand_in(program: Any, image: Any, tasks: list[int], **_: Any) -> CosimResult:
        lengths = perf._queue_lengths(perf.Subject(program, ExternalMemory(), image[0]), tasks[0], None)
        machine = Machine(program, tasks[0], ExternalMemory(), lengths)
        steps = [cycles for _, cycles in machine.single_steps()]
        steps[3] += slower
        machine.free()
        return CosimResult(Findings([Run(tasks[0], 0, machine.cycles, steps=steps)]), None)

    monkeypatch.setattr(perf, "simulate", stand_in)
    code, found = asked(capsys, program, "--input", images, "--validate", "--task", "0")
    assert code == (1 if slower else 0)
    wrong = [one for one in found["validation"] if not one["good"]]
    assert len(wrong) == (1 if slower else 0)
    names = {one["name"] for one in found["validation"]}
    assert names >= {"MATMUL", "LOAD", "POST", "FETCH", "free run"}
    assert all(one["predicted"] > 0 for one in found["validation"])
