"""Post-norm blocks: a LayerNorm whose result is added to something begins a residual stream of its own."""

from __future__ import annotations

import dataclasses

import numpy as np

from hwattn.quant.onnx_values import Refusal
from hwattn.spec.graph import Add, Graph, LayerNorm, Linear, Node, PatchEmbed, Rows


def with_streams(graph: Graph) -> Graph:
    """Let every residual stream begin at a patch embedding or a linear layer.

    The machine normalizes to eight bits, and adds and normalizes in sixteen. Where a block adds to the result of a
    LayerNorm (``x = norm(x + f(x))``), or normalizes it again, an identity layer, exact in integers, puts that result
    into a new residual stream. Where linear layers read an embedding without a LayerNorm before them, it is made
    a second time, in eight bits.

    Raises
    ------
    Refusal
        Linear layers read an embedding that holds constant tokens or position embeddings.
    """
    nodes: list[Node] = []
    made: dict[str, str] = {}
    for node in graph.nodes:
        if isinstance(node, Add | LayerNorm):
            for name in node.inputs:
                if name not in made and _is_norm(graph, name):
                    width = _width(graph, name)
                    made[name] = f"{name}.stream"
                    one = np.eye(width, dtype=np.float32)
                    nodes.append(Linear(made[name], (name,), one, np.zeros(width, np.float32)))
            inputs = tuple(made.get(name, name) for name in node.inputs)
            # the new stream comes first, what is added to it second
            ordered = tuple(sorted(inputs, key=lambda name: name not in made.values()))
            node = dataclasses.replace(node, inputs=ordered) if inputs != node.inputs else node
        elif isinstance(node, Linear):
            before = graph.by_name.get(node.inputs[0])
            if isinstance(before, PatchEmbed) and _in_stream(graph, before.name):
                copy = f"{before.name}.int8"
                if before.init.any():
                    raise Refusal(
                        f"{node.name} reads the embedding without a LayerNorm before it",
                        "use pre-norm blocks, or a LayerNorm behind the embedding",
                    )
                if all(one.name != copy for one in nodes):
                    nodes.append(dataclasses.replace(before, name=copy))
                node = dataclasses.replace(node, inputs=(copy,))
        nodes.append(node)
    return dataclasses.replace(graph, nodes=tuple(nodes))


def _in_stream(graph: Graph, name: str) -> bool:
    """The tensor is added to, normalized, or an output."""
    readers = [node for node in graph.nodes if name in node.inputs]
    return any(not isinstance(node, Linear) for node in readers) or any(
        output.tensor == name for output in graph.outputs
    )


def _is_norm(graph: Graph, name: str) -> bool:
    node = graph.by_name.get(name)
    while isinstance(node, Rows):
        node = graph.by_name.get(node.inputs[0])
    return isinstance(node, LayerNorm)


def _width(graph: Graph, name: str) -> int:
    node = graph.by_name[name]
    while isinstance(node, Rows):
        node = graph.by_name[node.inputs[0]]
    assert isinstance(node, LayerNorm)
    return int(node.gamma.size)
