"""LayerNorm: tile by tile, so that it hides under the matrix work of its neighbours."""

from __future__ import annotations

import numpy as np

from hwattn.compiler.lowering.context import Context
from hwattn.compiler.plan import Form
from hwattn.spec.errors import RefusedError
from hwattn.spec.isa import Memory, Norm
from hwattn.spec.quantized import QuantizedLayerNorm
from hwattn.spec.widths import VARIANCE_BITS

EPSILON_LIMIT = 2**52
VARIANCE_LIMIT = 2**VARIANCE_BITS
DIM_LIMIT = 4096


def lower_layer_norm(context: Context, node: QuantizedLayerNorm) -> None:
    """Lower LayerNorm: one NORM for each tile of the tokens that are needed."""
    emitter, plan = context.emitter, context.plan
    dim = plan.features[node.name]
    _check(node, dim)
    source, target = context.place(node.inputs[0], Form.INT16), context.place(node.name, Form.ROWS)
    wide = Form.WIDE in plan.forms[node.name]
    gates = context.place(node.name, Form.WIDE) if wide else target
    gamma, beta = node.gamma.astype(np.int64), node.beta.astype(np.int64)
    stored = emitter.add_entries(Memory.NORM, [(gamma << 32) | (beta & 0xFFFFFFFF)])
    entries = emitter.fetch_entries(stored)
    for token, rows in emitter.tiles(context.span(node.name)):
        emitter.emit(
            Norm(
                source=source.address(token),
                source_stride=source.stride,
                rows=rows,
                dim=dim,
                target=target.address(token),
                target_stride=target.stride,
                param_base=entries.base,
                epsilon=node.epsilon,
                shift=node.shift,
                wide=int(wide),
                wide_target=gates.address(token) if wide else 0,
                wide_stride=gates.stride if wide else 0,
                zero_mean=int(node.zero_mean),
            ),
            entries.chunk,
        )


def _check(node: QuantizedLayerNorm, dim: int) -> None:
    # the variance has 54 bits: without a mean to subtract, the largest rows would fill them
    widest = DIM_LIMIT - 1 if node.zero_mean else DIM_LIMIT
    room = VARIANCE_LIMIT - dim * dim * 2**30 if node.zero_mean else EPSILON_LIMIT
    limits = (
        ("features", dim, 1, widest),
        ("epsilon", node.epsilon, 1, min(EPSILON_LIMIT, room) - 1),
        ("shift", node.shift, 9, 63),
    )
    for what, value, low, high in limits:
        if not low <= value <= high:
            raise RefusedError(
                f"{node.name}: {what} {value}", f"{what} of {low} to {high}", "quantize the model again"
            )
