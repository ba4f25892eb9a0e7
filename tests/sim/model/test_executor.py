"""Every instruction with random fields against the naive machine; batches, parts, refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from draw import CONFIGS, Draw, program_of, random_state
from naive import FIELDS, Naive

from hwattn.sim.model.executor import Executor
from hwattn.sim.model.state import State
from hwattn.spec.isa import Copy, Instruction, Load, Matmul, Norm, Post, Route, Softmax

KINDS = ["load", "copy", "matmul", "post", "softmax", "norm", "route"]


@pytest.mark.parametrize("config", CONFIGS, ids=["4x8", "3x4", "7x16"])
@pytest.mark.parametrize("kind", KINDS)
def test_instruction_equals_the_naive_machine(kind, config):
    random = np.random.default_rng(KINDS.index(kind) * 10 + config.rows)
    draw = Draw(config, random)
    for _ in range(40):
        instruction = getattr(draw, kind)()
        program = program_of(config, [instruction], random)
        state = random_state(config, random)
        naive = [Naive(program, state, b) for b in range(state.batch)]
        Executor(program).execute(state, 0)
        for b, machine in enumerate(naive):
            getattr(machine, kind)(instruction)
            for name in FIELDS:
                assert (getattr(state, name)[b] == getattr(machine, name)).all(), (name, b, instruction)
            length = int(machine.metaqueue_length)
            assert state.metaqueue_length[b] == length
            assert (state.metaqueue[b, :length] == machine.metaqueue[:length]).all()


def test_a_batch_is_the_same_as_its_images_one_by_one():
    config = CONFIGS[0]
    random = np.random.default_rng(9)
    draw = Draw(config, random)
    kinds = ["norm", "load", "matmul", "route", "load", "matmul", "post", "softmax", "matmul", "post"] * 6
    instructions = [getattr(draw, kind)() for kind in kinds]
    executor = Executor(program_of(config, instructions, random))
    images = random.normal(size=(5, 1, 2, 2)).astype(np.float32)
    together = executor.run(images, 0)
    state = executor.start(images)
    seen = []
    executor.execute(state, 0, lambda index, _: seen.append(index))
    assert seen == list(range(len(instructions)))
    for b in range(5):
        alone = executor.run(images[b : b + 1], 0)
        assert (alone.outputs["y"][0] == together.outputs["y"][b]).all()
        for one, group in zip(alone.routing, together.routing, strict=True):
            assert (one[0] == group[b]).all()
        *_, (index, last) = executor.step_through(images[b], 0)
        assert index == len(instructions) - 1
        for name in FIELDS:
            assert (getattr(last, name)[0] == getattr(state, name)[b]).all(), name


def test_long_batches_run_in_parts(monkeypatch):
    random = np.random.default_rng(10)
    draw = Draw(CONFIGS[0], random)
    executor = Executor(program_of(CONFIGS[0], [draw.norm(), draw.copy(), draw.route()], random))
    images = random.normal(size=(7, 1, 2, 2)).astype(np.float32)
    whole = executor.run(images, 0)
    monkeypatch.setattr("hwattn.sim.model.executor.BATCH_MAX", 3)
    parts = executor.run(images, 0)
    assert executor.batch_limit == 3
    assert (parts.integers["y"] == whole.integers["y"]).all()
    assert len(parts.routing) == len(whole.routing)


def test_images_and_outputs():
    config = CONFIGS[0]
    executor = Executor(program_of(config, [], np.random.default_rng(0)))
    image = np.array([[[[0.25, -0.25], [100.0, -100.0]]]], np.float32)
    state = executor.start(image)
    assert state.memory[0, :4].view(np.int8).tolist() == [1, 0, 127, -128]
    result = executor.run(image, 0)
    assert result.integers["y"].tolist() == [[[1, 0, 127]]]
    assert result.outputs["y"].dtype == np.float32
    assert result.outputs["y"].tolist() == [[0.25, 0.0, 31.75]]
    # a second image finds what the first has left
    state.memory[0, 100] = 7
    again = executor.start(image, state)
    assert again.memory[0, 100] == 7


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strange(Instruction):
    opcode = 15
    queue = 0


BAD = [
    (Load(row_wrap=1, slot=4, rows=1, words=1, n0=1, n1=1, n2=1), "4 slots of 4 rows of 4 words"),
    (Load(rows=1, words=1, n0=1, n1=1, n2=1), "row_wrap is 0"),
    (
        Load(row_wrap=1, rows=1, words=1, n0=9, n1=1, n2=1),
        "rows of 9 bytes do not fit into 1 words of 8 bytes",
    ),
    (Load(row_wrap=1, rows=1, words=1, n0=1, n1=1, n2=1, base=4, granule=3), "granules of 8 bytes"),
    (Load(row_wrap=1, rows=1, words=1, n0=1, n1=1, n2=1, base=1024), "out of bounds"),
    (Load(gather=1, rows=1, words=1, n0=1, n1=1, n2=1), "gather without an expert"),
    (Copy(source=127, words=2), "reaches byte 1031 of a memory of 1024 bytes"),
    (Matmul(n0=1, n1=1, words=1, acc_base=32), "accumulator columns 32 to 32 of 4 rows"),
    (Matmul(n0=1, n1=1, words=5), "5 words; the machine has 4 slots of 4 words"),
    (Post(columns=1, rows=5), "of 5 rows; the machine has 32 columns of 4 rows"),
    (Post(columns=1, rows=1, stage2=3), "stage2=3"),
    (Post(columns=1, rows=1, scatter=1), "scatter and gate weights need an expert"),
    (Post(columns=1, rows=1, activation=1), "an activation needs the second stage CONSTANT"),
    (Post(columns=1, rows=1, row_scale=1, stage2=1), "row_scale goes with neither"),
    (Softmax(keys=33, rows=1), "33 keys; the machine has 4 slots of 32 bytes"),
    (Softmax(keys=1, rows=1, bias=1), "bias is reserved"),
    (Norm(rows=1, dim=1, param_base=40, shift=9, epsilon=1), "1 norm parameters from entry 40 of 40"),
    (Route(rows=1, experts=6, k=1), "the machine has 5 experts"),
    (Strange(), "an unknown instruction"),
]


@pytest.mark.parametrize(("instruction", "message"), BAD)
def test_instructions_that_leave_the_machine_are_refused(instruction, message, monkeypatch):
    if isinstance(instruction, Strange):
        monkeypatch.setattr("hwattn.sim.model.executor.disassemble", repr)
    executor = Executor(program_of(CONFIGS[0], [instruction], np.random.default_rng(0)))
    with pytest.raises(ValueError) as caught:
        executor.run(np.zeros((1, 1, 2, 2), np.float32), 0)
    assert message in str(caught.value)
    assert str(caught.value).startswith("instruction 0, ")


def test_a_full_queue_is_refused():
    config = CONFIGS[1]
    fill = [Route(rows=1, token=token, experts=1, k=1, multiplier=1 << 15, shift=20) for token in range(8)]
    executor = Executor(program_of(config, fill, np.random.default_rng(0)))
    with pytest.raises(ValueError, match="queue holds 7 tokens and is full"):
        executor.run(np.zeros((1, 1, 2, 2), np.float32), 0)


def test_bad_calls_are_refused():
    executor = Executor(program_of(CONFIGS[0], [], np.random.default_rng(0)))
    good = np.zeros((2, 1, 2, 2), np.float32)
    with pytest.raises(ValueError, match="task 1 of 1"):
        executor.run(good, 1)
    with pytest.raises(ValueError, match="images of shape"):
        executor.run(good[:, :, :1], 0)
    with pytest.raises(ValueError, match="no images"):
        executor.run(good[:0], 0)
    with pytest.raises(ValueError, match="2 images for a state of 3"):
        executor.start(good, State(CONFIGS[0], 3))
    endless = dataclasses.replace(executor.program, instructions=())
    with pytest.raises(ValueError, match="no HALT"):
        Executor(endless).run(good, 0)
