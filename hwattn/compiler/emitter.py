"""The emitter: appends instructions, gives out slots and accumulator banks, and cuts matrix work into chunks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hwattn.compiler.layout import ceil_div, split_evenly
from hwattn.compiler.memory import ReadOnlyMemory, page_words, require
from hwattn.compiler.operands import Entries, Expert, Piece, Place, Sink, Weights
from hwattn.compiler.plan import Form
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Fetch, Instruction, Load, Matmul, Memory, Post, Stage2

FETCH_WORDS = 2**16 - 1
"""Words of one run of a Fetch."""

BUFFERED_CHUNKS = 4
"""Chunks of weights that the buffer should hold: one is used, the others are on their way."""


@dataclass
class Emitter:
    """Instructions of all tasks, and the read-only memories that they share.

    Parameters
    ----------
    config : AcceleratorConfig
    paged : frozenset of Memory
        Of the parameter and the norm memory those whose entries lie in external memory and are fetched ahead of their use.

    Attributes
    ----------
    instructions : list of Instruction
    labels : list of str
        Layer of each instruction.
    chunks : list of (int or None)
        Chunk of weights or entries that an instruction fetches or uses; `hwattn.compiler.prefetch` gives it its place in its memory.
    """

    config: AcceleratorConfig
    paged: frozenset[Memory] = frozenset()
    instructions: list[Instruction] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    chunks: list[int | None] = field(default_factory=list)
    label: str = ""
    _slot: int = 0
    _bank: int = 0
    _chunk: int = 0

    def __post_init__(self) -> None:
        place = "external_words" if self.config.external_words else "weight_words"
        self.weights = ReadOnlyMemory(place, (self.config.lanes,), np.int8)
        self.params = ReadOnlyMemory("param_words", (3,), np.int64)
        self.norm_params = ReadOnlyMemory("norm_words", (), np.int64)
        self._entries = {Memory.PARAM: self.params, Memory.NORM: self.norm_params}

    @property
    def overflowing(self) -> frozenset[Memory]:
        """Memories of entries that hold fewer than the model has, in a machine that could fetch them."""
        if not self.config.external_words:
            return frozenset()
        return frozenset(
            memory
            for memory, contents in self._entries.items()
            if contents.size > getattr(self.config, contents.field)
        )

    def add_entries(self, memory: Memory, experts: list[NDArray[np.int64]]) -> Entries:
        """Store entries of the parameter or the norm memory, as many for each expert (or for the one that there is)."""
        if memory not in self.paged:
            return Entries(memory, self._entries[memory].add(np.concatenate(experts)), len(experts[0]))
        packed = [page_words(memory, entries, self.config.lanes) for entries in experts]
        words = len(packed[0])
        return Entries(memory, self.weights.add(np.concatenate(packed)), words, words)

    def fetch_entries(self, entries: Entries, expert: Expert | None = None) -> Entries:
        """Return entries where they can be read from: fetched, as those of an expert if its queue holds any token, if need be."""
        if entries.memory not in self.paged:
            return entries
        self._chunk += 1
        predicate = replace(expert, first=0).fields if expert else {}
        self.emit(
            Fetch(
                memory=entries.memory,
                source=entries.base,
                expert_stride=entries.stride if expert else 0,
                words=entries.words,
                runs=1,
                **predicate,
            ),
            self._chunk,
        )
        return Entries(entries.memory, 0, chunk=self._chunk)

    def emit(self, instruction: Instruction, chunk: int | None = None) -> None:
        """Append an instruction of the current layer."""
        self.instructions.append(instruction)
        self.labels.append(self.label)
        self.chunks.append(chunk)

    def fetch(self, weights: Weights, columns: tuple[int, int], expert: Expert | None = None) -> Weights:
        """Return rows `columns` (first, count) of a weight matrix where they can be streamed from: fetched into the buffer if need be.

        An expert's weights are fetched if its queue holds any token.
        """
        start, count = columns
        if not self.config.external_words:
            return replace(weights, base=weights.base + start * weights.words, rows=count)
        base = weights.base + start * weights.words
        runs, predicate = (1, count * weights.words), replace(expert, first=0) if expert else None
        chunk = self.fetch_runs(base, runs, 0, weights.expert_stride, predicate)
        return Weights(0, count, weights.words, chunk=chunk)

    def fetch_runs(
        self,
        source: int,
        runs: tuple[int, int],
        stride: int,
        expert_stride: int = 0,
        expert: Expert | None = None,
    ) -> int:
        """Fetch (runs, words of each) from external word `source` on as a chunk for the weight buffer; return its number.

        `stride` are the words from one run to the next; in the buffer they follow each other.
        """
        count, words = runs
        if stride == words and count * words <= FETCH_WORDS:
            count, words = 1, count * words
        self._chunk += 1
        self.emit(
            Fetch(
                memory=Memory.WEIGHT,
                source=source,
                expert_stride=expert_stride,
                words=words,
                runs=count,
                source_stride=stride if count > 1 else 0,
                target_stride=words if count > 1 else 0,
                **(expert.fields if expert else {}),
            ),
            self._chunk,
        )
        return self._chunk

    def next_slot(self) -> int:
        """Return the resident slot whose last use is longest ago."""
        self._slot = (self._slot + 1) % self.config.row_slots
        return self._slot

    def next_bank(self) -> int:
        """Return the first column of the accumulator bank that was not used last."""
        self._bank = (self._bank + 1) % self.config.acc_banks
        return self._bank * self.config.acc_columns

    def tiles(self, span: tuple[int, int]) -> list[tuple[int, int]]:
        """Cut tokens into tiles: (first token, rows)."""
        start, stop = span
        return [
            (token, min(self.config.rows, stop - token)) for token in range(start, stop, self.config.rows)
        ]

    def load_tile(
        self, place: Place, token: int, rows: int, words: int, form: Form = Form.ROWS
    ) -> list[Piece]:
        """Return the pieces of rows of `words` int8 words, each of which fits a slot; of 16-bit rows the high digits, then the low ones.

        In form WIDE a row is the words of low digits, then those of high digits; in form INT16 they alternate, and the low ones are
        unsigned.
        """
        lanes = self.config.lanes
        pieces = []
        for offset, length in split_evenly(words, self.config.row_words, 1):

            def load(first: int, step: int = 1, length: int = length) -> Load:
                base = (place.address(token) + first) * lanes
                row = self.load_rows(base, place.stride * lanes, rows, length)
                return replace(row, n0=1, n1=length, stride1=step * lanes) if step > 1 else row

            match form:
                case Form.WIDE:
                    pieces += [Piece(load(words + offset)), Piece(load(offset), low=True)]
                case Form.INT16:
                    pieces.append(Piece(load(2 * offset + 1, 2)))
                    pieces.append(Piece(load(2 * offset, 2), low=True, unsigned=True))
                case _:
                    pieces.append(Piece(load(offset)))
        return pieces

    def load_rows(self, base: int, row_stride: int, rows: int, words: int) -> Load:
        """Return the LOAD of `words` words each of rows `row_stride` bytes apart, without slot."""
        return Load(
            rows=rows,
            words=words,
            memory=Memory.ACT,
            base=base,
            row_stride=row_stride,
            row_wrap=rows,
            granule=self.config.lanes.bit_length() - 1,
            n0=words,
            n1=1,
            n2=1,
        )

    def operand(self, pieces: list[Piece]) -> Operand:
        """Return a tile's resident operand, whose pieces are loaded when they are first used."""
        return Operand(self, pieces)

    def matmul(self, operand: Operand, weights: Weights, expert: Expert | None = None) -> int:
        """Multiply a tile by rows of weights that `fetch` returned; return the first accumulator column.

        Rows that do not fit a slot are cut along the features, and the partial sums accumulated. Low digits meet the same weights
        as the high digits before them.
        """
        bank = self.next_bank()
        start = offset = 0
        for index, piece in enumerate(operand.pieces):
            slot = operand.slot(index)
            if not piece.low:
                start, offset = offset, offset + piece.load.words
            self.emit(
                Matmul(
                    slot=slot,
                    resident_unsigned=int(piece.unsigned),
                    words=piece.load.words,
                    memory=Memory.WEIGHT,
                    base=weights.base + start,
                    expert_stride=weights.expert_stride,
                    n0=weights.rows,
                    stride0=weights.words,
                    n1=1,
                    acc_base=bank,
                    accumulate=int(index > 0),
                    low_pass=int(piece.low),
                    **(expert.fields if expert else {}),
                ),
                weights.chunk,
            )
        return bank

    def column_chunks(
        self, columns: int, sinks: list[Sink], words: int, where: str, hiding: int = 0
    ) -> list[tuple[int, int]]:
        """Cut output columns, whose weights have `words` words each, into pieces: (first column, columns).

        A piece fits an accumulator bank, and with external memory also the weight buffer: as a part of it if possible, but where the room
        allows with `hiding` columns, behind which loading a tile hides.
        """
        unit = min(columns, max(sink.unit for sink in sinks) if sinks else 1)
        require(self.config, "acc_columns", unit, f"{where} needs {unit} accumulator columns at once")
        largest = self.config.acc_columns
        if self.config.external_words:
            require(
                self.config, "weight_words", unit * words, f"{where} needs {unit} rows of weights at once"
            )
            fitting = self.config.weight_words // words
            part = max(unit, fitting // BUFFERED_CHUNKS, min(ceil_div(hiding, unit) * unit, fitting))
            largest = min(largest, part, FETCH_WORDS // words)
        if columns <= largest:
            return [(0, columns)]
        return split_evenly(columns, largest, unit)

    def post(
        self,
        bank: int,
        columns: tuple[int, int],
        rows: int,
        sink: Sink,
        entries: Entries,
        expert: Expert | None = None,
    ) -> None:
        """Requantize accumulator columns from `bank` on by their entries, and write them where the sink says."""
        stage2 = Stage2.GATE if sink.gate else Stage2.CONSTANT if sink.second else Stage2.NONE
        for column, count, base in sink.pieces(*columns):
            self.emit(
                Post(
                    acc_base=bank + column - columns[0],
                    columns=count,
                    rows=rows,
                    param_base=entries.base + column,
                    expert_stride=entries.stride if expert else 0,
                    activation=int(sink.activation),
                    stage2=stage2,
                    m2=sink.second.multiplier if sink.second else 0,
                    s2=sink.second.shift if sink.second else 0,
                    format=sink.format,
                    scatter=int(sink.scatter),
                    base=base,
                    stride=sink.stride,
                    **(expert.fields if expert else {}),
                ),
                entries.chunk,
            )


class Operand:
    """A tile's resident operand: pieces along the features, loaded when first used and kept where the slots suffice."""

    def __init__(self, emitter: Emitter, pieces: list[Piece]) -> None:
        self.pieces = pieces
        self._emitter = emitter
        self._kept: dict[int, int] = {}
        self._keep = len(pieces) <= max(1, emitter.config.row_slots // 2)

    def slot(self, index: int) -> int:
        """Return the slot of piece `index`, after a LOAD if it is not there."""
        if index not in self._kept or not self._keep:
            self._kept[index] = self._emitter.next_slot()
            self._emitter.emit(replace(self.pieces[index].load, slot=self._kept[index]))
        return self._kept[index]
