"""Commands: what is left of an instruction when it reaches its unit."""

from __future__ import annotations

from amaranth.hdl import signed, unsigned
from amaranth.lib import data, stream
from amaranth.lib.wiring import Signature

from hwattn.spec.encoding import fields
from hwattn.spec.isa import Instruction, Predicated

EXPERT_BITS = 8
_CONSUMED = {"pop", "push", "expert_enable", "meta"}


def command_layout(kind: type[Instruction]) -> data.StructLayout:
    """Return the layout of a unit's command.

    Parameters
    ----------
    kind : type of Instruction
        Such as `Matmul`.

    Returns
    -------
    data.StructLayout
        The instruction's fields but those that the queue has consumed (tokens and predicate). A predicated kind has `expert` in their
        place, the number of the expert (0 without one), and `rows` is lowered to what is left of the expert's queue.
    """
    members = {
        field.name: signed(field.bits) if field.signed else unsigned(field.bits)
        for field in fields(kind)
        if field.name not in _CONSUMED
    }
    if issubclass(kind, Predicated):
        members["expert"] = unsigned(EXPERT_BITS)
    return data.StructLayout(members)


def command_stream(kind: type[Instruction]) -> Signature:
    """Return the stream signature of a unit's commands."""
    return stream.Signature(command_layout(kind))
