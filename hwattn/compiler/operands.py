"""What instructions work on: where tensors, weights and entries lie, and where and how results are written."""

from __future__ import annotations

from dataclasses import dataclass

from hwattn.compiler.layout import RowLayout, int16_words
from hwattn.compiler.scales import Scaling
from hwattn.spec.isa import Format, Load, Memory


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: token t at word ``base + (t - origin) * stride`` of the activation memory."""

    base: int
    stride: int
    origin: int = 0

    def address(self, token: int) -> int:
        """Word address of a token."""
        return self.base + (token - self.origin) * self.stride


@dataclass(frozen=True)
class Expert:
    """Predicate of an instruction that belongs to an expert: entry `meta` of the metaqueue, tokens from `first` on."""

    meta: int
    first: int

    @property
    def fields(self) -> dict[str, int]:
        """Return the fields of a predicated instruction."""
        return {"expert_enable": 1, "meta": self.meta, "first": self.first}


@dataclass(frozen=True)
class Piece:
    """A part of a tile's rows along the features, that fits a slot: its LOAD, without slot.

    With `low` it holds the low digits of the 16-bit rows whose high digits the piece before it holds: their products are added
    shifted right by 8 bits.
    """

    load: Load
    low: bool = False
    unsigned: bool = False


@dataclass(frozen=True)
class Weights:
    """Streamed rows: `rows` rows of `words` words from word `base` on; those of the next expert `expert_stride` words on.

    In external memory they are fetched chunk by chunk; of a chunk in the buffer `base` counts from its first word, and `chunk` is its
    number, or None for weights that stay in their memory.
    """

    base: int
    rows: int
    words: int
    expert_stride: int = 0
    chunk: int | None = None


@dataclass(frozen=True)
class Entries:
    """Entries of the parameter or the norm memory: from entry `base` on, those of the next expert `stride` entries on.

    Where that memory is paged, `base` and `stride` are words of external memory, and `words` what one expert's entries take there, until they
    are fetched; then `base` counts from the first of their `chunk`.
    """

    memory: Memory
    base: int
    stride: int = 0
    words: int = 0
    chunk: int | None = None


@dataclass(frozen=True)
class Sink:
    """Where and how POST writes a layer's result.

    `base` is the address of the tile's first row: a word address, or a BYTE address in format COLUMNS; `second` is the second scaling of an
    activation or None.
    """

    format: Format
    base: int
    stride: int
    layout: RowLayout
    activation: bool = False
    second: Scaling | None = None
    gate: bool = False
    scatter: bool = False

    def pieces(self, start: int, count: int) -> list[tuple[int, int, int]]:
        """Cut columns into pieces that one POST can write: (first column, columns, base)."""
        lanes = self.layout.lanes
        if self.format is Format.COLUMNS:
            return [(start, count, self.base + start * self.stride * lanes)]
        if self.format is not Format.INT8:
            return [(start, count, self.base + int16_words(start, lanes))]
        if self.layout.plain:
            return [(start, count, self.base + self.layout.word(start))]
        group = self.layout.group
        return [
            (column, min(group, start + count - column), self.base + self.layout.word(column))
            for column in range(start, start + count, group)
        ]

    @property
    def unit(self) -> int:
        """Columns that a chunk must be a multiple of."""
        if self.format is Format.COLUMNS:
            return 1
        return self.layout.lanes if self.format is not Format.INT8 or self.layout.plain else self.layout.group
