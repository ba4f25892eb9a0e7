"""Attention: scores of the next unit of work before the values of this one, so that the softmax hides."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hwattn.compiler.emitter import Emitter
from hwattn.compiler.layout import RowLayout, ceil_div
from hwattn.compiler.lowering.context import Context
from hwattn.compiler.memory import require
from hwattn.compiler.operands import Place
from hwattn.compiler.plan import Form
from hwattn.compiler.scales import ACCUMULATOR_LIMIT, Scaling, row_scaling, score_scaling
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import RefusedError
from hwattn.spec.isa import SOFTMAX_STATES, Format, Matmul, Memory, Post, Softmax
from hwattn.spec.quantized import QuantizedAttention


@dataclass(frozen=True)
class Unit:
    """One block of keys of one head for one tile of queries; `index` counts the (tile, head) pairs."""

    index: int
    token: int
    rows: int
    head: int
    key: int
    keys: int
    last: bool


@dataclass(frozen=True)
class Stream:
    """Rows to stream: the first word, and the words from one to the next."""

    memory: Memory
    base: int
    stride: int
    chunk: int | None = None


@dataclass(frozen=True)
class Slots:
    """Resident slots of attention: for queries, and for probabilities (the high bytes, then the low bytes)."""

    query: tuple[int, ...]
    probability: tuple[int, ...]


@dataclass
class AttentionLowering:
    """Lowers one attention node.

    Values take the lower half of the accumulator banks and scores the upper half: scores stream while the values before them are
    post-processed, and values stream while the scores after them pass the softmax. With two banks each, neither waits for its own bank.
    """

    context: Context
    node: QuantizedAttention

    def __post_init__(self) -> None:
        plan, node = self.context.plan, self.node
        self.emitter: Emitter = self.context.emitter
        config = self.emitter.config
        query, key, value = node.inputs
        self.query = self.context.place(query, Form.ROWS)
        wide = node.name in plan.sixteen
        self.result_format = Format.INT16 if wide else Format.INT8
        self.result: Place = self.context.place(node.name, Form.INT16 if wide else Form.ROWS)
        self.result_layout: RowLayout = plan.layout(node.name)
        self.head_dim = plan.features[query] // node.heads
        self.value_dim = plan.features[value] // node.heads
        self.words = ceil_div(self.head_dim, config.lanes)
        self.keys = plan.rows[key]
        self.block = key_block(node, self.keys, config)
        require(config, "acc_columns", self.value_dim, f"{node.name} has heads of that many features")
        require(config, "row_words", self.words, f"{node.name} has heads of that many words")
        require(
            config,
            "row_slots",
            3 if node.p_bits == 16 else 2,
            f"{node.name} has {node.p_bits}-bit probabilities",
        )
        self.slots = attention_slots(config.row_slots, node.p_bits)
        worst = max(self.keys * 255 * 128 + self.keys, self.head_dim * 128 * 128)
        if worst >= ACCUMULATOR_LIMIT:
            raise RefusedError(
                f"{node.name}: {self.keys} keys", "at most 65,000 keys", "shorten the sequence of tokens"
            )
        self.score_scalings = [self._score_scaling(head) for head in range(node.heads)]
        self.row_scalings = [self._row_scaling(head) for head in range(node.heads)]

    def _scale(self, name: str, head: int) -> float:
        scale = self.context.plan.model.scales[name]
        if scale.size not in (1, self.node.heads):
            raise RefusedError(
                f"{name}: {scale.size} scales",
                f"1, or {self.node.heads}, one for each head",
                "quantize the model again",
            )
        return float(scale[head % scale.size])

    def _score_scaling(self, head: int) -> Scaling:
        query, key, _ = self.node.inputs
        return score_scaling(
            self._scale(query, head) * self._scale(key, head) * self.node.scale, self.node.name
        )

    def _row_scaling(self, head: int) -> Scaling:
        value_scale = self._scale(self.node.inputs[2], head)
        result_scale = self.context.plan.stored_scale(self.node.name)
        return row_scaling(value_scale, result_scale, self.keys, self.node.name)

    def lower(self) -> None:
        """Emit S(0), then for each unit S(u+1), the softmax of u+1 and PV(u).

        PV(u) comes before the softmax where that would overwrite the probabilities or the growth that it reads.
        """
        units = self.units()
        self.scores(units[0])
        self.softmax(units[0])
        for unit, following in zip(units, [*units[1:], None], strict=True):
            if following is None:
                self.values(unit)
                continue
            self.scores(following)
            if self._in_the_way(unit, following):
                self.values(unit)
                self.softmax(following)
            else:
                self.softmax(following)
                self.values(unit)
        start, stop = self.context.span(self.node.name)
        per_pair = self.head_dim + self.value_dim
        self.context.macs += (stop - start) * self.keys * per_pair * self.node.heads

    def units(self) -> list[Unit]:
        """List the units of work: tiles, in each the heads, in each the blocks of keys."""
        tiles = self.emitter.tiles(self.context.span(self.node.name))
        pairs = [(token, rows, head) for token, rows in tiles for head in range(self.node.heads)]
        return [
            Unit(
                index,
                token,
                rows,
                head,
                key,
                min(self.block, self.keys - key),
                key + self.block >= self.keys,
            )
            for index, (token, rows, head) in enumerate(pairs)
            for key in range(0, self.keys, self.block)
        ]

    def _probability_slot(self, unit: Unit) -> int:
        position = unit.index * ceil_div(self.keys, self.block) + unit.key // self.block
        return self.slots.probability[position % len(self.slots.probability)]

    def _in_the_way(self, unit: Unit, following: Unit) -> bool:
        same_state = unit.index % SOFTMAX_STATES == following.index % SOFTMAX_STATES
        return same_state or self._probability_slot(unit) == self._probability_slot(following)

    def scores(self, unit: Unit) -> None:
        """Emit LOAD of the queries (once for all blocks), and MATMUL with the keys."""
        config = self.emitter.config
        slot = self.slots.query[unit.index % len(self.slots.query)]
        if unit.key == 0:
            base = self.query.address(unit.token) + unit.head * self.words
            load = self.emitter.load_rows(
                base * config.lanes, self.query.stride * config.lanes, unit.rows, self.words
            )
            self.emitter.emit(replace(load, slot=slot))
        stream = self._keys(unit)
        self.emitter.emit(
            Matmul(
                slot=slot,
                words=self.words,
                memory=stream.memory,
                base=stream.base,
                n0=unit.keys,
                stride0=stream.stride,
                n1=1,
                acc_base=self._score_bank(unit),
            ),
            stream.chunk,
        )

    def _keys(self, unit: Unit) -> Stream:
        """Find a block of keys, in external memory fetched into the weight buffer."""
        name = self.node.inputs[1]
        offset = unit.head * self.words
        if name not in self.context.external:
            place = self.context.place(name, Form.ROWS)
            return Stream(Memory.ACT, place.address(unit.key) + offset, place.stride)
        base, stride = self.context.external[name]
        chunk = self.emitter.fetch_runs(base + unit.key * stride + offset, (unit.keys, self.words), stride)
        return Stream(Memory.WEIGHT, 0, self.words, chunk)

    def _values(self, unit: Unit) -> Stream:
        """Find a block of V^T, in external memory fetched into the weight buffer."""
        name, config = self.node.inputs[2], self.emitter.config
        offset = unit.key // config.lanes
        feature = unit.head * self.value_dim
        if name not in self.context.external:
            place = self.context.place(name, Form.COLUMNS)
            return Stream(Memory.ACT, place.base + feature * place.stride + offset, place.stride)
        base, stride = self.context.external[name]
        words = ceil_div(unit.keys, config.lanes)
        chunk = self.emitter.fetch_runs(base + feature * stride + offset, (self.value_dim, words), stride)
        return Stream(Memory.WEIGHT, 0, words, chunk)

    def _bank(self, upper: bool, number: int) -> int:
        """First column of one of the banks for values or (`upper`) for scores."""
        config = self.emitter.config
        half = config.acc_banks // 2
        return (half * upper + number % half) * config.acc_columns

    def _score_bank(self, unit: Unit) -> int:
        return self._bank(True, unit.index * ceil_div(self.keys, self.block) + unit.key // self.block)

    def softmax(self, unit: Unit) -> None:
        """Emit SOFTMAX of the scores into the unit's slot."""
        constants = self.score_scalings[unit.head]
        self.emitter.emit(
            Softmax(
                acc_base=self._score_bank(unit),
                keys=unit.keys,
                rows=unit.rows,
                slot=self._probability_slot(unit),
                p16=int(self.node.p_bits == 16),
                multiplier=constants.multiplier,
                shift=constants.shift,
                state=unit.index % SOFTMAX_STATES,
                first=int(unit.key == 0),
                mask_low=0,
                mask_high=unit.keys,
            )
        )

    def values(self, unit: Unit) -> None:
        """Emit MATMUL of the probabilities with V^T (twice for 16 bits), and POST after the last block."""
        config = self.emitter.config
        later = int(unit.key > 0)
        state = unit.index % SOFTMAX_STATES
        stream = self._values(unit)
        high = Matmul(
            slot=self._probability_slot(unit),
            resident_unsigned=1,
            words=ceil_div(unit.keys, config.lanes),
            memory=stream.memory,
            base=stream.base,
            n0=self.value_dim,
            stride0=stream.stride,
            n1=1,
            acc_base=self._bank(False, unit.index),
            accumulate=later,
            rescale=later,
            state=state,
        )
        self.emitter.emit(high, stream.chunk)
        if self.node.p_bits == 16:
            low = replace(high, slot=high.slot + 1, accumulate=1, rescale=0, low_pass=1)
            self.emitter.emit(low, stream.chunk)
        if unit.last:
            constants = self.row_scalings[unit.head]
            word = self.result_layout.word(unit.head * self.value_dim)
            if self.result_format is Format.INT16:
                word *= 2
            self.emitter.emit(
                Post(
                    acc_base=self._bank(False, unit.index),
                    columns=self.value_dim,
                    rows=unit.rows,
                    row_scale=1,
                    state=state,
                    m2=constants.multiplier,
                    s2=constants.shift,
                    format=self.result_format,
                    base=self.result.address(unit.token) + word,
                    stride=self.result.stride,
                )
            )


