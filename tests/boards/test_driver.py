"""The host's driver against a machine in plain Python: programs, images, damaged lines, machines that are not what was expected."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import numpy as np
import pytest
from fake_machine import FakeMachine
from random_models import vit

from hwattn.boards.driver import SCAN_WORDS, Driver
from hwattn.boards.external_buffer import ExternalBuffer
from hwattn.boards.link_bus import TRIES, LinkBus
from hwattn.compiler import compile_model
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import FailedError, RefusedError
from hwattn.spec.program import Program
from hwattn.spec.registers import (
    COUNTERS,
    IDENTIFICATION,
    VERSION,
    ErrorCause,
    Region,
    Register,
    Status,
    address,
)
from hwattn.spec.stripes import Stripes
from hwattn.spec.transfer import program_blocks

CONFIG = AcceleratorConfig(rows=3, lanes=8, softmax_lanes=1, act_words=256)


def compiled(seed: int) -> Program:
    model = vit(seed, image=(1, 4, 4), dim=8, heads=2, hidden=8, blocks="m", experts=2, expert_hidden=8, k=1)
    return compile_model(model, CONFIG)


@pytest.fixture(scope="module")
def program() -> Program:
    return compiled(0)


@pytest.fixture(scope="module")
def images(program: Program) -> np.ndarray:
    return np.random.default_rng(3).normal(0, 0.8, (3, *program.image.shape)).astype(np.float32)


def test_runs_every_task_as_the_integer_model_does(program: Program, images: np.ndarray) -> None:
    driver = Driver(LinkBus(FakeMachine(program)), CONFIG)
    for task in range(len(program.entries)):
        expected = Executor(program).run(images, task)
        for number, image in enumerate(images):
            found = driver.run(program, image, task)
            assert found.integers.keys() == found.outputs.keys() == expected.integers.keys()
            for name, integers in expected.integers.items():
                assert np.array_equal(found.integers[name], integers[number])
                assert found.outputs[name].dtype == np.float32
                assert np.array_equal(found.outputs[name], expected.outputs[name][number])
            assert found.counters == {counter: counter * 1000 for counter in COUNTERS}


def test_loads_an_empty_machine_once(program: Program) -> None:
    machine = FakeMachine(program, preloaded=False)
    driver = Driver(LinkBus(machine), CONFIG)
    assert driver.identity.program_hash == 0
    driver.load(program)
    for block in program_blocks(program):
        base = address(block.region, block.first)
        assert [machine.units[base + index] for index in range(len(block.units))] == block.units.tolist()
    hash_register = address(Region.CSR, Register.PROGRAM_HASH)
    written = [target for target in machine.order if target != address(Region.CSR, Register.CONTROL)]
    assert written[0] == written[-1] == hash_register, "no hash while memories are half written"
    assert driver.identity.program_hash == program.hash
    frames = machine.frames
    driver.load(program)
    assert machine.frames == frames


@pytest.fixture(scope="module")
def outside() -> Program:
    """A program whose weights lie in external memory."""
    config = CONFIG.replace(acc_banks=4, row_slots=6, weight_words=512, external_words=1 << 16)
    return compile_model(vit(0, image=(1, 4, 4), dim=40, heads=2, hidden=160, blocks="dd"), config)


def test_weights_go_into_external_memory(outside: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeMachine(outside, preloaded=False)
    monkeypatch.setattr("fake_machine.WINDOW_UNITS", 256)
    monkeypatch.setattr("hwattn.spec.transfer.WINDOW_UNITS", 256)
    driver = Driver(LinkBus(machine), outside.config)
    driver.load(outside)
    units = outside.weights.reshape(-1).view("<u4").tolist()
    assert len(units) > 2 * 8 * SCAN_WORDS // 4, "more than one window and one scan"
    assert [machine.external[number] for number in range(len(units))] == units
    assert not any(target >> 28 == Region.WEIGHT for target in machine.order)
    assert driver.identity.program_hash == outside.hash
    image = np.random.default_rng(3).normal(0, 0.8, outside.image.shape).astype(np.float32)
    expected = Executor(outside).run(image[None], 0).integers
    for name, found in driver.run(outside, image, 0).integers.items():
        assert np.array_equal(found, expected[name][0])


def test_an_image_goes_into_external_memory() -> None:
    config = CONFIG.replace(
        act_banks=2, act_words=64, acc_banks=4, row_slots=6, weight_words=512, external_words=1 << 16
    )
    model = vit(0, image=(3, 12, 10), kernel=(3, 2), dim=8, heads=2, hidden=16, blocks="d", tasks=1)
    program = compile_model(model, config)
    assert program.image.external
    machine = FakeMachine(program, preloaded=False)
    driver = Driver(LinkBus(machine), program.config)
    driver.load(program)
    image = np.random.default_rng(3).normal(0, 0.8, program.image.shape).astype(np.float32)
    expected = Executor(program).run(image[None], 0).integers
    for name, found in driver.run(program, image, 0).integers.items():
        assert np.array_equal(found, expected[name][0])


def test_external_memory_that_forgets_is_an_error(outside: Program) -> None:
    machine = FakeMachine(outside, preloaded=False)

    class Forgetful(dict[int, int]):
        def __setitem__(self, number: int, unit: int) -> None:
            super().__setitem__(number, unit & ~1 if number == 2 * SCAN_WORDS + 1 else unit)

    machine.external = Forgetful()
    number = 2 * SCAN_WORDS + 1
    assert outside.weights.reshape(-1).view("<u4")[number] & 1
    driver = Driver(LinkBus(machine), outside.config)
    with pytest.raises(
        FailedError, match="words 1024 to 2047 of external memory have the CRC .* that of the program"
    ):
        driver.load(outside)
    assert machine.get(Register.PROGRAM_HASH) == 0


class StripedMachine(FakeMachine):
    """A machine whose external memory is a buffer of the host's: units are read where the stripes say."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.stripes = Stripes(program.config.lanes, 2, program.config.external_words)
        self.buffer = np.zeros(self.stripes.bytes, np.uint8)

    def external_unit(self, number: int) -> int:
        word, place = divmod(4 * number, self.stripes.lanes)
        part, rest = divmod(place, self.stripes.part_bytes)
        start = part * self.stripes.stripe_bytes + word * self.stripes.part_bytes + rest
        return int.from_bytes(self.buffer[start : start + 4].tobytes(), "little")


