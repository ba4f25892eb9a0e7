"""Products of tiles of tokens with weight matrices: the loop order that all layers with weights share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hwattn.compiler.emitter import Emitter, Operand
from hwattn.compiler.layout import ceil_div
from hwattn.compiler.operands import Entries, Expert, Piece, Sink, Weights


@dataclass(frozen=True)
class Tile:
    """Resident rows: tokens `token` to ``token + rows - 1``, their pieces (see `Emitter.operand`), and the expert they belong to."""

    token: int
    rows: int
    pieces: list[Piece]
    expert: Expert | None = None


@dataclass(frozen=True)
class Product:
    """A weight matrix, the entries of its columns, and the sinks of each tile's result; `where` names the layer in messages.

    `load_cycles` are those of loading a tile, where that takes more than a cycle for each word.
    """

    weights: Weights
    entries: Entries
    sinks: Callable[[Tile], list[Sink]]
    where: str
    load_cycles: int = 0


def lower_products(emitter: Emitter, tiles: list[Tile], products: list[Product]) -> None:
    """Multiply tiles by weight matrices, and post-process each piece of the results.

    Weights on chip: tile by tile, so that a tile is loaded once. Weights in external memory: chunk by chunk, so that each is fetched once
    whatever the number of tiles; loading a tile hides behind a chunk of at least `rows` weight rows.
    """
    if emitter.config.external_words:
        for product in products:
            own = replace(product, entries=emitter.fetch_entries(product.entries, tiles[0].expert))
            for columns in _chunks(emitter, product, tiles[0]):
                weights = emitter.fetch(product.weights, columns, tiles[0].expert)
                for tile in tiles:
                    _lower(emitter, tile, emitter.operand(tile.pieces), own, weights, columns)
        return
    for tile in tiles:
        operand = emitter.operand(tile.pieces)
        for product in products:
            for columns in _chunks(emitter, product, tile):
                weights = emitter.fetch(product.weights, columns)
                _lower(emitter, tile, operand, product, weights, columns)


def _chunks(emitter: Emitter, product: Product, tile: Tile) -> list[tuple[int, int]]:
    weights = product.weights
    hiding = ceil_div(product.load_cycles, weights.words)
    return emitter.column_chunks(weights.rows, product.sinks(tile), weights.words, product.where, hiding)


def _lower(
    emitter: Emitter,
    tile: Tile,
    operand: Operand,
    product: Product,
    weights: Weights,
    columns: tuple[int, int],
) -> None:
    bank = emitter.matmul(operand, weights, tile.expert)
    for sink in product.sinks(tile):
        emitter.post(bank, columns, tile.rows, sink, product.entries, tile.expert)
