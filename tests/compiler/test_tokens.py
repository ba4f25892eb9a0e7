"""Tokens: minimal, proven by the checker, and right in a simulation of the queues with random durations."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from random_models import vit

from hwattn.compiler import compile_model, verify_program
from hwattn.compiler.accesses import AccessMap
from hwattn.compiler.tokens import synchronize
from hwattn.spec.config import AcceleratorConfig, load_preset
from hwattn.spec.errors import FailedError
from hwattn.spec.isa import (
    QUEUES,
    Copy,
    Halt,
    Instruction,
    Load,
    Matmul,
    Norm,
    Post,
    Route,
    Softmax,
)
from hwattn.spec.program import Program

CONFIG = AcceleratorConfig()


@pytest.fixture(scope="module", params=[8, 16], ids=["8-bit p", "16-bit p"])
def program(request: pytest.FixtureRequest) -> Program:
    return compile_model(vit(blocks="md", p_bits=request.param), load_preset("digits"))


def task_instructions(program: Program, task: int) -> list[Instruction]:
    ends = [*program.entries[1:], len(program.instructions)]
    return list(program.instructions[program.entries[task] : ends[task]])


def overlap(instructions: list[Instruction], seed: int, queue_depth: int) -> list[tuple[int, int]]:
    """Simulate the dispatcher and the queues with random durations; return start and end of every instruction."""
    rng = np.random.default_rng(seed)
    pending = deque(range(len(instructions)))
    queues: list[deque[int]] = [deque() for _ in range(QUEUES)]
    running: list[tuple[int, int] | None] = [None] * QUEUES
    tokens = np.zeros((QUEUES, QUEUES), int)
    times = [(0, 0)] * len(instructions)
    for now in range(10**6):
        for queue, work in enumerate(running):
            if work and work[1] <= now:
                running[queue] = None
                for other in range(QUEUES):
                    tokens[queue, other] += instructions[work[0]].push >> other & 1
        for queue in range(QUEUES):
            if running[queue] is None and queues[queue]:
                index = queues[queue][0]
                sources = [other for other in range(QUEUES) if instructions[index].pop >> other & 1]
                if all(tokens[other, queue] for other in sources):
                    tokens[sources, queue] -= 1
                    queues[queue].popleft()
                    end = now + int(rng.choice([1, 2, 5, 40]))
                    running[queue], times[index] = (index, end), (now, end)
        if pending and len(queues[instructions[pending[0]].queue]) < queue_depth:
            queues[instructions[pending[0]].queue].append(pending.popleft())
        elif not pending and not any(queues) and not any(running):
            assert not tokens.any()
            return times
    raise AssertionError("deadlock")


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize(("seed", "queue_depth"), [(0, 2), (1, 4), (2, 1000)])
def test_no_hazard_when_queues_overlap(program: Program, task: int, seed: int, queue_depth: int) -> None:
    instructions = task_instructions(program, task)
    times = overlap(instructions, seed, queue_depth)
    accesses = list(AccessMap(program.config).walk(instructions))
    locations = AccessMap(program.config).count
    last_read, last_write = np.zeros(locations, int), np.zeros(locations, int)
    overlapped = 0
    for access, (start, end) in zip(accesses, times, strict=True):
        assert (last_write[access.reads] <= start).all()
        assert (last_write[access.writes] <= start).all()
        assert (last_read[access.writes] <= start).all()
        last_read[access.reads] = np.maximum(last_read[access.reads], end)
        last_write[access.writes] = end
        overlapped += end - start
    assert overlapped > 1.2 * times[-1][1]


def test_every_token_is_needed(program: Program) -> None:
    """Removing any one pair of tokens leaves a hazard (checked on a sample)."""
    start = program.entries[0]
    instructions = task_instructions(program, 0)
    pairs = []
    waiting: dict[tuple[int, int], deque[int]] = {}
    for index, instruction in enumerate(instructions):
        queue = int(instruction.queue)
        for other in range(QUEUES):
            if instruction.pop >> other & 1:
                pairs.append((waiting[other, queue].popleft(), index))
            if instruction.push >> other & 1:
                waiting.setdefault((queue, other), deque()).append(index)
    for source, target in pairs[:: max(1, len(pairs) // 25)]:
        changed = list(program.instructions)
        changed[start + source] = replace(
            instructions[source],
            push=instructions[source].push & ~(1 << instructions[target].queue),
        )
        changed[start + target] = replace(
            instructions[target],
            pop=instructions[target].pop & ~(1 << instructions[source].queue),
        )
        with pytest.raises(FailedError, match="is not ordered after"):
            verify_program(replace(program, instructions=tuple(changed)))


def signals(instructions: list[Instruction]) -> list[tuple[int, int]]:
    return [(one.pop, one.push) for one in synchronize(instructions, CONFIG)]


def load(slot: int, word: int) -> Load:
    return Load(slot=slot, rows=1, words=1, base=word * 8, row_wrap=1, granule=3, n0=1, n1=1, n2=1)


def matmul(slot: int, bank: int) -> Matmul:
    return Matmul(slot=slot, words=1, memory=1, n0=4, n1=1, acc_base=bank * CONFIG.acc_columns)


def post(bank: int, word: int) -> Post:
    return Post(acc_base=bank * CONFIG.acc_columns, columns=4, rows=1, base=word)


def test_a_chain_needs_one_token_per_link() -> None:
    assert signals([load(0, 9), matmul(0, 0), post(0, 5), load(1, 5)]) == [(0, 2), (1, 4), (2, 1), (4, 0)]


def test_a_hazard_that_a_third_queue_orders_needs_no_token() -> None:
    # the copy's word is overwritten by the POST, which the MATMUL has already ordered after the LOAD queue
    copy = Copy(memory=1, target=5, words=1)
    assert signals([copy, load(0, 9), matmul(0, 0), post(0, 5)]) == [(0, 0), (0, 2), (1, 4), (2, 0)]


def test_one_token_serves_several_hazards() -> None:
    found = signals([post(0, 1), post(0, 2), load(0, 1), load(1, 2)])
    assert found == [(0, 1), (0, 1), (4, 0), (4, 0)]
    found = signals([post(0, 1), post(0, 2), load(0, 2), load(1, 1)])
    assert found == [(0, 0), (0, 1), (4, 0), (0, 0)]


def test_a_bank_has_one_user_at_a_time() -> None:
    other_columns = replace(matmul(1, 0), acc_base=64)
    assert signals([matmul(0, 0), post(0, 0), other_columns]) == [(0, 4), (2, 2), (4, 0)]
    assert signals([matmul(0, 0), post(0, 0), matmul(1, 1)]) == [(0, 4), (2, 0), (0, 0)]


def test_softmax_state_and_slots() -> None:
    softmax = Softmax(acc_base=128, keys=8, rows=1, slot=2, p16=1, state=1)
    rescale = replace(matmul(3, 0), accumulate=1, rescale=1, state=1)
    assert signals([softmax, rescale]) == [(0, 2), (16, 0)]
    assert signals([rescale, softmax]) == [(0, 16), (2, 0)]
    assert signals([softmax, replace(rescale, slot=0, rescale=0)]) == [(0, 0), (0, 0)]


def test_gathers_count_as_all_routed_tokens() -> None:
    route = Route(acc_base=0, rows=2, experts=2, k=1, clear=1, token=0)
    second = replace(route, rows=1, token=2, clear=0, last=1)
    gather = Load(
        expert_enable=1, gather=1, base=80, row_stride=16, rows=2, words=1, granule=3, n0=1, n1=1, n2=1
    )
    accesses = list(AccessMap(CONFIG).walk([route, second, gather]))
    queues = AccessMap(CONFIG).queues
    assert accesses[2].reads.tolist() == [10, 12, 14, queues]
    assert queues in accesses[1].writes
    scatter = Post(
        expert_enable=1,
        scatter=1,
        base=40,
        stride=4,
        columns=8,
        rows=2,
        format=3,
        acc_base=CONFIG.acc_columns,
    )
    _, _, access = AccessMap(CONFIG).walk([route, second, scatter])
    assert sorted(access.writes.tolist()) == [40, 41, 44, 45, 48, 49, queues - 5]


def test_image_patches_are_read_where_they_lie() -> None:
    patches = Load(
        rows=3,
        words=1,
        base=0,
        row_stride=2,
        row_first=3,
        row_wrap=4,
        row_jump=16,
        granule=1,
        n0=1,
        n1=2,
        stride1=8,
        n2=1,
    )
    (access,) = AccessMap(CONFIG).walk([patches])
    assert set(access.reads.tolist()) == {0, 1, 2, 3}


def handmade(instructions: list[Instruction]) -> Program:
    base = compile_model(vit(blocks="", tasks=1), load_preset("digits"))
    return replace(
        base,
        instructions=(*instructions, Halt()),
        labels=("",) * (len(instructions) + 1),
        entries=(0,),
    )


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        ([load(0, 1), matmul(0, 0)], r"instruction 1 \(Matmul\) is not ordered after instruction 0 \(Load\)"),
        ([load(0, 1), replace(matmul(0, 0), pop=1)], "waits for a token of LOAD that never comes"),
        ([replace(load(0, 1), push=2)], "1 tokens from LOAD to MATRIX are left over"),
        ([load(0, 100)], "reads activation word 100, which nothing has written"),
        ([matmul(2, 0)], "reads resident slot 2, which nothing has written"),
        ([replace(load(0, 1), push=8)] * 256, "can make more than 255 tokens wait in NORM"),
        (
            [Norm(source=0, rows=1, dim=8, target=20, target_stride=1), load(0, 20)],
            r"Load\) is not ordered after",
        ),
    ],
)
def test_checker_finds(instructions: list[Instruction], message: str) -> None:
    with pytest.raises(FailedError, match=message):
        verify_program(handmade(instructions))


def test_checker_wants_a_halt() -> None:
    program = handmade([load(0, 1)])
    with pytest.raises(FailedError, match="task 0 does not end with Halt"):
        verify_program(replace(program, instructions=program.instructions[:1]))