def test_weights_go_into_a_buffer_that_the_host_sees(outside: Program) -> None:
    """And a machine that used another one is told, and loaded again."""
    machine = StripedMachine(outside)
    buffer = ExternalBuffer(machine.stripes, 0x7000, machine.buffer)
    driver = Driver(LinkBus(machine), outside.config, buffer)
    assert machine.get(Register.EXTERNAL_PAGE) == 2 * 7
    assert machine.get(Register.PROGRAM_HASH) == driver.identity.program_hash == 0
    driver.load(outside)
    units = outside.weights.reshape(-1).view("<u4").tolist()
    assert [machine.external_unit(number) for number in range(len(units))] == units
    assert not any(target >> 28 == Region.EXTERNAL for target in machine.order)
    assert driver.identity.program_hash == outside.hash
    assert Driver(LinkBus(machine), outside.config, buffer).identity.program_hash == outside.hash
    with pytest.raises(
        RefusedError, match=r"a buffer of 4,096 bytes; expected 524,288 bytes for 65,536 words"
    ):
        ExternalBuffer(machine.stripes, 0, machine.buffer[:4096])


def dropped(frame: bytes, at: int) -> bytes:
    return frame[:at] + frame[at + 1 :]


def flipped(frame: bytes, at: int) -> bytes:
    return frame[:at] + bytes([frame[at] ^ 0x10]) + frame[at + 1 :]


def doubled(frame: bytes, at: int) -> bytes:
    return frame[: at + 1] + frame[at:]


@pytest.mark.parametrize("damage", [dropped, flipped, doubled])
@pytest.mark.parametrize("direction", ["to_machine", "to_host"])
def test_a_damaged_line_changes_nothing(
    program: Program, images: np.ndarray, damage: Callable[[bytes, int], bytes], direction: str
) -> None:
    rng = random.Random(5)

    def line(frame: bytes) -> bytes:
        return damage(frame, rng.randrange(len(frame))) if rng.random() < 0.15 else frame

    machine = FakeMachine(program, preloaded=False, **{direction: line})
    driver = Driver(LinkBus(machine), CONFIG)
    driver.load(program)
    result = driver.run(program, images[0], 0)
    expected = Executor(program).run(images[:1], 0).integers
    assert all(np.array_equal(result.integers[name], expected[name][0]) for name in expected)


