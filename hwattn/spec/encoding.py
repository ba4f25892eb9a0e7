"""Instructions as bits and as text: fields in order behind the operation code, as ``docs/isa.md`` lists them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hwattn.spec.isa import (
    INSTRUCTION_BITS,
    INSTRUCTIONS,
    OPCODE_BITS,
    Format,
    Instruction,
    Memory,
    Opcode,
    Queue,
    Stage2,
)


@dataclass(frozen=True)
class Field:
    """One field of an encoded instruction: its first bit, its width, and whether it is signed."""

    name: str
    offset: int
    bits: int
    signed: bool


def fields(kind: type[Instruction]) -> tuple[Field, ...]:
    """List the fields of an instruction after the operation code, in order of their bits."""
    return _fields(kind.opcode)


@cache
def _fields(opcode: Opcode) -> tuple[Field, ...]:
    kind = INSTRUCTIONS[opcode]
    placed, offset = [], OPCODE_BITS
    for entry in dataclasses.fields(kind):
        bits = entry.metadata["bits"]
        placed.append(Field(entry.name, offset, bits, entry.metadata["signed"]))
        offset += bits
    if offset > INSTRUCTION_BITS:
        raise ValueError(f"{kind.__name__} has {offset} bits, more than {INSTRUCTION_BITS}")
    return tuple(placed)


def encode(instruction: Instruction) -> int:
    """Pack an instruction into ``INSTRUCTION_BITS`` bits.

    Raises
    ------
    ValueError
        If a field does not fit its width.
    """
    word = int(instruction.opcode)
    for field in fields(type(instruction)):
        value = int(getattr(instruction, field.name))
        low, high = (
            (-(1 << (field.bits - 1)), 1 << (field.bits - 1)) if field.signed else (0, 1 << field.bits)
        )
        if not low <= value < high:
            raise ValueError(
                f"{type(instruction).__name__}.{field.name}={value} does not fit {field.bits} bits"
            )
        word |= (value & ((1 << field.bits) - 1)) << field.offset
    return word


def decode(word: int) -> Instruction:
    """Unpack an instruction; the inverse of `encode`.

    Raises
    ------
    ValueError
        If the operation code is unknown.
    """
    kind = INSTRUCTIONS[Opcode(word & ((1 << OPCODE_BITS) - 1))]
    values = {}
    for field in fields(kind):
        value = (word >> field.offset) & ((1 << field.bits) - 1)
        values[field.name] = (
            value - (1 << field.bits) if field.signed and value >> (field.bits - 1) else value
        )
    return kind(**values)


def encode_instructions(instructions: Sequence[Instruction]) -> NDArray[np.uint8]:
    """Encode instructions as uint8 of shape (instructions, 32), the least significant byte first."""
    size = INSTRUCTION_BITS // 8
    packed = b"".join(encode(one).to_bytes(size, "little") for one in instructions)
    return np.frombuffer(packed, np.uint8).reshape(-1, size)


_NAMES: dict[str, type[IntEnum]] = {"memory": Memory, "format": Format, "stage2": Stage2}


def disassemble(instruction: Instruction) -> str:
    """Write an instruction as one line: its name and every field that is not zero, queues and choices by name."""
    shown = []
    for field in fields(type(instruction)):
        value = int(getattr(instruction, field.name))
        if not value:
            continue
        text = str(value)
        if field.name in ("pop", "push"):
            text = "+".join(queue.name for queue in Queue if value >> queue & 1)
        elif field.name in _NAMES and value in set(_NAMES[field.name]):
            text = _NAMES[field.name](value).name
        shown.append(f"{field.name}={text}")
    return f"{type(instruction).__name__.upper():8} {' '.join(shown)}".rstrip()
