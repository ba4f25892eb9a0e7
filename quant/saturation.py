"""Ranges that the machine fixes, and the layers whose numbers leave them on the calibration images."""

from __future__ import annotations

import math

import numpy as np

from hwattn.quant.calibration import Statistics
from hwattn.quant.reference import linear
from hwattn.spec.graph import Attention, Float, Graph, Linear, MixtureOfExperts
from hwattn.spec.tables import ACTIVATION_INPUT_BITS, ACTIVATION_INPUT_FRACTION, SCORE_FRACTION_BITS

SCORE_LIMIT = 2.0 ** (15 - SCORE_FRACTION_BITS) / math.log2(math.e)
"""Largest attention score: an int16 with 8 fraction bits in base 2."""

ACTIVATION_LIMIT = 2.0 ** (ACTIVATION_INPUT_BITS - 1 - ACTIVATION_INPUT_FRACTION)
"""Largest input of an activation."""


def saturation_warnings(graph: Graph, statistics: Statistics) -> tuple[str, ...]:
    """One sentence for each layer that saturates on the calibration images."""
    found = []
    for node in graph.nodes:
        if isinstance(node, Attention):
            peak = _score_peak(node, statistics.whole[node.inputs[0]], statistics.whole[node.inputs[1]])
            if peak > SCORE_LIMIT:
                found.append(
                    f"{node.name}: attention scores reach {peak:.0f} and saturate at {SCORE_LIMIT:.0f}; "
                    "train with normalized queries and keys, or check the images"
                )
            continue
        peak = _activation_peak(node, statistics)
        if peak > ACTIVATION_LIMIT:
            found.append(
                f"{node.name}: inputs of its activation reach {peak:.0f} and saturate at {ACTIVATION_LIMIT:.0f}; "
                "check the images, or train with weight decay"
            )
    return tuple(found)


def _score_peak(node: Attention, query: Float, key: Float) -> float:
    q, k = (x.reshape(*x.shape[:2], node.heads, -1).transpose(0, 2, 1, 3) for x in (query, key))
    return float(np.abs(q @ k.transpose(0, 1, 3, 2)).max()) * node.scale


def _activation_peak(node: object, statistics: Statistics) -> float:
    """Largest input of a node's activation; 0 where it has none."""
    match node:
        case Linear(activation=str()):
            layers = [(node.weight, node.bias)]
        case MixtureOfExperts():
            layers = [(expert.fc1_weight, expert.fc1_bias) for expert in node.experts]
        case _:
            return 0.0
    rows = statistics.rows(node.inputs[0])
    return max(float(np.abs(linear(rows, *layer)).max()) for layer in layers)
