"""Patch embedding: the constant token matrix is copied, and the projected patches are added to it.

An image in external memory passes in bands of its rows, each fetched before its patches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwattn.compiler.layout import RowLayout, ceil_div, pack_int16
from hwattn.compiler.lowering.context import Context
from hwattn.compiler.lowering.product import Product, Tile, lower_products
from hwattn.compiler.memory import require
from hwattn.compiler.operands import Piece, Sink, Weights
from hwattn.compiler.plan import Form, Span
from hwattn.compiler.scales import channel_params, check_accumulators
from hwattn.spec.errors import RefusedError
from hwattn.spec.isa import Copy, Fetch, Format, Load, Memory
from hwattn.spec.quantized import QuantizedPatchEmbed

COPY_WORDS = 2**16 - 1


@dataclass(frozen=True)
class Part:
    """A part of the kernel that fits a slot: `channels` from `channel` on, kernel rows from `row` on."""

    channel: int
    channels: int
    row: int
    rows: int


def lower_patch_embed(context: Context, node: QuantizedPatchEmbed) -> None:
    """Lower patch embedding: COPY, then LOAD, MATMUL and POST for each tile of patches."""
    emitter, plan = context.emitter, context.plan
    lanes = emitter.config.lanes
    start, stop = context.span(node.name)
    stream = node.name in plan.residual
    place = context.place(node.name, Form.INT16 if stream else Form.ROWS)
    if stream:
        _copy_init(context, node, place.address(start), (start, stop))
    elif node.init.any():
        raise RefusedError(
            f"{node.name}: constant tokens or position embeddings that linear layers read",
            "a LayerNorm between the embedding and the first linear layer",
            "cut the model behind the position embeddings, or quantize it again",
        )
    format = Format.RESIDUAL if stream else Format.INT8

    dim, _, kernel_height, kernel_width = node.weight.shape
    _, height, width = plan.model.image_shape
    patches = (height // kernel_height) * (width // kernel_width)
    parts = _parts(context, node)
    packed = _pack(node.weight, parts, lanes)
    factors = node.scale * plan.scale(plan.model.image) / plan.scale(node.name)
    bias = np.zeros(dim, np.int32)
    check_accumulators(node.weight.reshape(dim, -1).astype(np.int64), bias.astype(np.int64), 128, node.name)
    weights = Weights(emitter.weights.add(packed), dim, packed.shape[1])
    entries = emitter.add_entries(Memory.PARAM, [channel_params(bias, factors, False, node.name)])
    granule = int(math.log2(math.gcd(kernel_width, width, lanes)))
    layout = plan.layout(node.name)

    def sinks(tile: Tile) -> list[Sink]:
        base = place.address(node.first + tile.token)
        return [Sink(format, base, place.stride, layout)]

    first, last = max(0, start - node.first), min(patches, stop - node.first)
    # the loader moves a granule per cycle
    load_cycles = emitter.config.rows * (node.weight[0].size >> granule)
    for view, span in _views(context, node, (first, last)):
        tiles = [
            Tile(patch, rows, [_load(view, part, patch, rows, granule) for part in parts])
            for patch, rows in emitter.tiles(span)
        ]
        lower_products(emitter, tiles, [Product(weights, entries, sinks, node.name, load_cycles)])
    context.macs += max(0, last - first) * node.weight.size


@dataclass(frozen=True)
class View:
    """The part of the image that patches are loaded from.

    Parameters
    ----------
    lanes : int
    base : int
        Byte of the activation memory at which its first channel begins.
    channel_stride : int
        Bytes from one channel to the next.
    width, kernel : int, tuple of int
        Bytes of a row; height and width of a patch.
    first : int
        Its first patch.
    """

    lanes: int
    base: int
    channel_stride: int
    width: int
    kernel: tuple[int, int]
    first: int


def _views(context: Context, node: QuantizedPatchEmbed, patches: Span) -> Iterator[tuple[View, Span]]:
    """Yield the parts of the image in which patches lie, each with its patches, after the Fetch of a band."""
    _, height, width = context.plan.model.image_shape
    kernel = node.weight.shape[2], node.weight.shape[3]
    lanes, image, (start, stop) = context.emitter.config.lanes, context.image, patches
    if image.band is None:
        if start < stop:
            yield View(lanes, image.base * lanes, height * width, width, kernel, 0), patches
        return
    across = width // kernel[1]
    per_band = image.band.rows // kernel[0] * across
    for first in range(start // across * across, stop, per_band):
        row = first // across * kernel[0]
        phase = _fetch_band(context, row)
        view = View(lanes, image.base * lanes + phase, image.band.stride, width, kernel, first)
        yield view, (max(start, first), min(stop, first + per_band))


def _fetch_band(context: Context, row: int) -> int:
    """Fetch the band of the image from a row on; return the byte of its first word with which it begins."""
    image, lanes = context.image, context.emitter.config.lanes
    band = image.band
    assert band is not None
    channels, height, width = band.shape
    size = min(band.rows, height - row) * width
    phase = row * width % lanes
    for channel in range(channels):
        source = (channel * height + row) * width
        target = phase + channel * band.stride
        context.emitter.emit(
            Fetch(
                memory=Memory.ACT,
                source=image.source + source // lanes,
                target=image.base + target // lanes,
                words=ceil_div(source + size, lanes) - source // lanes,
                runs=1,
            )
        )
    return phase


def _load(view: View, part: Part, patch: int, rows: int, granule: int) -> Piece:
    """Return the LOAD of a part of the kernel's bytes of `rows` patches."""
    kernel_height, kernel_width = view.kernel
    return Piece(
        Load(
            rows=rows,
            words=ceil_div(part.channels * part.rows * kernel_width, view.lanes),
            memory=Memory.ACT,
            base=view.base + part.channel * view.channel_stride + part.row * view.width,
            row_stride=kernel_width,
            row_first=patch - view.first,
            row_wrap=view.width // kernel_width,
            row_jump=kernel_height * view.width,
            granule=granule,
            n0=kernel_width >> granule,
            n1=part.rows,
            stride1=view.width,
            n2=part.channels,
            stride2=view.channel_stride,
        )
    )


