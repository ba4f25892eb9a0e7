"""Predicted cycles against the RTL: every instruction alone, and the free run, on machines that co-simulate quickly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from machines import Image, external, odd, paged, spilled, streamed, transfers, wide

from hwattn.sim.cosim.session import simulate
from hwattn.sim.perf.machine import Machine
from hwattn.sim.perf.routing import queue_lengths
from hwattn.sim.perf.validation import TOLERANCE, compare_run, compare_steps
from hwattn.spec.external import ExternalMemory
from hwattn.spec.program import Program


def measured_against_predicted(
    made: tuple[Program, Image], task: int, memory: ExternalMemory, kinds: set[str]
) -> None:
    """Each single step and the free run are within the tolerance, and these kinds of instructions were among them."""
    program, image = made
    found = simulate(program, image[None], [task], whole=0, memory=memory)
    assert found.bit_exact
    run = found.findings.runs[0]
    lengths = queue_lengths(program, task, image)
    steps = compare_steps(Machine(program, task, memory, lengths).single_steps(), run.steps)
    assert {each.name for each in steps} == kinds
    machine = Machine(program, task, memory, lengths)
    events = machine.free()
    for each in (*steps, compare_run(len(events), machine.cycles, run.cycles)):
        assert each.good, each
    # without random back-pressure and with single units at work, nothing is left out
    assert memory.stall or all(each.worst == 0 for each in steps)


ON_CHIP = {"COPY", "LOAD", "MATMUL", "POST", "SOFTMAX", "NORM", "ROUTE", "skipped"}


@pytest.mark.parametrize("task", [0, 1])
def test_odd_sizes_on_chip(task: int) -> None:
    measured_against_predicted(odd(), task, ExternalMemory(), ON_CHIP)


@pytest.mark.parametrize(
    ("make", "memory", "kinds"),
    [
        (external, ExternalMemory(), ON_CHIP - {"COPY"} | {"FETCH"}),
        (external, ExternalMemory(latency=300, beats=2, cycles=5), ON_CHIP - {"COPY"} | {"FETCH"}),
        (paged, ExternalMemory(latency=9), ON_CHIP - {"COPY"} | {"FETCH"}),
        (paged, ExternalMemory(latency=40, beats=1, cycles=3), ON_CHIP - {"COPY"} | {"FETCH"}),
        (transfers, ExternalMemory(latency=9), {"FETCH", "STORE"}),
        (transfers, ExternalMemory(latency=40, beats=5, cycles=8), {"FETCH", "STORE"}),
    ],
    ids=["default", "slow", "paged", "slow paged", "transfers", "slow transfers"],
)
def test_external_memory(
    make: Callable[[], tuple[Program, Image]], memory: ExternalMemory, kinds: set[str]
) -> None:
    measured_against_predicted(make(), 0, memory, kinds)


@pytest.mark.parametrize(
    ("make", "memory"),
    [
        (streamed, ExternalMemory(latency=9)),
        (streamed, ExternalMemory(latency=40, beats=1, cycles=3)),
        (streamed, ExternalMemory(latency=20, beats=38, cycles=79)),
        (wide, ExternalMemory(latency=9)),
        (wide, ExternalMemory(latency=15, beats=28, cycles=233)),
        (spilled, ExternalMemory(latency=9)),
        (spilled, ExternalMemory(latency=20, beats=2, cycles=3)),
    ],
    ids=[
        "streamed",
        "slow streamed",
        "streamed from SDRAM",
        "wide streamed",
        "slow wide streamed",
        "spilled",
        "slow spilled",
    ],
)
def test_who_shares_the_memory(make: Callable[[], tuple[Program, Image]], memory: ExternalMemory) -> None:
    """Free runs in which the program, FETCH and STORE meet at the port; all that is left out is a bank that two units want."""
    program, image = make()
    tasks = range(len(program.entries))
    result = simulate(program, image[None], list(tasks), stepped=0, memory=memory)
    assert result.bit_exact
    for task in tasks:
        machine = Machine(program, task, memory, queue_lengths(program, task, image))
        machine.free()
        assert machine.cycles == pytest.approx(result.findings.runs[task].cycles, rel=0.002)


def test_an_error_is_seen() -> None:
    assert not compare_run(1, 1000, 1011).good
    assert compare_run(1, 1000, 1010).good
    assert TOLERANCE == 0.01
