"""Every instruction of the C++ machine against the NumPy model, memory for memory, from random states."""

from __future__ import annotations

import pytest
from draw import CONFIGS, Draw
from hypothesis import given, settings
from hypothesis import strategies as st
from mirror import KINDS, Drawn, compare

from hwattn.hls.csim import CMachine
from hwattn.spec.isa import INSTRUCTIONS, Halt, Opcode
from hwattn.spec.registers import ErrorCause


@pytest.fixture(scope="module", params=range(len(CONFIGS)), ids=lambda index: f"config{index}")
def machine(request):
    return CMachine(CONFIGS[request.param])


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_model(machine, kind):
    @settings(max_examples=35)
    @given(st.data(), st.integers(0, 2**32 - 1))
    def check(data, seed):
        compare(machine, kind, Draw(machine.config, Drawn(data)), seed)

    check()


def test_every_instruction_is_known():
    """A new instruction of the specification that the interpreter does not know is found here."""
    machine = CMachine(CONFIGS[0])
    for kind in INSTRUCTIONS.values():
        if kind is not Halt:
            fields = {"row_wrap": 1} if kind.opcode == Opcode.LOAD else {}
            assert machine.execute(kind(**fields)) == ErrorCause.NONE, kind.__name__


def test_unknown_instruction_and_missing_halt():
    machine = CMachine(CONFIGS[0])
    assert machine.execute(Halt()) == ErrorCause.UNKNOWN_INSTRUCTION
