"""The driver over a window in memory: the same runs as over the link, and a file mapped as a UIO device is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_machine import FakeMachine
from random_models import vit

from hwattn.boards.driver import Driver
from hwattn.boards.mapped_bus import MappedBus, open_uio
from hwattn.compiler import compile_model
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import RefusedError
from hwattn.spec.registers import (
    AXI_ADDRESS,
    AXI_BYTES,
    AXI_CSR_BYTES,
    AXI_DATA,
    IDENTIFICATION,
    Region,
    Register,
    address,
)

CONFIG = AcceleratorConfig(rows=3, lanes=8, softmax_lanes=1, act_words=256)


class FakeWindow:
    """What rtl/axi_lite.py shows of a machine, word by word."""

    def __init__(self, machine: FakeMachine) -> None:
        self.machine = machine
        self.address = 0

    def __getitem__(self, index: int) -> int:
        return self.machine.units.get(self._unit(4 * index), 0)

    def __setitem__(self, index: int, value: int) -> None:
        if 4 * index == AXI_ADDRESS:
            self.address = value
        else:
            self.machine._write(self._unit(4 * index), value)

    def _unit(self, offset: int) -> int:
        if offset < AXI_CSR_BYTES:
            return address(Region.CSR, offset // 4)
        assert offset == AXI_DATA
        self.address += 1
        return self.address - 1


def test_loads_and_runs_every_task_as_the_integer_model_does() -> None:
    model = vit(0, image=(1, 4, 4), dim=8, heads=2, hidden=8, blocks="m", experts=2, expert_hidden=8, k=1)
    program = compile_model(model, CONFIG)
    image = np.random.default_rng(3).normal(0, 0.8, program.image.shape).astype(np.float32)
    driver = Driver(MappedBus(FakeWindow(FakeMachine(program, preloaded=False))), CONFIG)
    driver.load(program)
    for task in range(len(program.entries)):
        expected = Executor(program).run(image[None], task).integers
        found = driver.run(program, image, task).integers
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name][0]) for name in expected)


def test_another_machine_is_refused_before_anything_is_written() -> None:
    model = vit(0, image=(1, 4, 4), dim=8, heads=2, hidden=8, blocks="d")
    machine = FakeMachine(compile_model(model, CONFIG))
    with pytest.raises(RefusedError, match="a machine of configuration"):
        Driver(MappedBus(FakeWindow(machine)), CONFIG.replace(rows=4))
    assert machine.order == []


def test_a_file_is_mapped_word_by_word(tmp_path: Path) -> None:
    device = tmp_path / "uio0"
    device.write_bytes(bytes(AXI_BYTES))
    with open_uio(device) as bus:
        bus.write(Register.IDENTIFICATION, [IDENTIFICATION, 7])
        assert bus.read(Register.IDENTIFICATION, 2) == [IDENTIFICATION, 7]
        bus.write(address(Region.ACT, 5), [9])
    words = np.frombuffer(device.read_bytes(), "<u4")
    assert words[:2].tolist() == [IDENTIFICATION, 7]
    assert words[AXI_ADDRESS // 4] == address(Region.ACT, 5)
    assert words[AXI_DATA // 4] == 9


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="uio7 cannot be mapped"), open_uio(tmp_path / "uio7"):
        pass
