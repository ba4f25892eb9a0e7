"""Instructions: encoding round trips, widths are checked, and the disassembler shows what is set."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwattn.spec.encoding import decode, disassemble, encode, fields
from hwattn.spec.isa import (
    INSTRUCTION_BITS,
    INSTRUCTIONS,
    OPCODE_BITS,
    Halt,
    Instruction,
    Matmul,
    Post,
    Softmax,
)


@st.composite
def instructions(draw: st.DrawFn) -> Instruction:
    kind = draw(st.sampled_from(list(INSTRUCTIONS.values())))
    values: dict[str, Any] = {}
    for field in fields(kind):
        low, high = (
            (-(1 << (field.bits - 1)), (1 << (field.bits - 1)) - 1)
            if field.signed
            else (0, (1 << field.bits) - 1)
        )
        values[field.name] = draw(st.integers(low, high) | st.sampled_from([low, high]))
    return kind(**values)


@settings(deadline=None, max_examples=200)
@given(instruction=instructions())
def test_round_trip(instruction: Instruction) -> None:
    word = encode(instruction)
    assert 0 <= word < 1 << INSTRUCTION_BITS
    assert decode(word) == instruction


@pytest.mark.parametrize("kind", list(INSTRUCTIONS.values()), ids=lambda kind: kind.__name__)
def test_fields_are_packed_without_overlap(kind: type[Instruction]) -> None:
    placed = fields(kind)
    assert placed[0].offset == OPCODE_BITS
    for before, after in pairwise(placed):
        assert before.offset + before.bits == after.offset
    assert placed[-1].offset + placed[-1].bits <= INSTRUCTION_BITS


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (Matmul(slot=8), "Matmul.slot=8 does not fit 3 bits"),
        (Matmul(n0=-1), "Matmul.n0=-1 does not fit 16 bits"),
        (Softmax(mask_low=1 << 16), "Softmax.mask_low=65536 does not fit 17 bits"),
    ],
)
def test_a_value_that_does_not_fit(instruction: Instruction, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode(instruction)


def test_unknown_operation_code() -> None:
    with pytest.raises(ValueError, match="10"):
        decode(10)


def test_disassemble_shows_the_fields_that_are_set() -> None:
    assert disassemble(Softmax(keys=17, mask_low=-3, slot=2)) == "SOFTMAX  keys=17 slot=2 mask_low=-3"
    assert disassemble(Halt()) == "HALT"
    post = Post(pop=0b0011, push=0b1000, stage2=2, format=3, rows=4)
    assert disassemble(post) == "POST     pop=LOAD+MATRIX push=NORM rows=4 stage2=GATE format=RESIDUAL"
    assert disassemble(Post(stage2=3)) == "POST     stage2=3"
