"""What pipelines have in common: what travels beside their data."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal


def delayed(m: Module, tag: Any, cycles: int, name: str) -> list[Any]:
    """Return a value one to `cycles` cycles later.

    Parameters
    ----------
    m : Module
        Receives the registers.
    tag : Value or view
    cycles : int
    name : str
        Of the registers, before their number.

    Returns
    -------
    list
        ``[tag one cycle later, ..., tag `cycles` cycles later]``, of the same shape.
    """
    tags = [Signal(tag.shape(), name=f"{name}_{i}") for i in range(cycles)]
    for source, target in zip([tag, *tags], tags, strict=False):
        m.d.sync += target.eq(source)
    return tags
