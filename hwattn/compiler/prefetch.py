"""Prefetch: gives chunks of weights, and of entries of paged memories, their places, and fetches each as early as its place is free.

Each memory is a ring. A chunk's place is free when the last instruction that uses what lay there has been issued, so a Fetch moves up in
the program to right behind that instruction: across layers, and limited by the size of the buffer alone. Three more bounds hold. An expert's
chunk is known only behind the Route that completes the metaqueue. What the program itself writes to external memory is fetched behind the
Store before it. And no more than `AHEAD` chunks are under way, so that the queue of the
fetcher, which the dispatcher fills in program order, never keeps other instructions waiting.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hwattn.compiler.memory import require
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.entries import ENTRY_BYTES
from hwattn.spec.isa import Fetch, Instruction, Matmul, Memory, Norm, Post, Route, Store

AHEAD = 12

RINGS = {
    Memory.WEIGHT: ("weight_words", "weights"),
    Memory.PARAM: ("param_words", "parameters"),
    Memory.NORM: ("norm_words", "LayerNorm parameters"),
}
"""Memories that chunks pass through: the field that holds their size, and what they hold."""


@dataclass(frozen=True)
class Labelled:
    """An instruction, its layer, and the chunk of weights or entries that it fetches or uses."""

    instruction: Instruction
    label: str
    chunk: int | None


@dataclass
class _Chunk:
    """A chunk: its Fetch and where that stood, the positions of the first and the last instruction that uses it, its place in its memory."""

    fetch: Labelled
    emitted: int
    first: int
    last: int
    base: int = 0

    @property
    def memory(self) -> Memory:
        assert isinstance(self.fetch.instruction, Fetch)
        return Memory(self.fetch.instruction.memory)

    @property
    def settled(self) -> int:
        """Position of an instruction that uses it, so that its Fetch has ended: entries stay for a whole layer, which may have many chunks."""
        return self.last if self.memory is Memory.WEIGHT else self.first

    def size(self, lanes: int) -> int:
        """Words, or entries, that it takes in its memory."""
        assert isinstance(self.fetch.instruction, Fetch)
        words = self.fetch.instruction.runs * self.fetch.instruction.words
        return words if self.memory is Memory.WEIGHT else words * lanes // ENTRY_BYTES


@dataclass
class _Ring:
    """A memory that chunks pass through.

    Parameters
    ----------
    config : AcceleratorConfig
    memory : Memory
    """

    config: AcceleratorConfig
    memory: Memory
    _bottom: int = 0
    _held: deque[_Chunk] = field(default_factory=deque)

    def place(self, chunk: _Chunk) -> list[_Chunk]:
        """Give a chunk its place; return those that it overwrites, the oldest first, and all older ones with them.

        Raises
        ------
        RefusedError
            One of them is used together with it.
        """
        name, what = RINGS[self.memory]
        room, size = getattr(self.config, name), chunk.size(self.config.lanes)
        require(self.config, name, size, f"one chunk of {what} is that large")
        if self._bottom + size > room:
            self._bottom = 0
        chunk.base = self._bottom
        self._bottom += size
        sizes = [other.size(self.config.lanes) for other in self._held]
        overlapping = [
            index
            for index, other in enumerate(self._held)
            if chunk.base < other.base + sizes[index] and other.base < chunk.base + size
        ]
        overwritten = [self._held.popleft() for _ in range(max(overlapping, default=-1) + 1)]
        if any(other.last >= chunk.first for other in overwritten):
            needed = max(sizes[: len(overwritten)]) + size
            require(self.config, name, max(needed, room + 1), f"two chunks of {what} at once")
        self._held.append(chunk)
        return overwritten


def schedule_fetches(
    program: Sequence[Labelled], config: AcceleratorConfig, scratch: tuple[int, int] = (0, 0)
) -> list[Labelled]:
    """Place the chunks of one task's program in their memories, and move their Fetches up.

    Parameters
    ----------
    program : sequence of Labelled
        Each Fetch of a chunk before the instructions that use it.
    config : AcceleratorConfig
    scratch : tuple of int
        First external word that changes from image to image, and the number of those words.

    Returns
    -------
    list of Labelled
        The same instructions with their addresses, Fetches in the same order.

    Raises
    ------
    RefusedError
        A chunk does not fit beside the one in use.
    """
    chunks = _chunks(program)
    instructions = [one.instruction for one in program]
    routes = [at for at, one in enumerate(instructions) if isinstance(one, Route) and one.last]
    stores = [at for at, one in enumerate(instructions) if isinstance(one, Store)]
    placed: list[_Chunk] = []
    moved: dict[int, list[_Chunk]] = {}
    position = 0
    rings = {memory: _Ring(config, memory) for memory in RINGS}
    for chunk in chunks.values():
        bounds = [position, *(other.last + 1 for other in rings[chunk.memory].place(chunk))]
        if len(placed) >= AHEAD:
            bounds.append(placed[-AHEAD].settled + 1)
        fetch = chunk.fetch.instruction
        assert isinstance(fetch, Fetch)
        if fetch.expert_enable:
            bounds.append(_behind(routes, chunk.emitted))
        if scratch[1] and fetch.source >= scratch[0]:
            bounds.append(_behind(stores, chunk.emitted))
        position = max(bounds)
        if position > chunk.first:
            raise ValueError(f"a chunk of {chunk.fetch.label} is used before its place is free")
        moved.setdefault(position, []).append(chunk)
        placed.append(chunk)
    result: list[Labelled] = []
    for index, one in enumerate(program):
        result += [_addressed(chunk.fetch, chunk.base) for chunk in moved.get(index, [])]
        if one.chunk is None:
            result.append(one)
        elif not isinstance(one.instruction, Fetch):
            result.append(_addressed(one, chunks[one.chunk].base))
    return result


def _behind(positions: list[int], limit: int) -> int:
    """Position behind the last one before `limit`, or 0."""
    index = bisect_left(positions, limit)
    return positions[index - 1] + 1 if index else 0


def _chunks(program: Sequence[Labelled]) -> dict[int, _Chunk]:
    """Find the chunks of a program, in the order of their Fetches."""
    chunks: dict[int, _Chunk] = {}
    for position, one in enumerate(program):
        if one.chunk is None:
            continue
        if isinstance(one.instruction, Fetch):
            chunks[one.chunk] = _Chunk(one, position, len(program), position)
        else:
            chunk = chunks[one.chunk]
            chunk.first, chunk.last = min(chunk.first, position), position
    return chunks


def _addressed(one: Labelled, base: int) -> Labelled:
    match one.instruction:
        case Fetch() as fetch:
            return replace(one, instruction=replace(fetch, target=base))
        case Matmul() as matmul:
            return replace(one, instruction=replace(matmul, base=matmul.base + base))
        case Post() | Norm() | Route() as user:
            return replace(one, instruction=replace(user, param_base=user.param_base + base))
    raise ValueError(f"{type(one.instruction).__name__} with a chunk")
