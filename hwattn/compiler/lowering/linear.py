"""Linear layers: tiles of tokens are resident, weights stream past them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from hwattn.compiler.lowering.context import Context
from hwattn.compiler.lowering.product import Product, Tile, lower_products
from hwattn.compiler.operands import Entries, Sink, Weights
from hwattn.compiler.plan import Form
from hwattn.compiler.scales import (
    Float64,
    activation_scaling,
    channel_params,
    check_accumulators,
    resident_limit,
)
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Add
from hwattn.spec.isa import Format, Memory
from hwattn.spec.quantized import QuantizedLinear

FORMATS = {Form.ROWS: Format.INT8, Form.COLUMNS: Format.COLUMNS, Form.INT16: Format.INT16}


@dataclass(frozen=True)
class Job:
    """A linear layer in memory, and what its POSTs have in common."""

    node: QuantizedLinear
    weights: Weights
    entries: Entries


def lower_linears(context: Context, nodes: tuple[QuantizedLinear, ...], target: Add | None) -> None:
    """Lower linear layers that read the same rows of the same tensor.

    Parameters
    ----------
    context : Context
    nodes : tuple of QuantizedLinear
    target : Add or None
        Where the result is added to the residual stream.
    """
    emitter, plan = context.emitter, context.plan
    source = nodes[0].inputs[0]
    words = plan.layout(plan.source(source)).words
    form = plan.operand_form(source, nodes[0].input_bits)
    place = context.place(source, form)
    jobs = [_prepare(context, node, target) for node in nodes]
    span = context.span(nodes[0].name)
    tiles = [
        Tile(token, rows, emitter.load_tile(place, token, rows, words, form))
        for token, rows in emitter.tiles(span)
    ]
    products = [
        Product(job.weights, job.entries, partial(_sinks, context, job, target), job.node.name)
        for job in jobs
    ]
    lower_products(emitter, tiles, products)
    context.macs += (span[1] - span[0]) * sum(node.matrix.weight.size for node in nodes)


def result_scales(context: Context, name: str) -> Float64:
    """Return the scale of each feature of a linear layer's result.

    Raises
    ------
    RefusedError
        If the number of scales does not divide the features.
    """
    scale, features = context.plan.model.scales[name], context.plan.features[name]
    if features % scale.size:
        raise RefusedError(
            f"{name}: {scale.size} scales for {features} features",
            "one scale, or one for each head",
            "quantize the model again",
        )
    return np.repeat(scale, features // scale.size)


def _prepare(context: Context, node: QuantizedLinear, target: Add | None) -> Job:
    emitter, plan = context.emitter, context.plan
    source = plan.source(node.inputs[0])
    matrix = node.matrix
    limit = resident_limit(node.input_bits)
    check_accumulators(matrix.weight.astype(np.int64), matrix.bias.astype(np.int64), limit, node.name)
    packed = plan.layout(source).pack(matrix.weight)
    factors = plan.scale(source) * matrix.scale
    if not node.activation:
        factors = factors / (plan.scale(target.name) if target else result_scales(context, node.name))
        if node.name in plan.sixteen:
            factors = factors * 256
    return Job(
        node,
        Weights(emitter.weights.add(packed), len(packed), packed.shape[1]),
        emitter.add_entries(
            Memory.PARAM, [channel_params(matrix.bias, factors, node.activation is not None, node.name)]
        ),
    )


def _sinks(context: Context, job: Job, target: Add | None, tile: Tile) -> list[Sink]:
    plan, node, token = context.plan, job.node, tile.token
    second = None
    if node.activation:
        scale = plan.scale(target.name) if target else plan.stored_scale(node.name)
        second = activation_scaling(scale, node.name)
    if target:
        place = context.place(target.name, Form.INT16)
        forms = [(Format.RESIDUAL, place.address(token), place.stride)]
    else:
        forms = []
        for form in sorted(plan.forms[node.name], key=lambda one: one.name):
            place = context.place(node.name, form)
            base = place.address(token)
            if form is Form.COLUMNS:
                base = place.base * context.emitter.config.lanes + token - place.origin
            forms.append((FORMATS[form], base, place.stride))
    return [
        Sink(
            format,
            base,
            stride,
            plan.layout(node.name),
            activation=node.activation is not None,
            second=second,
        )
        for format, base, stride in forms
    ]
