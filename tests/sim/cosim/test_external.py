"""Machines with external memory: whole programs with slow, stalling and failing memories, and activations that do not fit on chip."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from random_models import vit

from hwattn.compiler import compile_model
from hwattn.rtl.system import SerialMachine
from hwattn.rtl.verilog import to_verilog
from hwattn.sim.cosim import session
from hwattn.sim.cosim.job import Fault
from hwattn.sim.cosim.session import simulate
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import FailedError
from hwattn.spec.external import ExternalMemory
from hwattn.spec.isa import Fetch, Store
from hwattn.spec.program import Program
from hwattn.spec.registers import ErrorCause, Register

CONFIG = AcceleratorConfig(
    rows=3,
    lanes=4,
    post_lanes=2,
    softmax_lanes=3,
    norm_lanes=2,
    act_banks=2,
    act_words=128,
    weight_words=192,
    param_words=512,
    norm_words=128,
    program_words=2048,
    acc_banks=4,
    acc_columns=32,
    row_words=8,
    row_slots=6,
    experts=4,
    tokens=16,
    external_words=1 << 14,
)

Images = NDArray[np.float32]


def mixture(**changes: int) -> tuple[Program, Images]:
    """Two tasks over a dense block and a mixture whose weights pass a buffer that holds a few of them."""
    model = vit(image=(1, 4, 4), dim=12, heads=2, hidden=16, experts=4, expert_hidden=8, blocks="dm")
    program = compile_model(model, CONFIG.replace(**changes))
    return program, np.random.default_rng(2).normal(0, 0.8, (1, 1, 4, 4)).astype(np.float32)


def spilled(**shape: Any) -> tuple[Program, Images]:
    """Activations of 65 tokens in a memory that holds far fewer, keys in several blocks."""
    model = vit(image=(1, 16, 16), dim=8, heads=2, hidden=24, blocks="d", tasks=1, **shape)
    program = compile_model(model, CONFIG.replace(act_words=128, act_banks=2))
    assert program.scratch_words > program.config.act_total_words
    return program, np.random.default_rng(3).normal(0, 0.8, (1, 1, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def small() -> tuple[Program, Images]:
    return mixture()


def test_every_instruction_and_running_free(small: tuple[Program, Images]) -> None:
    program, images = small
    result = simulate(program, images, [0, 1])
    assert result.bit_exact
    for run in result.findings.runs:
        fetched = sum(
            one.words * one.runs
            for one in program.instructions[program.entries[run.task] :]
            if isinstance(one, Fetch)
        )
        assert 0 < run.counters[Register.READ_BEATS] <= fetched
        assert run.compared > 0


@pytest.mark.parametrize(
    "memory",
    [
        ExternalMemory(latency=1),
        ExternalMemory(latency=300, beats=1, cycles=3),
        ExternalMemory(latency=17, stall=140),
    ],
    ids=["fast", "slow", "stalling"],
)
def test_the_speed_of_memory_changes_no_bit(small: tuple[Program, Images], memory: ExternalMemory) -> None:
    program, images = small
    result = simulate(program, images, [0, 1], stepped=0, memory=memory)
    assert result.bit_exact
    outputs = Executor(program).run(images, 1).integers
    assert result.findings.runs[1].outputs == {name: value[0].tolist() for name, value in outputs.items()}


def test_a_reset_run_leaves_nothing_behind(
    small: tuple[Program, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, images = small
    monkeypatch.setattr(session, "TESTBENCH", "tb_reset")
    several = np.concatenate([images] * 6)
    result = simulate(program, several, [0, 1], stepped=0, memory=ExternalMemory(latency=40, stall=60))
    assert result.bit_exact
    assert len(result.findings.runs) == 12


def test_memory_that_is_slower_costs_cycles(small: tuple[Program, Images]) -> None:
    program, images = small
    fast, slow = (
        simulate(program, images, [0], stepped=0, memory=ExternalMemory(latency=10, beats=1, cycles=cycles))
        for cycles in (1, 8)
    )
    assert slow.findings.runs[0].cycles > 1.5 * fast.findings.runs[0].cycles


@pytest.mark.parametrize("after", [0, 57, 600])
@pytest.mark.parametrize(
    ("kind", "cause"), [("read", ErrorCause.BUS_READ), ("silence", ErrorCause.BUS_TIMEOUT)]
)
def test_faults_stop_the_machine_with_their_cause(
    small: tuple[Program, Images], kind: Any, cause: ErrorCause, after: int
) -> None:
    program, images = small
    memory = ExternalMemory(latency=20, stall=60)
    result = simulate(program, images, [0], stepped=0, memory=memory, fault=Fault(kind, after))
    assert [run.error for run in result.findings.runs] == [cause.name]
    assert not result.bit_exact


def test_a_machine_that_stops_unasked_is_a_failure(
    small: tuple[Program, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, images = small
    save = session.Job.save

    def save_with_fault(job: session.Job, path: Path) -> None:
        save(dataclasses.replace(job, fault=Fault("read", 57)), path)

    monkeypatch.setattr(session.Job, "save", save_with_fault)
    with pytest.raises(FailedError, match="stopped with BUS_READ in task 0, image 0"):
        simulate(program, images, [0], stepped=0)


def test_a_fault_of_a_write_stops_the_machine_with_its_cause() -> None:
    program, images = spilled()
    assert any(isinstance(one, Store) for one in program.instructions)
    result = simulate(program, images, [0], stepped=0, fault=Fault("write", 40))
    assert [run.error for run in result.findings.runs] == [ErrorCause.BUS_WRITE.name]


@pytest.mark.parametrize("p_bits", [8, 16])
def test_activations_in_external_memory(p_bits: int) -> None:
    program, images = spilled(p_bits=p_bits)
    result = simulate(program, images, [0], memory=ExternalMemory(latency=9, stall=40))
    assert result.bit_exact
    assert result.findings.runs[0].counters[Register.WRITE_BEATS] > 0


def test_a_memory_model_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def bare(config: AcceleratorConfig, *_: object) -> str:
        return to_verilog(SerialMachine(config, session.DIVISOR), session.TOP)

    monkeypatch.setattr(session, "machine_verilog", bare)
    monkeypatch.setattr(session, "TESTBENCH", "tb_axi_ram")
    program, images = spilled()
    result = simulate(program, images, [0], stepped=0)
    assert result.bit_exact
    assert result.findings.runs[0].cycles > 0


LONG = AcceleratorConfig(
    rows=16,
    lanes=8,
    post_lanes=8,
    softmax_lanes=16,
    norm_lanes=4,
    act_banks=4,
    act_words=512,
    weight_words=2048,
    param_words=512,
    norm_words=64,
    program_words=1 << 15,
    acc_banks=4,
    acc_columns=256,
    row_words=32,
    row_slots=6,
    experts=1,
    tokens=1,
    external_words=1 << 16,
)


@pytest.mark.parametrize(
    ("side", "act_words", "blocks"),
    [
        (32, 128, "d"),
        pytest.param(64, 512, "d", marks=pytest.mark.slow),
        pytest.param(64, 512, "dd", marks=pytest.mark.slow),
    ],
)
def test_more_tokens_than_activation_memory(side: int, act_words: int, blocks: str) -> None:
    """Bytes of activation memory are four times the tokens; with one block the class token attends to all of them, with two every token does."""
    config = LONG.replace(act_words=act_words)
    model = vit(image=(1, side, side), kernel=(1, 1), dim=8, heads=1, hidden=16, blocks=blocks, tasks=1)
    program = compile_model(model, config)
    tokens = side * side + 1
    assert config.act_total_words * config.lanes == 4 * side * side
    # residual stream, keys, values: each alone takes twice that and more
    assert program.scratch_words > 4 * tokens
    images = np.random.default_rng(5).normal(0, 0.8, (1, 1, side, side)).astype(np.float32)
    result = simulate(program, images, [0], stepped=0)
    assert result.bit_exact
    assert (program.macs[0] > 2 * tokens * tokens * 8) == (blocks == "dd")
