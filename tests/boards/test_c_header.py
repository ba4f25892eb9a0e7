"""boards/include/hwattn.h: compiled strictly, and driving a machine in plain Python over a pseudo-terminal, whose line may be damaged."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fake_machine import FakeMachine, Line, clean
from port import on_a_port
from random_models import vit

import hwattn.boards
from hwattn.compiler import compile_model
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.program import Program
from hwattn.spec.registers import COUNTERS, ErrorCause, Register, Status
from hwattn.spec.transfer import image_block, output_integers, output_words

CONFIG = AcceleratorConfig(rows=3, lanes=8, softmax_lanes=1, act_words=256)
OK, NO_ANSWER, NOT_A_MACHINE, OTHER_CONFIG, MACHINE_ERROR, HUNG = range(6)

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("host") / "host"
    include = Path(hwattn.boards.__path__[0]) / "include"
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror", "-O1"]
    source = Path(__file__).parent / "host.c"
    subprocess.run(["gcc", *flags, f"-I{include}", str(source), "-o", str(target)], check=True)
    return target


@pytest.fixture(scope="module")
def program() -> Program:
    model = vit(0, image=(1, 4, 4), dim=8, heads=2, hidden=8, blocks="m", experts=2, expert_hidden=8, k=1)
    return compile_model(model, CONFIG)


def drive(
    host: Path, machine: FakeMachine, program: Program, image: np.ndarray, task: int, config_hash: int
) -> tuple[list[str], list[int]]:
    """Run one image; return the first line of what the C program prints, and the output's units."""
    (port,) = [port for port in program.outputs if port.task == task]
    first, words = output_words(port, CONFIG.lanes)
    block = image_block(program.image, image)
    numbers = [program.entries[task], block.first, first * CONFIG.lanes // 4, words * CONFIG.lanes // 4]
    with on_a_port(machine) as name:
        done = subprocess.run(
            [str(host), name, f"{config_hash:08x}", *map(str, numbers)],
            input="\n".join(map(str, block.units.tolist())),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    head, *rest = done.stdout.splitlines()
    return head.split(), [int(line) for line in rest]


def noisy(seed: int) -> Line:
    """A line that drops, doubles or flips a byte of one frame in ten."""
    rng = random.Random(seed)

    def line(frame: bytes) -> bytes:
        at = rng.randrange(len(frame))
        if rng.random() > 0.1:
            return frame
        kind = rng.choice(["drop", "double", "flip"])
        middle = {"drop": b"", "double": frame[at : at + 1] * 2, "flip": bytes([frame[at] ^ 0x20])}[kind]
        return frame[:at] + middle + frame[at + 1 :]

    return line


@pytest.mark.parametrize("line", [clean, noisy(1)], ids=["clean", "noisy"])
def test_runs_every_task_as_the_integer_model_does(host: Path, program: Program, line: Line) -> None:
    image = np.random.default_rng(3).normal(0, 0.8, program.image.shape).astype(np.float32)
    for task in range(len(program.entries)):
        head, units = drive(
            host, FakeMachine(program, to_machine=line, to_host=line), program, image, task, CONFIG.hash
        )
        assert head[:3] == [str(OK), str(COUNTERS.start * 1000), f"{CONFIG.hash:08x}"]
        words = np.array(units, "<u4").view(np.uint8).reshape(-1, CONFIG.lanes)
        (port,) = [port for port in program.outputs if port.task == task]
        expected = Executor(program).run(image[None], task).integers[port.name][0]
        assert np.array_equal(output_integers(port, words), expected)


def test_refuses_and_reports(host: Path, program: Program) -> None:
    image = np.zeros(program.image.shape, np.float32)
    machine = FakeMachine(program)
    head, _ = drive(host, machine, program, image, 0, CONFIG.hash ^ 1)
    assert int(head[0]) == OTHER_CONFIG
    assert machine.order == [], "nothing is written to a machine of another configuration"
    machine.set(Register.VERSION, 99)
    assert int(drive(host, machine, program, image, 0, CONFIG.hash)[0][0]) == NOT_A_MACHINE
    dead = FakeMachine(program, to_machine=lambda frame: b"")
    assert int(drive(host, dead, program, image, 0, CONFIG.hash)[0][0]) == NO_ANSWER
    stopped = FakeMachine(program)
    stopped.ends_with, stopped.error = Status.ERROR, (ErrorCause.END_OF_PROGRAM, 17)
    head, _ = drive(host, stopped, program, image, 0, CONFIG.hash)
    assert [int(head[0]), int(head[3]), int(head[4])] == [MACHINE_ERROR, ErrorCause.END_OF_PROGRAM, 17]
    hung = FakeMachine(program)
    hung.ends_with = Status.RUNNING
    assert int(drive(host, hung, program, image, 0, CONFIG.hash)[0][0]) == HUNG
