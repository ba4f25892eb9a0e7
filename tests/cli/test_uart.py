"""The host's driver over the simulated UART pins of a machine, empty or not: it loads the program, and every task's outputs are the model's.

With external memory the weights go the same way into a chip of SDRAM or DDR3, which stops the simulation at the first command that breaks a rule.
"""

from __future__ import annotations

import numpy as np
import pytest
from random_models import vit

from hwattn.cli.uart import drive_over_pins
from hwattn.compiler import compile_model
from hwattn.sim.cosim.ddr3 import SMALL_AT_25_MHZ
from hwattn.sim.cosim.sdram import ULX3S_AT_25_MHZ
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.dram import DramTiming
from hwattn.spec.registers import COUNTERS, Register

# the machine of tests/sim/cosim/test_machine.py, so that it is built once
CONFIG = AcceleratorConfig(
    rows=3,
    lanes=4,
    post_lanes=1,
    softmax_lanes=1,
    norm_lanes=1,
    act_words=32,
    weight_words=2048,
    param_words=512,
    norm_words=128,
    program_words=512,
    acc_columns=32,
    row_words=4,
    experts=4,
    tokens=16,
)


SDRAM_CONFIG = CONFIG.replace(weight_words=192, row_words=8, row_slots=6, external_words=1 << 14)


@pytest.mark.parametrize(
    ("config", "noise", "preloaded", "chip"),
    [
        (CONFIG, 0.0, False, ULX3S_AT_25_MHZ),
        (CONFIG, 0.1, False, ULX3S_AT_25_MHZ),
        (SDRAM_CONFIG, 0.0, False, ULX3S_AT_25_MHZ),
        (SDRAM_CONFIG, 0.0, True, ULX3S_AT_25_MHZ),
        # a build of its own: `make bench`
        pytest.param(SDRAM_CONFIG, 0.0, True, SMALL_AT_25_MHZ, marks=pytest.mark.slow),
    ],
    ids=["clean", "noisy", "sdram", "sdram-preloaded", "ddr3-preloaded"],
)
def test_a_machine_is_loaded_and_runs_every_task(
    config: AcceleratorConfig, noise: float, preloaded: bool, chip: DramTiming
) -> None:
    model = vit(image=(1, 4, 4), dim=12, heads=2, hidden=16, experts=3, expert_hidden=8, blocks="dm")
    program = compile_model(model, config)
    images = np.random.default_rng(1).normal(0, 0.8, (2, *model.image_shape)).astype(np.float32)
    if noise:
        images = images[:1]
    tasks = range(len(program.entries))
    findings = drive_over_pins(program, images, tasks, preloaded=preloaded, noise=noise, sdram=chip)
    assert [(run.task, run.image) for run in findings.runs] == [
        (task, image) for task in tasks for image in range(len(images))
    ]
    expected = {task: Executor(program).run(images, task).integers for task in tasks}
    for run in findings.runs:
        assert run.outputs.keys() == expected[run.task].keys()
        for name, integers in run.outputs.items():
            assert np.array_equal(np.array(integers), expected[run.task][name][run.image])
        assert run.counters.keys() == set(COUNTERS)
        assert run.counters[Register.CYCLES] == run.cycles > 0
        assert (run.counters[Register.READ_BEATS] > 0) == bool(config.external_words)
    assert findings.simulated_cycles > sum(run.cycles for run in findings.runs)
