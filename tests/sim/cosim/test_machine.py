"""The whole machine running small two-task mixture-of-experts models: every instruction equals the model's, and faults are found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from random_models import vit

from hwattn.compiler import compile_model
from hwattn.rtl.multipliers import MultiplierStyle
from hwattn.rtl.queue import machine_queues
from hwattn.sim.cosim import session
from hwattn.sim.cosim.session import CosimResult, simulate
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.encoding import disassemble
from hwattn.spec.errors import FailedError, RefusedError
from hwattn.spec.isa import Halt, Matmul, Queue
from hwattn.spec.program import Program
from hwattn.spec.registers import Register

MEMORIES = {
    "act_words": 64,
    "weight_words": 2048,
    "param_words": 512,
    "norm_words": 128,
    "program_words": 512,
}
SMALL = {"acc_columns": 32, "row_words": 4, "experts": 4, "tokens": 16}

TINY = AcceleratorConfig(
    rows=3, lanes=4, post_lanes=1, softmax_lanes=1, norm_lanes=1, **{**MEMORIES, "act_words": 32}, **SMALL
)
ODD = AcceleratorConfig(
    rows=5, lanes=8, post_lanes=2, softmax_lanes=3, norm_lanes=4, **{**MEMORIES, "act_words": 128}, **SMALL
)

Images = NDArray[np.float32]


def compiled(config: AcceleratorConfig, images: int, **shape: Any) -> tuple[Program, Images]:
    """A program with a dense block and a mixture, and images for it."""
    model = vit(**shape)
    rng = np.random.default_rng(1)
    return compile_model(model, config), rng.normal(0, 0.8, (images, *model.image_shape)).astype(np.float32)


def tiny(images: int) -> tuple[Program, Images]:
    return compiled(
        TINY, images, image=(1, 4, 4), dim=12, heads=2, hidden=16, experts=3, expert_hidden=8, blocks="dm"
    )


def odd(images: int) -> tuple[Program, Images]:
    return compiled(
        ODD,
        images,
        image=(1, 6, 6),
        dim=20,
        heads=2,
        hidden=24,
        experts=4,
        expert_hidden=12,
        blocks="dm",
        p_bits=16,
        bits=16,
    )


def length(program: Program, task: int) -> int:
    """Instructions of a task, without its Halt."""
    rest = program.instructions[program.entries[task] :]
    return next(number for number, instruction in enumerate(rest) if isinstance(instruction, Halt))


def assert_exact(
    program: Program, images: Images, result: CosimResult, tasks: Sequence[int] = (0, 1)
) -> None:
    """No differences, the outputs of the model, and counters that fit together."""
    assert not result.findings.mismatches
    assert result.bit_exact
    assert [(run.task, run.image) for run in result.findings.runs] == [
        (task, image) for task in tasks for image in range(len(images))
    ]
    executor = Executor(program)
    for run in result.findings.runs:
        expected = executor.run(images[run.image : run.image + 1], run.task).integers
        assert run.outputs == {name: integers[0].tolist() for name, integers in expected.items()}
        instructions = length(program, run.task)
        assert run.compared == len(run.steps) == instructions
        counters = run.counters
        assert counters[Register.ISSUED] == instructions
        assert counters[Register.SKIPPED] < instructions
        assert counters[Register.CYCLES] == run.cycles
        macs = program.macs[run.task] / program.config.multipliers
        busy = counters[Register.BUSY + Queue.MATRIX]
        assert macs <= counters[Register.MATRIX_ACTIVE] <= busy <= run.cycles
        for queue in machine_queues(program.config):
            assert 0 < counters[Register.BUSY + queue] <= run.cycles - counters[Register.WAITING + queue]
    assert result.findings.simulated_cycles > sum(run.cycles for run in result.findings.runs)


def test_every_instruction_of_both_tasks() -> None:
    program, images = tiny(2)
    assert_exact(program, images, simulate(program, images, [0, 1], over_bus=True))


def test_read_back_word_by_word_running_free_too() -> None:
    program, images = tiny(1)
    result = simulate(program, images, [1], readback=1)
    assert result.bit_exact
    assert [run.compared for run in result.findings.runs] == [length(program, 1)]
    free = simulate(program, images, [1], stepped=0).findings.runs[0]
    assert dataclasses.replace(result.findings.runs[0], compared=0, steps=[]) == free


def test_machine_of_odd_sizes() -> None:
    program, images = odd(2)
    assert_exact(program, images, simulate(program, images, [0, 1], whole=0))


def test_machine_without_a_router_and_with_single_instructions_waiting() -> None:
    config = TINY.replace(experts=0, queue_depth=1)
    program, images = compiled(
        config, 2, image=(1, 4, 4), dim=12, heads=2, hidden=16, experts=3, expert_hidden=8, blocks="dd"
    )
    assert_exact(program, images, simulate(program, images, [0, 1], whole=0))
    with pytest.raises(RefusedError, match="3 experts"):
        compiled(config, 1, image=(1, 4, 4), dim=12, heads=2, hidden=16, experts=3, expert_hidden=8)


def test_packed_multipliers_change_neither_results_nor_counters() -> None:
    program, images = tiny(1)
    packed = simulate(program, images, [0, 1], multiplier_style=MultiplierStyle.PACKED, whole=0)
    assert_exact(program, images, packed)
    single = simulate(program, images, [0, 1], stepped=0)
    running_free = [dataclasses.replace(run, compared=0, steps=[]) for run in packed.findings.runs]
    assert running_free == single.findings.runs


@pytest.mark.icarus
def test_icarus() -> None:
    program, images = tiny(1)
    assert_exact(program, images, simulate(program, images, [1], "icarus", whole=0), [1])


def test_a_reset_run_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    program, images = tiny(5)
    expected = simulate(program, images, [0, 1], stepped=0)
    monkeypatch.setattr(session, "TESTBENCH", "tb_reset")
    result = simulate(program, images, [0, 1], stepped=0)
    assert result.bit_exact
    assert result.findings.runs == expected.findings.runs, "the same outputs and counters, to the cycle"
    assert result.findings.simulated_cycles > expected.findings.simulated_cycles


def test_a_wrong_weight_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    program, images = tiny(1)
    monkeypatch.setattr(session, "TESTBENCH", "tb_wrong_weight")
    result = simulate(program, images, [0], over_bus=True)
    assert not result.bit_exact
    stepping, free = result.findings.mismatches
    # the first weights are the tokens' initial values, which the first instruction copies
    assert (stepping.instruction, result.findings.runs[0].compared) == (program.entries[0], 0)
    assert stepping.text == disassemble(program.instructions[stepping.instruction])
    assert stepping.word is not None
    differing = int(stepping.expected, 16) ^ int(stepping.found, 16)
    assert differing == 0x80 << 8 * (TINY.lanes - 1)
    assert free.instruction is None
    assert free.text == "the end of the free run"


@pytest.mark.parametrize("stepped", [0, 1])
def test_a_hang_names_the_instruction_and_the_queue(stepped: int) -> None:
    program, images = tiny(1)
    instructions = list(program.instructions)
    number = next(index for index, each in enumerate(instructions) if isinstance(each, Matmul) and each.pop)
    instructions[number] = dataclasses.replace(instructions[number], pop=1 << Queue.NORM)
    hanging = dataclasses.replace(program, instructions=tuple(instructions))
    with pytest.raises(FailedError, match="the simulated machine hung") as raised:
        simulate(hanging, images, [0], stepped=stepped)
    line = disassemble(instructions[number])
    assert f"queue MATRIX: instruction {number} ({line}) waits for a token" in str(raised.value)
