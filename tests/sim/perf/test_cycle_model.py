"""The cycle model's own rules: what it refuses, what it knows of the RTL, and that its parts add up."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import pytest
from machines import compiled, external, odd

from hwattn.cli.models import resolve_model
from hwattn.compiler import compile_model
from hwattn.rtl import axi, exponential, fetcher, layernorm, queue, requantize, transposer
from hwattn.rtl.activation import Activation
from hwattn.rtl.adder_tree import tree_stages
from hwattn.rtl.matrix import COMMANDS_IN_FLIGHT
from hwattn.sim.perf import fetcher as model_fetcher
from hwattn.sim.perf import memory, units
from hwattn.sim.perf import queue as model_queue
from hwattn.sim.perf.layers import layers
from hwattn.sim.perf.machine import Machine
from hwattn.sim.perf.routing import Routing, parse_lengths, queue_lengths, routings
from hwattn.spec.config import load_preset
from hwattn.spec.errors import RefusedError
from hwattn.spec.external import ExternalMemory
from hwattn.spec.isa import (
    INSTRUCTIONS,
    Copy,
    Fetch,
    Halt,
    Instruction,
    Load,
    Matmul,
    Norm,
    Post,
    Predicated,
    Queue,
    Route,
    Softmax,
    Store,
)
from hwattn.spec.program import Program

BASELINES = json.loads((Path(__file__).parents[2] / "data" / "perf" / "baselines.json").read_text())
"""`predicted`: cycles of reduced networks, by this model. `measured`: cycles that the RTL counted, for the workload's first test image."""

SMALLEST: dict[type[Instruction], Instruction] = {
    Load: Load(rows=1, words=1, row_wrap=1, granule=2, n0=1, n1=1, n2=1),
    Copy: Copy(words=1),
    Matmul: Matmul(words=1, n0=1, n1=1),
    Post: Post(columns=1, rows=1),
    Softmax: Softmax(keys=1, rows=1),
    Norm: Norm(rows=1, dim=1, shift=9),
    Route: Route(rows=1, experts=1, k=1),
    Fetch: Fetch(words=1, runs=1),
    Store: Store(words=1, runs=1),
}


small = cache(external)


def replaced(*instructions: Instruction) -> Program:
    """The small program with other instructions."""
    program, _ = small()
    return dataclasses.replace(
        program,
        instructions=instructions,
        labels=("layer",) * len(instructions),
        entries=(0,),
        macs=(1,),
    )


def test_constants_are_those_of_the_rtl() -> None:
    assert (model_queue.OUTSTANDING, model_queue.FETCH_DEPTH, model_queue.OVERLAPPING) == (
        queue.OUTSTANDING,
        queue.FETCH_DEPTH,
        queue.OVERLAPPING,
    )
    assert model_queue.MATRIX_IN_FLIGHT == COMMANDS_IN_FLIGHT
    assert (memory.PAGE_BYTES, memory.BURST_WORDS_MAX) == (axi.PAGE_BYTES, axi.BURST_WORDS_MAX)
    assert model_fetcher.BURSTS_AHEAD == fetcher.BURSTS
    assert units.DIM_LIMIT == layernorm.DIM_LIMIT
    assert units.REQUANTIZE_CYCLES == requantize.Requantizer.DELAY
    assert units.ACTIVATION_CYCLES == Activation.DELAY
    assert units.EXPONENTIAL_CYCLES == exponential.Exponential.DELAY
    for lanes in (4, 8, 16, 32, 64):
        assert units.tree_stages(lanes) == tree_stages(lanes)
    for rows, width in ((1, 1), (4, 1), (5, 1), (20, 5), (43, 22), (43, 5)):
        assert units.transposer_groups(rows, width) == transposer.Transposer(rows, 8, width).groups


def test_no_instruction_is_free() -> None:
    assert set(SMALLEST) == set(INSTRUCTIONS.values()) - {Halt}
    for instruction in SMALLEST.values():
        [(event, cycles)] = Machine(
            replaced(instruction, Halt()),
            0,
            ExternalMemory(),
            [[1]] if getattr(instruction, "last", 0) else [],
        ).single_steps()
        assert cycles > 6, instruction
        assert event.times[2] > event.times[1]


