"""The whole machine behind AXI4-Lite in co-simulation: the host's driver loads it over the bus, and every task's outputs are the model's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from random_models import vit

from hwattn.compiler import compile_model
from hwattn.rtl.axi_system import AxiMachine
from hwattn.rtl.verilog import to_verilog
from hwattn.sim.cosim import runner
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.program_file import save_program

pytest.importorskip("cocotbext.axi")

CONFIG = AcceleratorConfig(
    rows=2,
    lanes=4,
    post_lanes=1,
    softmax_lanes=1,
    norm_lanes=1,
    act_words=32,
    weight_words=1024,
    param_words=256,
    norm_words=64,
    program_words=256,
    acc_columns=32,
    row_words=4,
    experts=2,
    tokens=16,
)


EXTERNAL = CONFIG.replace(lanes=8, weight_words=128, acc_banks=4, row_slots=6, external_words=1 << 10)


@pytest.mark.parametrize(("config", "ports"), [(CONFIG, 1), (EXTERNAL, 2)], ids=["on-chip", "external"])
def test_an_empty_machine_is_loaded_over_axi_and_runs_every_task(
    config: AcceleratorConfig, ports: int, tmp_path: Path
) -> None:
    model = vit(image=(1, 4, 4), dim=8, heads=2, hidden=8, blocks="m", experts=2, expert_hidden=8, k=1)
    program = compile_model(model, config)
    images = np.random.default_rng(1).normal(0, 0.8, (1, *model.image_shape)).astype(np.float32)
    save_program(program, tmp_path / "program.hwp")
    np.save(tmp_path / "images.npy", images, allow_pickle=False)
    built = runner.build(to_verilog(AxiMachine(config, ports=ports), "hwattn"), "hwattn")
    runner.run(
        built,
        "tb_axi",
        tmp_path / "run",
        environment={"HWATTN_AXI_FOLDER": str(tmp_path), "HWATTN_AXI_PORTS": str(ports)},
        python_path=[Path(__file__).parent],
    )
    with np.load(tmp_path / "found.npz") as found:
        for task in range(len(program.entries)):
            for name, integers in Executor(program).run(images, task).integers.items():
                assert np.array_equal(found[name], integers)
