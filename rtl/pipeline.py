"""What pipelines have in common: what travels beside their data, and counts of what is left."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, Mux, Signal, Value


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


def room_register(
    m: Module, places: int, entered: Value, left: Value, dropped: Value | None = None
) -> Signal:
    """Return whether a queue has a place for one more, of those that are on their way to it too: a register, known before any grant.

    Parameters
    ----------
    m : Module
        Receives the registers.
    places : int
        Of the queue, and of the way to it.
    entered : Value
        One sets out in this cycle, because there is room; it may come late.
    left : Value
        One leaves the queue; it may come late.
    dropped : Value, optional
        One ends on its way.

    Returns
    -------
    Signal
        1 bit; tells in each cycle what is so with all that has entered, left and been dropped in the cycles before.
    """
    under_way, room = Signal(range(places + 1)), Signal(init=1)
    still = under_way if dropped is None else (under_way - dropped)[: len(under_way)]
    one, two = still < places, still < places - 1
    m.d.sync += [
        under_way.eq(still + entered - left),
        room.eq(Mux(entered, Mux(left, one, two), left | one)),
        Assert(room | ~entered, "one more than there are places"),
    ]
    return room


class Countdown:
    """Counts the turns of a loop; a register says which is the last, so that no comparison lies on the paths that ask.

    Parameters
    ----------
    turns : Value
        How many there are, 1 or more; held while the loop runs.
    name : str
        Of the registers.

    Attributes
    ----------
    last : Signal
        The turn at hand is the last one.
    """

    def __init__(self, turns: Value, name: str) -> None:
        self._turns = turns
        self._left = Signal(len(turns), name=f"{name}_left")
        self.last = Signal(name=f"{name}_last")

    def restart(self, m: Module, turns: Value | None = None) -> None:
        """Begin with the first turn in the next cycle; `turns` are their number where it is not held yet."""
        turns = self._turns if turns is None else turns
        m.d.sync += [self._left.eq(turns), self.last.eq(turns == 1)]

    def step(self, m: Module) -> None:
        """Take the next turn in the next cycle; after the last one, the first."""
        m.d.sync += [
            self._left.eq(Mux(self.last, self._turns, self._left - 1)),
            self.last.eq(Mux(self.last, self._turns == 1, self._left == 2)),
        ]