def test_an_unanswered_write_is_done_once(program: Program) -> None:
    lost = []

    def line(answer: bytes) -> bytes:
        lost.append(answer)
        return b"" if len(lost) % TRIES else answer

    machine = FakeMachine(program)
    driver = Driver(LinkBus(machine), CONFIG)
    driver.write(address(Region.CSR, Register.CONTROL), [0])
    machine.to_host, machine.order = line, []
    targets = [address(Region.ACT, unit) for unit in range(150)]
    driver.write(targets[0], range(150))
    assert machine.order == targets
    assert driver.read(targets[0], 150) == list(range(150))


@pytest.mark.parametrize("reads", [254, 255, 256])
def test_no_number_of_reads_makes_a_write_look_repeated(program: Program, reads: int) -> None:
    machine = FakeMachine(program)
    driver = Driver(LinkBus(machine), CONFIG)
    target = address(Region.ACT, 0)
    driver.write(target, [1])
    for _ in range(reads):
        driver.read(target, 1)
    driver.write(target, [2])
    assert driver.read(target, 1) == [2]


def test_the_last_write_of_an_earlier_host_hides_none(program: Program) -> None:
    machine = FakeMachine(program)
    target = address(Region.ACT, 0)
    for number in range(256):
        machine.last_write = number
        Driver(LinkBus(machine), CONFIG).write(target, [number])
        assert machine.units[target] == number


def test_gives_up_on_a_dead_line(program: Program) -> None:
    machine = FakeMachine(program, to_machine=lambda frame: b"")
    with pytest.raises(FailedError, match=f"no good answer after {TRIES} tries; .* check the port"):
        Driver(LinkBus(machine), CONFIG)
    assert machine.frames == TRIES


def test_refuses_another_machine(program: Program) -> None:
    for register, value, message in [
        (Register.IDENTIFICATION, 0x1234, f"identification 00001234, version {VERSION}; expected"),
        (Register.VERSION, 99, f"identification {IDENTIFICATION:08x}, version 99; expected"),
        (Register.CONFIG_HASH, 0xABC, "a machine of configuration 00000abc; expected .*3 rows, 8 lanes"),
    ]:
        machine = FakeMachine(program)
        machine.set(register, value)
        with pytest.raises(RefusedError, match=message):
            Driver(LinkBus(machine), CONFIG)
        assert machine.order == []


def test_refuses_another_program(program: Program, images: np.ndarray) -> None:
    driver = Driver(LinkBus(FakeMachine(program)), CONFIG)
    other = compiled(1)
    with pytest.raises(RefusedError, match=f"holds program {program.hash:08x}; expected program"):
        driver.run(other, images[0], 0)
    foreign = dataclasses.replace(program, config=CONFIG.replace(rows=4))
    for call in (lambda: driver.load(foreign), lambda: driver.run(foreign, images[0], 0)):
        with pytest.raises(RefusedError, match="compile the model for this machine"):
            call()


def test_a_hash_that_does_not_stay(program: Program) -> None:
    machine = FakeMachine(program, preloaded=False)
    driver = Driver(LinkBus(machine), CONFIG)
    known = machine.units

    class Forgetful(dict[int, int]):
        def __setitem__(self, target: int, unit: int) -> None:
            if target != address(Region.CSR, Register.PROGRAM_HASH):
                super().__setitem__(target, unit)

    machine.units = Forgetful(known)
    with pytest.raises(FailedError, match="the program hash did not arrive"):
        driver.load(program)


def test_a_machine_error_is_a_sentence(program: Program, images: np.ndarray) -> None:
    machine = FakeMachine(program)
    machine.ends_with, machine.error = Status.ERROR, (ErrorCause.UNKNOWN_INSTRUCTION, 17)
    with pytest.raises(FailedError, match="stopped at instruction 17: unknown instruction; expected"):
        Driver(LinkBus(machine), CONFIG).run(program, images[0], 0)


def test_a_machine_that_does_not_stop_is_reset(program: Program, images: np.ndarray) -> None:
    machine = FakeMachine(program)
    machine.ends_with = Status.RUNNING
    with pytest.raises(FailedError, match=r"has not stopped after 0\.01 s"):
        Driver(LinkBus(machine), CONFIG).run(program, images[0], 0, seconds=0.01)
    assert machine.get(Register.STATUS) == 0