def _copy_init(context: Context, node: QuantizedPatchEmbed, target: int, span: Span) -> None:
    emitter = context.emitter
    words = pack_int16(node.init[slice(*span)], emitter.config.lanes)
    source = emitter.weights.add(words)
    for start in range(0, len(words), COPY_WORDS):
        count = min(COPY_WORDS, len(words) - start)
        if emitter.config.external_words:
            emitter.emit(
                Fetch(memory=Memory.ACT, source=source + start, target=target + start, words=count, runs=1)
            )
        else:
            emitter.emit(
                Copy(memory=Memory.WEIGHT, source=source + start, target=target + start, words=count)
            )


def _parts(context: Context, node: QuantizedPatchEmbed) -> list[Part]:
    """Cut the kernel into parts that fit a slot: whole channels if one fits, else whole kernel rows."""
    _, channels, kernel_height, kernel_width = node.weight.shape
    config = context.emitter.config
    room = config.row_words * config.lanes
    require(
        config, "row_words", ceil_div(kernel_width, config.lanes), f"{node.name} has kernel rows that long"
    )
    if kernel_height * kernel_width <= room:
        step = room // (kernel_height * kernel_width)
        return [
            Part(first, min(step, channels - first), 0, kernel_height) for first in range(0, channels, step)
        ]
    step = room // kernel_width
    return [
        Part(channel, 1, row, min(step, kernel_height - row))
        for channel in range(channels)
        for row in range(0, kernel_height, step)
    ]


def _pack(weight: NDArray[np.int8], parts: list[Part], lanes: int) -> NDArray[np.int8]:
    """Lay out kernel rows as words (dim, words, lanes), each part padded to whole words."""
    dim = weight.shape[0]
    packed = []
    for part in parts:
        rows = weight[
            :, part.channel : part.channel + part.channels, part.row : part.row + part.rows
        ].reshape(dim, -1)
        packed.append(RowLayout(rows.shape[1], rows.shape[1], lanes).pack(rows))
    return np.concatenate(packed, axis=1)
