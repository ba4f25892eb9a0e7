"""Mixture of experts: gate and queues first, then expert by expert with the tokens that its queue holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwattn.compiler.emitter import Emitter
from hwattn.compiler.layout import RowLayout
from hwattn.compiler.lowering.context import Context
from hwattn.compiler.lowering.product import Product, Tile, lower_products
from hwattn.compiler.memory import require
from hwattn.compiler.operands import Entries, Expert, Piece, Place, Sink, Weights
from hwattn.compiler.plan import Form
from hwattn.compiler.scales import (
    GATE_SCORE_LIMIT,
    activation_scaling,
    channel_params,
    check_accumulators,
    resident_limit,
    route_scaling,
)
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Add
from hwattn.spec.isa import Format, Memory, Route
from hwattn.spec.numbers import GATE_LIMIT, signed_digits
from hwattn.spec.quantized import QuantizedMatrix, QuantizedMixture

HIDDEN_BUFFERS = 2
"""Experts whose hidden activations are held at once: fc1 of the next runs before fc2 of this one."""


@dataclass(frozen=True)
class ExpertLayer:
    """fc1 or fc2 of all experts: rows one expert after the other, parameter entries too."""

    weights: Weights
    entries: Entries


class MixtureLowering:
    """Lowers one mixture into the residual stream of `target`."""

    def __init__(self, context: Context, node: QuantizedMixture, target: Add) -> None:
        self.context, self.node, self.target = context, node, target
        self.emitter: Emitter = context.emitter
        plan, config = context.plan, self.emitter.config
        self.start, self.stop = plan.needed[node.name]
        self.source = plan.source(node.inputs[0])
        self.input_layout = plan.layout(self.source)
        self.hidden_layout = hidden_layout(node, config.lanes)
        require(config, "experts", len(node.experts), f"{node.name} has {len(node.experts)} experts")
        require(
            config,
            "tokens",
            self.stop - self.start,
            f"{node.name} may send {self.stop - self.start} tokens to one expert",
        )
        _check_experts(node)
        self.input_form = plan.operand_form(node.inputs[0], node.input_bits)
        self.hidden_form = Form.ROWS if node.hidden_bits == 8 else Form.INT16
        self.fc1 = self._layer(
            [expert.fc1 for expert in node.experts],
            self.input_layout,
            plan.scale(self.source),
            None,
            node.input_bits,
        )
        self.fc2 = self._layer(
            [expert.fc2 for expert in node.experts],
            self.hidden_layout,
            node.hidden_scale,
            plan.scale(target.name),
            node.hidden_bits,
        )

    def _layer(
        self,
        matrices: list[QuantizedMatrix],
        layout: RowLayout,
        scale: float,
        result_scale: float | None,
        bits: int,
    ) -> ExpertLayer:
        """Store a layer of all experts that reads so many bits; `result_scale` is None before an activation."""
        packed, params = [], []
        for index, matrix in enumerate(matrices):
            where = f"{self.node.name}, expert {index}"
            check_accumulators(
                matrix.weight.astype(np.int64), matrix.bias.astype(np.int64), resident_limit(bits), where
            )
            packed.append(layout.pack(matrix.weight))
            factors = matrix.scale * scale / (result_scale or 1.0)
            params.append(channel_params(matrix.bias, factors, result_scale is None, where))
        rows, words = packed[0].shape[:2]
        base = self.emitter.weights.add(np.concatenate(packed))
        return ExpertLayer(
            Weights(base, rows, words, rows * words), self.emitter.add_entries(Memory.PARAM, params)
        )

    def lower(self) -> None:
        """Emit the gate, then fc1 of expert e+1 before fc2 of expert e.

        Later tiles of a queue are often skipped, but their tokens still pass the queues in order. With the tiles of fc2 in descending
        order the skipped ones lie together, between fc1 and fc2: an expert then waits only once for the post-processing before it.
        """
        self.gate()
        experts = len(self.node.experts)
        tiles = self.emitter.tiles((0, self.stop - self.start))
        for meta in range(experts + 1):
            if meta < experts:
                self.first_layer([(Expert(meta, first), rows) for first, rows in tiles])
            if meta > 0:
                self.second_layer([(Expert(meta - 1, first), rows) for first, rows in reversed(tiles)])
        tokens = self.stop - self.start
        expert = self.node.experts[0]
        self.context.macs += tokens * self.node.gate_weight[0].size
        self.context.macs += tokens * self.node.k * (expert.fc1.weight.size + expert.fc2.weight.size)

    def gate(self) -> None:
        """Emit LOAD of the wide copy, MATMUL with the three digit rows of every expert, and ROUTE."""
        node, emitter, plan = self.node, self.emitter, self.context.plan
        weight = node.gate_weight[plan.task].astype(np.int64)
        bias = node.gate_bias[plan.task].astype(np.int64)
        _check_gate(node, weight, bias)
        columns = 3 * len(weight)
        require(emitter.config, "acc_columns", columns, f"{node.name} has a gate of {len(weight)} experts")
        packed = gate_rows(weight, emitter.config.lanes)
        weights = Weights(emitter.weights.add(packed), columns, packed.shape[1])
        entries = emitter.fetch_entries(emitter.add_entries(Memory.NORM, [bias]))
        score_shift, constants = route_scaling(plan.scale(self.source) / 256 * node.gate_scale, node.name)
        place = self.context.place(node.inputs[0], Form.WIDE)
        fetched = emitter.fetch(weights, (0, columns))
        for token, rows in emitter.tiles((self.start, self.stop)):
            # both digits are one long row here: each meets its own weights
            operand = emitter.operand(emitter.load_tile(place, token, rows, weights.words))
            bank = emitter.matmul(operand, fetched)
            emitter.emit(
                Route(
                    acc_base=bank,
                    rows=rows,
                    token=token - self.start,
                    experts=len(weight),
                    k=node.k,
                    renormalize=int(node.renormalize),
                    score_shift=score_shift,
                    multiplier=constants.multiplier,
                    shift=constants.shift,
                    param_base=entries.base,
                    clear=int(token == self.start),
                    last=int(token + rows == self.stop),
                ),
                entries.chunk,
            )

    def _hidden(self, expert: Expert) -> Place:
        tokens = self.stop - self.start
        words = self.hidden_layout.words * (self.node.hidden_bits // 8)
        return Place(
            self.context.scratch[self.node.name] + expert.meta % HIDDEN_BUFFERS * tokens * words, words
        )

    def first_layer(self, tiles: list[tuple[Expert, int]]) -> None:
        """Emit fc1 of the tiles of an expert's queue into the hidden activations."""
        place = self.context.place(self.node.inputs[0], self.input_form)
        wide = self.node.hidden_bits == 16
        second = activation_scaling(self.node.hidden_scale / (256 if wide else 1), self.node.name)

        def loads(rows: int) -> list[Piece]:
            words = self.input_layout.words
            pieces = self.emitter.load_tile(place, self.start, rows, words, self.input_form)
            return [replace(piece, load=replace(piece.load, gather=1)) for piece in pieces]

        def sink(expert: Expert) -> Sink:
            hidden = self._hidden(expert)
            return Sink(
                Format.INT16 if wide else Format.INT8,
                hidden.address(expert.first),
                hidden.stride,
                self.hidden_layout,
                activation=True,
                second=second,
            )

        self._layer_tiles(self.fc1, [(expert, rows, loads(rows)) for expert, rows in tiles], sink)

    def second_layer(self, tiles: list[tuple[Expert, int]]) -> None:
        """Emit fc2 of the tiles of an expert's queue, each token's result weighed and added to its residual."""
        place = self.context.place(self.target.name, Form.INT16)
        dim = self.fc2.weights.rows

        def loads(expert: Expert, rows: int) -> list[Piece]:
            words = self.hidden_layout.words
            return self.emitter.load_tile(self._hidden(expert), expert.first, rows, words, self.hidden_form)

        def sink(_: Expert) -> Sink:
            return Sink(
                Format.RESIDUAL,
                place.address(self.start),
                place.stride,
                RowLayout(dim, dim, self.emitter.config.lanes),
                gate=True,
                scatter=True,
            )

        self._layer_tiles(self.fc2, [(expert, rows, loads(expert, rows)) for expert, rows in tiles], sink)

    def _layer_tiles(
        self,
        layer: ExpertLayer,
        tiles: list[tuple[Expert, int, list[Piece]]],
        sink: Callable[[Expert], Sink],
    ) -> None:
        def sinks(tile: Tile) -> list[Sink]:
            return [sink(tile.expert)] if tile.expert else []

        lower_products(
            self.emitter,
            [
                Tile(
                    expert.first,
                    rows,
                    [replace(piece, load=replace(piece.load, **expert.fields)) for piece in pieces],
                    expert,
                )
                for expert, rows, pieces in tiles
            ],
            [Product(layer.weights, layer.entries, sinks, self.node.name)],
        )