def test_a_skipped_instruction_costs_its_way_through_the_queue() -> None:
    program = replaced(Load(expert_enable=1, meta=3, rows=1), Halt())
    [(event, cycles)] = Machine(program, 0, ExternalMemory()).single_steps()
    assert event.skipped
    assert cycles == 5, "one less than where more than one instruction can wait"


def test_an_unknown_instruction_is_an_error() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Sine(Predicated):
        opcode: ClassVar = 15
        queue: ClassVar = Queue.POST

    for run in (
        Machine(replaced(Sine(), Halt()), 0, ExternalMemory()).free,
        Machine(replaced(Sine(), Halt()), 0, ExternalMemory()).single_steps,
    ):
        with pytest.raises(RefusedError, match="unknown kind Sine"):
            run()


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        ((Copy(words=1),), "no HALT"),
        ((Copy(words=1, pop=1 << Queue.POST), Halt()), "a token of queue POST"),
        ((Route(rows=1, experts=1, k=1, last=1), Halt()), "no queue lengths"),
    ],
)
def test_programs_that_cannot_run_are_refused(instructions: tuple[Instruction, ...], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        Machine(replaced(*instructions), 0, ExternalMemory()).free()


def test_external_instructions_need_external_memory() -> None:
    program = replaced(Fetch(words=1, runs=1), Halt())
    program = dataclasses.replace(program, config=program.config.replace(external_words=0))
    with pytest.raises(RefusedError, match="without external memory"):
        Machine(program, 0, ExternalMemory()).free()


def test_tasks_and_queue_lengths_are_checked() -> None:
    program, image = odd()
    lengths = queue_lengths(program, 0, image)
    for wrong, message in (
        ([*lengths, lengths[0]], "1 mixtures too many"),
        ([[99] * program.config.experts], "queue lengths 99"),
    ):
        with pytest.raises(RefusedError, match=message):
            Machine(program, 0, ExternalMemory(), wrong).free()
    with pytest.raises(RefusedError, match="task 2"):
        Machine(program, 2, ExternalMemory(), lengths)


def test_layers_add_up_to_the_whole() -> None:
    for made in (odd, external):
        program, image = made()
        for task in (0, 1):
            machine = Machine(program, task, ExternalMemory(), queue_lengths(program, task, image))
            events = machine.free()
            parts = layers(machine, events)
            assert sum(part.cycles for part in parts) == machine.cycles
            assert sum(part.instructions for part in parts) == len(events)
            assert {part.kind for part in parts} >= {"linear", "attention", "mixture", "layer_norm"}
            assert all((part.bound == "hidden") == (part.cycles == 0) for part in parts)


def test_slower_memory_bounds_by_memory() -> None:
    program, image = external()
    lengths = queue_lengths(program, 0, image)
    fast, slow = (
        Machine(program, 0, ExternalMemory(latency=10, beats=1, cycles=cycles), lengths) for cycles in (1, 20)
    )
    fast.free()
    events = slow.free()
    assert slow.cycles > 2 * fast.cycles
    waits: Counter[str] = sum((part.causes for part in layers(slow, events)), Counter())
    assert waits.most_common(1)[0][0] == "memory"


def test_bandwidth_and_back_pressure() -> None:
    program = replaced(Fetch(words=10_000, runs=1), Halt())
    for settings, rate in (({}, 1.0), ({"beats": 8, "cycles": 9}, 8 / 9), ({"stall": 128}, 0.5)):
        [(_, cycles)] = Machine(program, 0, ExternalMemory(**settings)).single_steps()
        assert cycles == pytest.approx(10_000 / rate, rel=0.01)


def test_reads_and_writes_share_the_bandwidth() -> None:
    transfers = [Fetch(words=5_000, runs=1), Store(words=5_000, runs=1)]
    memory = ExternalMemory(latency=10, beats=1, cycles=2)
    times = []
    for instructions in (transfers[:1], transfers[1:], transfers):
        machine = Machine(replaced(*instructions, Halt()), 0, memory)
        machine.free()
        times.append(machine.cycles)
    assert times[:2] == pytest.approx([10_000, 10_000], rel=0.05)
    assert times[2] == pytest.approx(20_000, rel=0.05)


@pytest.mark.parametrize(
    "speed", [{"latency": 9}, {"latency": 20, "cycles": 3}, {"latency": 15, "beats": 28, "cycles": 233}]
)
def test_equal_blocks_of_a_streamed_program_take_equal_time(speed: dict[str, int]) -> None:
    """The last block works on the class token only; in the first one the pipeline fills."""
    config = load_preset("sdram-micro").replace(act_words=256, weight_words=512, param_words=128)
    program, _ = compiled(config, image=(1, 12, 12), dim=16, heads=2, hidden=32, blocks="ddddddd", tasks=1)
    machine = Machine(program, 0, ExternalMemory(**speed))
    parts = layers(machine, machine.free())
    assert sum(part.cycles for part in parts) == machine.cycles
    blocks: Counter[str] = Counter()
    for part in parts:
        blocks[part.name.partition(".")[0]] += part.cycles
    inner = [blocks[f"b{number}"] for number in range(1, 6)]
    assert max(inner) == pytest.approx(min(inner), rel=0.03)


def test_a_program_that_is_not_read_to_its_end_is_refused() -> None:
    program = replaced(*[Copy(words=1)] * 9, Halt())
    config = program.config.replace(program_streamed=1, program_words=4, external_words=64)
    assert config.program_capacity == 8
    program = dataclasses.replace(program, config=config)
    with pytest.raises(RefusedError, match="10 instructions"):
        Machine(program, 0, ExternalMemory()).free()


def test_queue_lengths_from_words() -> None:
    wanted = [Routing(4, 10, 2), Routing(4, 5, 1)]
    assert wanted[0].even == (5, 5, 5, 5)
    assert wanted[1].even == (2, 1, 1, 1)
    assert parse_lengths("even", wanted) == [(5, 5, 5, 5), (2, 1, 1, 1)]
    assert parse_lengths("10,10,0,0;5,0,0,0", wanted) == [(10, 10, 0, 0), (5, 0, 0, 0)]
    assert parse_lengths("9,7,2,2", wanted[:1] * 2) == [(9, 7, 2, 2)] * 2
    for text in ("x", "1,2", "11,9,0,0;5,0,0,0", "10,10,0,0", "10,10,0,1;5,0,0,0", "1;2;3"):
        with pytest.raises(RefusedError):
            parse_lengths(text, wanted)
    program, image = odd()
    for task in (0, 1):
        for routing, lengths in zip(
            routings(program, task), queue_lengths(program, task, image), strict=True
        ):
            assert routing.experts == len(lengths)
            assert routing.tokens * routing.k == sum(lengths)


@pytest.mark.parametrize("name", sorted(BASELINES["predicted"]))
def test_predictions_stay(name: str) -> None:
    baseline = BASELINES["predicted"][name]
    program, _ = compiled(load_preset(baseline["preset"]), **{**baseline["shape"], "image": (3, 32, 32)})
    machine = Machine(
        program,
        0,
        ExternalMemory(**baseline["memory"]),
        [routing.even for routing in routings(program, 0)],
    )
    machine.free()
    assert machine.cycles == pytest.approx(baseline["cycles"], rel=baseline["tolerance"])


@pytest.mark.parametrize("name", sorted(BASELINES["measured"]))
def test_cycles_that_the_rtl_counted(name: str) -> None:
    baseline = BASELINES["measured"][name]
    resolved = resolve_model(baseline["workload"])
    program = compile_model(resolved.model, load_preset(resolved.preset).replace(**baseline["set"]))
    assert resolved.workload is not None
    image = resolved.workload.test_set()[resolved.model.image][0]
    for task, cycles in enumerate(baseline["cycles"]):
        machine = Machine(
            program, task, ExternalMemory(**baseline["memory"]), queue_lengths(program, task, image)
        )
        machine.free()
        assert machine.cycles == pytest.approx(cycles, rel=baseline["tolerance"])
