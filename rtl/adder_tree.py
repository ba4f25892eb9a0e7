"""Adder trees with a register after every few levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import add
from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.utils import ceil_log2

TREE_LEVELS = 3
"""Levels of adders between two registers."""


def tree_stages(lanes: int) -> int:
    """Registers of the adder tree over `lanes` products."""
    return -(-int(ceil_log2(lanes)) // TREE_LEVELS)


def adder_tree(
    m: Module,
    terms: Sequence[Any],
    name: str,
    *,
    level: int = 0,
    join: Callable[[Any, Any], Any] = add,
    finish: Callable[[Any], Any] = lambda total: total,
) -> Signal:
    """Add up terms in pairs, with a register after every `TREE_LEVELS` levels and after the last.

    Parameters
    ----------
    m : Module
    terms : sequence of Value
        A power of two of them.
    name : str
        Of the registers.
    level : int
        Levels of the same tree that stand before `terms`.
    join : callable
        Adds two terms.
    finish : callable
        What is left to do with the sum in front of the last register.

    Returns
    -------
    Signal
        Registered, ``tree_stages(2**level * len(terms))`` cycles after what the tree adds up.
    """
    while len(terms) > 1:
        if level and level % TREE_LEVELS == 0:
            registers = [
                Signal(term.shape(), name=f"{name}_{level}_{index}") for index, term in enumerate(terms)
            ]
            m.d.sync += [register.eq(term) for register, term in zip(registers, terms, strict=True)]
            terms = registers
        terms = [join(left, right) for left, right in zip(terms[::2], terms[1::2], strict=True)]
        level += 1
    total = finish(terms[0])
    last = Signal(total.shape(), name=name)
    m.d.sync += last.eq(total)
    return last
