"""``hwattn run --device``: the same outputs from a machine on a serial port, behind UIO and in a simulator as from the model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "boards"))

from fake_machine import FakeMachine
from port import on_a_port

from hwattn.boards.board import find_board
from hwattn.cli import device
from hwattn.cli.main import main
from hwattn.cli.models import resolve_model
from hwattn.compiler import compile_model
from hwattn.sim.cosim.job import Findings, Run
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import load_preset
from hwattn.spec.errors import RefusedError
from hwattn.spec.program import Program
from hwattn.spec.registers import Register

IMAGES = ["--images", "2"]


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_model(resolve_model("digits", None).model, load_preset("digits"))


def outputs(arguments: list[str], folder: Path, name: str) -> dict[str, np.ndarray]:
    assert main(["run", "digits", *IMAGES, "-o", str(folder / name), *arguments]) == 0
    with np.load(folder / name) as arrays:
        return dict(arrays)


def test_a_machine_on_a_serial_port(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = outputs(["--config", "digits"], tmp_path, "model.npz")
    capsys.readouterr()
    with on_a_port(FakeMachine(program)) as port:
        found = outputs(["--device", port, "--board", "ulx3s-85f", "--json"], tmp_path, "device.npz")
    document = json.loads(capsys.readouterr().out)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert document["device"] == port
    assert document["cycles"] == {name: [Register.CYCLES * 1000] * 2 for name in expected}


def test_a_machine_in_a_simulator(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drive(driven: Program, images: np.ndarray, tasks: range) -> Findings:
        assert driven.hash == program.hash
        findings = Findings()
        for task in tasks:
            integers = Executor(driven).run(images, task).integers
            for number in range(len(images)):
                values = {name: array[number].tolist() for name, array in integers.items()}
                findings.runs.append(Run(task, number, 7, {}, 0, values))
        return findings

    monkeypatch.setattr(device, "drive_over_pins", drive)
    expected = outputs(["--config", "digits"], tmp_path, "model.npz")
    found = outputs(["--device", "sim"], tmp_path, "device.npz")
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_the_buffer_is_where_the_device_tree_says_or_the_caller() -> None:
    board, config = find_board("zcu102"), load_preset("m3vit-tiny")
    assert board.processor_memory is not None
    buffer = device.external_buffer(board, config, None)
    assert buffer is not None
    assert (buffer.address, buffer.memory) == (board.processor_memory.address, None)
    assert buffer.page == 4 * board.processor_memory.address // 4096
    moved = device.external_buffer(board, config, 0x5000_0000)
    assert moved is not None
    assert moved.page == 4 * 0x5000_0000 // 4096
    with pytest.raises(RefusedError, match="a buffer at 0x50000010"):
        device.external_buffer(board, config, 0x5000_0010)
    assert device.external_buffer(board, load_preset("digits"), None) is None
    assert device.external_buffer(find_board("ulx3s-85f"), load_preset("sdram"), None) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/dev/no-such-port", "the serial port /dev/no-such-port cannot be opened"),
        ("/dev/uio99", "/dev/uio99 cannot be mapped"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "digits", *IMAGES, "-o", str(tmp_path / "y.npz"), "--device", name]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
