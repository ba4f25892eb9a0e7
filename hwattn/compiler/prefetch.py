"""Prefetch: gives chunks of weights their places in the buffer, and fetches each as early as its place is free.

The buffer is a ring. A chunk's place is free when the last instruction that streams what lay there has been issued, so a Fetch moves up in
the program to right behind that instruction: across layers, and limited by the size of the buffer alone. Three more bounds hold. An expert's
chunk is known only behind the Route that completes the metaqueue. What the program itself writes to external memory is fetched behind the
Store before it. And no more than `AHEAD` chunks are under way, so that the queue of the
fetcher, which the dispatcher fills in program order, never keeps other instructions waiting.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hwattn.compiler.memory import require
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Fetch, Instruction, Matmul, Route, Store

AHEAD = 12


@dataclass(frozen=True)
class Labelled:
    """An instruction, its layer, and the chunk of weights that it fetches or streams."""

    instruction: Instruction
    label: str
    chunk: int | None


@dataclass
class _Chunk:
    """A chunk: its Fetch and where that stood, the positions of the first and the last instruction that streams it, its place in the buffer."""

    fetch: Labelled
    emitted: int
    first: int
    last: int
    base: int = 0

    @property
    def words(self) -> int:
        assert isinstance(self.fetch.instruction, Fetch)
        return self.fetch.instruction.runs * self.fetch.instruction.words


def schedule_fetches(
    program: Sequence[Labelled], config: AcceleratorConfig, scratch: tuple[int, int] = (0, 0)
) -> list[Labelled]:
    """Place the chunks of one task's program in the weight buffer, and move their Fetches up.

    Parameters
    ----------
    program : sequence of Labelled
        Each Fetch of a chunk before the instructions that stream it.
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
    position, bottom = 0, 0
    ring: deque[_Chunk] = deque()
    for chunk in chunks.values():
        if bottom + chunk.words > config.weight_words:
            bottom = 0
        chunk.base = bottom
        bottom += chunk.words
        overwritten = _overwritten(ring, chunk)
        if any(other.last >= chunk.first for other in overwritten):
            needed = max(other.words for other in overwritten) + chunk.words
            require(
                config, "weight_words", max(needed, config.weight_words + 1), "two chunks of weights at once"
            )
        ring.append(chunk)
        bounds = [position, *(other.last + 1 for other in overwritten)]
        if len(placed) >= AHEAD:
            bounds.append(placed[-AHEAD].last + 1)
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


def _overwritten(ring: deque[_Chunk], chunk: _Chunk) -> list[_Chunk]:
    """Take the chunks out of the ring whose places the new one takes, the oldest first, and all older ones with them."""
    overlapping = [
        index
        for index, other in enumerate(ring)
        if chunk.base < other.base + other.words and other.base < chunk.base + chunk.words
    ]
    return [ring.popleft() for _ in range(max(overlapping, default=-1) + 1)]


def _addressed(one: Labelled, base: int) -> Labelled:
    match one.instruction:
        case Fetch() as fetch:
            return replace(one, instruction=replace(fetch, target=base))
        case Matmul() as matmul:
            return replace(one, instruction=replace(matmul, base=matmul.base + base))
    raise ValueError(f"{type(one.instruction).__name__} with a chunk of weights")