def lower_mixture(context: Context, node: QuantizedMixture, target: Add) -> None:
    """Lower a mixture of experts into the residual stream of `target`."""
    MixtureLowering(context, node, target).lower()


def hidden_layout(node: QuantizedMixture, lanes: int) -> RowLayout:
    """Layout of an expert's hidden activations."""
    hidden = node.experts[0].fc1.weight.shape[0]
    return RowLayout(hidden, hidden, lanes)


def hidden_words(node: QuantizedMixture, tokens: int, lanes: int) -> int:
    """Words of scratch memory for the hidden activations of the experts in flight."""
    return HIDDEN_BUFFERS * tokens * hidden_layout(node, lanes).words * (node.hidden_bits // 8)


def gate_rows(weight: NDArray[np.int64], lanes: int) -> NDArray[np.int8]:
    """Build the three streamed rows of every expert against the wide copy [low digits | high digits].

    Parameters
    ----------
    weight : ndarray of int64, shape (experts, dim)
        Within +-32639.
    lanes : int

    Returns
    -------
    ndarray of int8, shape (3 * experts, words, lanes)
        Rows [low | 0], [high | low] and [0 | high]: their columns have the weights 1, 2**8 and 2**16.
    """
    layout = RowLayout(weight.shape[1], weight.shape[1], lanes)
    low, high = (layout.pack(digit.astype(np.int8)) for digit in signed_digits(weight))
    zero = np.zeros_like(low)
    rows = [np.concatenate(pair, axis=1) for pair in ((low, zero), (high, low), (zero, high))]
    return np.stack(rows, axis=1).reshape(-1, 2 * layout.words, lanes)


def _check_experts(node: QuantizedMixture) -> None:
    shapes = {(expert.fc1.weight.shape, expert.fc2.weight.shape) for expert in node.experts}
    if len(shapes) != 1:
        raise RefusedError(
            f"{node.name}: experts of different shapes",
            "experts of one shape",
            "pad the smaller experts with zeros",
        )
    if not 1 <= node.k <= min(15, len(node.experts)):
        raise RefusedError(
            f"{node.name}: k={node.k} of {len(node.experts)} experts",
            f"1 to {min(15, len(node.experts))}",
            "choose another number of experts for a token",
        )


def _check_gate(node: QuantizedMixture, weight: NDArray[np.int64], bias: NDArray[np.int64]) -> None:
    worst = np.abs(weight).sum(axis=1) * GATE_LIMIT + np.abs(bias)
    if worst.max() >= GATE_SCORE_LIMIT or np.abs(weight).max() > GATE_LIMIT:
        raise RefusedError(
            f"{node.name}: a gate score that can reach {int(worst.max())}",
            f"less than 2**47 and weights up to {GATE_LIMIT}",
            "quantize the gate with a coarser scale",
        )