def lower_attention(context: Context, node: QuantizedAttention) -> None:
    """Lower attention: for each unit LOAD, MATMUL, SOFTMAX, then MATMUL and POST."""
    AttentionLowering(context, node).lower()


def key_block(node: QuantizedAttention, keys: int, config: AcceleratorConfig) -> int:
    """Keys of one block: the node's own choice, else all keys if they fit, else as many as fit.

    Raises
    ------
    RefusedError
        If the node's own choice does not fit, or does not start on a word.
    """
    room = min(config.acc_columns, config.row_words * config.lanes)
    wanted = min(node.key_block or keys, keys)
    if wanted < keys and wanted % config.lanes and node.key_block:
        raise RefusedError(
            f"{node.name}: key_block={node.key_block}",
            f"a multiple of lanes={config.lanes}",
            "choose another block of keys, or 0 for the compiler's choice",
        )
    if wanted <= room:
        return wanted
    if node.key_block:
        require(config, "acc_columns", wanted, f"{node.name} has blocks of {wanted} keys")
        require(
            config, "row_words", ceil_div(wanted, config.lanes), f"{node.name} has blocks of {wanted} keys"
        )
    block = room // config.lanes * config.lanes
    require(config, "acc_columns", config.lanes, f"{node.name} needs a block of at least one word of keys")
    return block


def attention_slots(row_slots: int, p_bits: int) -> Slots:
    """Divide the slots: as many for probabilities as double buffering needs, and the queries before them."""
    each = 2 if p_bits == 16 else 1
    queries = 2 if row_slots >= 2 + each and row_slots > 3 else 1
    count = min(2, (row_slots - queries) // each)
    return Slots(tuple(range(queries)), tuple(queries + each * index for index in range(count)))
