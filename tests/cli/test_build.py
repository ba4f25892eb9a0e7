"""``hwattn build``: refusals before any work, what lies in the folder, and what is left of a failed build."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml

from hwattn.boards.board import Board
from hwattn.boards.flow import BuildResult, Stage, Usage
from hwattn.boards.nextpnr import Nextpnr
from hwattn.cli import build
from hwattn.cli.main import main
from hwattn.sim.cosim.verilator import environment, verilator_root, version
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import load_preset
from hwattn.spec.errors import FailedError
from hwattn.spec.program_file import load_program

BOARD = ["build", "--board", "ulx3s-85f"]


def forbidden(*arguments: object) -> Any:
    raise AssertionError("work was done")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a refusal comes too late."""
    for name in ("to_verilog", "simulate", "compile_model"):
        monkeypatch.setattr(build, name, forbidden)
    monkeypatch.setattr(Nextpnr, "build", forbidden)


REFUSALS = [
    (
        ["build", "--board", "icebreaker", "-o", "{tmp}/new"],
        "no board icebreaker; expected one of arty-a7-100t",
    ),
    (["build", "-o", "{tmp}/new"], "--board"),
    (BOARD, "-o/--output"),
    ([*BOARD, "-o", "{tmp}/file"], "file is a file; expected a new or empty folder"),
    ([*BOARD, "-o", "{tmp}/file", "--force"], "file is a file; expected a new or empty folder"),
    ([*BOARD, "-o", "{tmp}/file/below"], "file cannot be written to; expected a folder to make another in"),
    ([*BOARD, "-o", "{tmp}", "--force"], "holds other files than a build's"),
    ([*BOARD, "-o", "{tmp}/built"], "built holds an earlier build; expected a new or empty folder"),
    ([*BOARD, "-o", "{tmp}/kept"], "kept.failed holds other files than a build's"),
    ([*BOARD, "-o", "{tmp}/new", "--set", "rows=none"], "--set rows=none"),
    ([*BOARD, "-o", "{tmp}/new", "--set", "lanes=3"], "lanes=3; expected lanes of a power of two"),
    ([*BOARD, "-o", "{tmp}/new", "--stage", "netlist"], "--stage"),
    (
        ["build", "--board", "arty-a7-100t", "-o", "{tmp}/new", "--config", "sdram"],
        "the external memory of arty-a7-100t (",
    ),
    (
        [*BOARD, "-o", "{tmp}/new", "--config", "sdram", "--set", "external_words=8388609"],
        "external_words=8388609 of 4 bytes; expected up to 8388608: ulx3s-85f has 32 MiB",
    ),
    (
        [*BOARD, "-o", "{tmp}/new", "--config", "sdram", "--clock", "50"],
        "a clock of 50 MHz for a machine with SDRAM; expected 33.3 MHz or less",
    ),
    ([*BOARD, "-o", "{tmp}/new", "--config", "sdram", "--auto"], "--auto with external_words=1048576"),
    ([*BOARD, "-o", "{tmp}/new", "no-such-model"], "no-such-model"),
]


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(("arguments", "message"), REFUSALS)
def test_refusals(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    for name, entry in [("built", build.VERILOG), ("kept.failed", "notes.txt")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / entry).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert main([word.format(tmp=tmp_path) for word in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("no_work")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert main([*BOARD, "-o", str(closed / "new")]) == 2
    assert f"{closed} cannot be written to; expected a folder" in capsys.readouterr().err


@pytest.mark.usefixtures("no_work")
def test_a_machine_that_cannot_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BOARD, "-o", str(tmp_path / "new"), "--set", "weight_words=131072"]) == 1
    error = capsys.readouterr().err
    assert "at least 459 RAM, and ulx3s-85f has 208: 251 too many" in error
    assert "lower weight_words, program_words" in error
    assert list(tmp_path.iterdir()) == []


def _lint(verilog: Path) -> None:
    """Run Verilator's lint, if there is one here: no warning."""
    if version() is None:
        return
    tool = verilator_root() / "bin" / "verilator_bin"
    done = subprocess.run(
        [str(tool), "--lint-only", "--top-module", "hwattn", str(verilog)],
        env=os.environ | environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_board_too_small_for_the_model_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--board", "ulx3s-25f", "-o", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert "digits does not fit the machine of ulx3s-25f" in error
    assert "too small by" in error
    assert "or --empty for a machine without one" in error
    assert list(tmp_path.iterdir()) == []


def test_verilog_of_an_empty_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "out"
    settings = ["--config", "tiny", "--set", "weight_words=64"]
    arguments = [*BOARD, "--stage", "verilog", "--empty", "-o", str(target), *settings, "--json"]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["files"] == ["driver.json", "hwattn.core", "hwattn.v", "report.html", "report.json"]
    assert sorted(entry.name for entry in target.iterdir()) == document["files"]
    assert [entry.name for entry in target.parent.iterdir()] == ["out"]
    assert document["multipliers"] == 12
    assert document["fmax_mhz"] is document["latency_ms"] is document["program_hash"] is None
    assert "module hwattn(" in (target / "hwattn.v").read_text()
    core = yaml.safe_load((target / "hwattn.core").read_text().removeprefix("CAPI=2:"))
    assert core["filesets"]["rtl"]["files"] == ["hwattn.v"]
    assert core["targets"]["lint"]["toplevel"] == "hwattn"
    _lint(target / "hwattn.v")
    config = load_preset("tiny").replace(weight_words=64)
    driver = json.loads((target / "driver.json").read_text())
    assert driver["config"] == config.as_dict()
    assert driver["config_hash"] == f"{config.hash:08x}"
    assert (driver["baud"], driver["program"]) == (1_000_000, None)


@pytest.fixture
def quick_tools(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], None]:
    """Tools that take no time; call with what place and route ends with."""
    monkeypatch.setattr(build, "to_verilog", lambda machine, top: f"module {top}(); endmodule\n")
    monkeypatch.setattr(build, "SerialMachine", lambda *parameters: None)
    monkeypatch.setattr(build, "simulator_version", lambda simulator: None)

    def ends_with(error: Exception | None) -> None:
        def place_and_route(
            flow: Nextpnr,
            board: Board,
            machine: None,
            folder: Path,
            seed: int,
            progress: Callable[[str], None],
            tries: int,
            meanwhile: Callable[[], None],
        ) -> BuildResult:
            meanwhile()
            progress("place and route")
            (folder / "place_and_route.log").write_text("placing")
            if error is not None:
                raise error
            (folder / "hwattn.bit").write_bytes(b"bits")
            resources = {name: Usage(1, 2) for name in ("lut", "ff", "dsp", "ram")}
            return BuildResult(resources, 31.5, ["a", "b"], [Stage("nextpnr-ecp5", 1.0)])

        monkeypatch.setattr(Nextpnr, "build", place_and_route)

    return ends_with


def test_the_folder_of_a_model(
    quick_tools: Callable[[Exception | None], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick_tools(None)
    target = tmp_path / "out"
    assert main([*BOARD, "digits", "-o", str(target), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {"schema_version": 1, **json.loads((target / "report.json").read_text())}
    schema = json.loads((resources.files("hwattn.cli") / "schemas" / "build.json").read_text())
    jsonschema.validate(document, schema)
    assert document["stage"] == "bitstream"
    assert document["fmax_mhz"] == 31.5
    assert document["resources"]["dsp"] == {"used": 1, "available": 2}
    program = load_program(target / "program.hwp")
    assert document["program_hash"] == f"{program.hash:08x}"
    with np.load(target / "golden.npz") as golden:
        images = golden["image"]
        assert images.shape == (build.GOLDEN_IMAGES, *program.image.shape)
        for task in range(len(program.entries)):
            for name, integers in Executor(program).run(images, task).integers.items():
                assert np.array_equal(golden[name], integers)
    (target / "mine").write_text("")
    assert main([*BOARD, "digits", "-o", str(target), "--force"]) == 0
    assert sorted(entry.name for entry in target.iterdir()) == document["files"]
    assert "Fmax 31.5 MHz; it will run at 25 MHz." in capsys.readouterr().out


def test_a_failed_build_leaves_its_logs_beside_the_folder(
    quick_tools: Callable[[Exception | None], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, failed = tmp_path / "out", tmp_path / "out.failed"
    quick_tools(FailedError("it is 3 MHz short", "a design that meets its clock", "lower rows"))
    for _ in range(2):
        assert main([*BOARD, "--empty", "-o", str(target)]) == 1
        error = capsys.readouterr().err
        assert (
            f"it is 3 MHz short; expected a design that meets its clock; lower rows; logs are in {failed}"
            in error
        )
        assert [entry.name for entry in tmp_path.iterdir()] == ["out.failed"]
        assert (failed / "place_and_route.log").read_text() == "placing"
    quick_tools(None)
    assert main([*BOARD, "--empty", "-o", str(target)]) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_build_leaves_nothing(
    quick_tools: Callable[[Exception | None], None], tmp_path: Path
) -> None:
    quick_tools(KeyboardInterrupt())  # type: ignore[arg-type]
    assert main([*BOARD, "--empty", "-o", str(tmp_path / "out")]) == 130
    assert list(tmp_path.iterdir()) == []


VENDOR = ["build", "--board", "zcu102", "--empty", "--config", "tiny"]


@pytest.fixture
def quick_vendor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """An estimate that takes no time, and a Vivado on the PATH: call with the shell script that it is."""
    monkeypatch.setattr(build, "to_verilog", lambda machine, top: f"module {top}(); endmodule\n")
    monkeypatch.setattr(build.vivado, "AxiMachine", lambda *parameters: None)

    def quick(board: Board, folder: Path, core: str, result: BuildResult, progress: object) -> None:
        result.resources = {name: Usage(1, 2) for name in ("lut", "ff", "dsp", "ram")}

    monkeypatch.setattr(build, "estimate", quick)

    def install(script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "vivado").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "vivado").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return install


def test_a_vendor_project_is_ready_to_run_and_says_that_its_timing_is_unproven(
    quick_vendor: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*VENDOR, "-o", str(tmp_path / "out"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["stage"] == "project"
    assert document["fmax_mhz"] is None
    assert "timing is unproven" in document["timing_note"]
    assert document["resources"]["lut"] == {"used": 1, "available": 2}
    wanted = {"project.tcl", "hwattn_top.v", "hwattn.xdc", "component.xml", "run_pynq.py", "hwattn.dtsi"}
    assert wanted < set(document["files"])
    assert "timing is unproven" in (tmp_path / "out" / "report.html").read_text()


def test_vivado_on_the_path_is_run(
    quick_vendor: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick_vendor('test "$*" = "-mode batch -source project.tcl" && touch hwattn.bit')
    assert main([*VENDOR, "-o", str(tmp_path / "out"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["stage"] == "bitstream"
    assert "hwattn.bit" in document["files"]


def test_a_vivado_that_fails_is_a_failed_build(
    quick_vendor: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick_vendor("echo the clock is missed; exit 1")
    assert main([*VENDOR, "-o", str(tmp_path / "out")]) == 1
    assert "vivado ended with code 1" in capsys.readouterr().err
    assert "the clock is missed" in (tmp_path / "out.failed" / "vivado_run.log").read_text()


def test_auto_on_a_vendor_board_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*VENDOR, "--auto", "-o", str(tmp_path / "out")]) == 2
    assert "--auto for zcu102" in capsys.readouterr().err
