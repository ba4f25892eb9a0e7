"""Operators of com.microsoft that join a residual addition with the LayerNorm behind it, taken apart again.

The accelerator may give out the sum, which a part on the host normalizes.
"""

from __future__ import annotations

import onnx

SKIP = {
    "SkipLayerNormalization": "LayerNormalization",
    "SkipSimplifiedLayerNormalization": "SimplifiedLayerNormalization",
}
"""The operator behind the addition."""


def take_apart(graph: onnx.GraphProto) -> None:
    """Replace operators that add and normalize by additions and a normalization, in place."""
    if not any(node.op_type in SKIP and node.domain == "com.microsoft" for node in graph.node):
        return
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        fused = node.op_type in SKIP and node.domain == "com.microsoft"
        nodes += _apart(node) if fused else [node]
    del graph.node[:]
    graph.node.extend(nodes)


def _apart(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The sum, with the bias first where there is one, and the normalization of it."""
    inputs = [*node.input, "", "", ""]
    if SKIP[node.op_type] == "SimplifiedLayerNormalization":
        inputs.insert(3, "")  # it has no beta
    outputs = [*node.output, "", "", ""][:4]
    x, skip, gamma, beta, bias = inputs[:5]
    name = node.name or outputs[0]
    total = outputs[3] or f"{outputs[0]}/sum"
    made = []
    if bias:
        made.append(onnx.helper.make_node("Add", [x, bias], [f"{total}/bias"], f"{name}/bias"))
        x = f"{total}/bias"
    made.append(onnx.helper.make_node("Add", [x, skip], [total], f"{name}/sum"))
    epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-12)
    last = [value for value in (gamma, beta) if value]
    used = outputs[: 3 if outputs[2] else 2 if outputs[1] else 1]
    made.append(
        onnx.helper.make_node(SKIP[node.op_type], [total, *last], used, name, epsilon=epsilon, axis=-1)
    )
    return made
