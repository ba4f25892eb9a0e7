"""Which integers each tensor of a graph becomes, and the refusal of graphs where that does not work out."""

from __future__ import annotations

from enum import Enum

from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import (
    Add,
    Attention,
    Graph,
    LayerNorm,
    Linear,
    MixtureOfExperts,
    Node,
    PatchEmbed,
    Rows,
)
from hwattn.spec.quantized import QuantizedLinear, QuantizedModel


class Role(Enum):
    """How a tensor is stored.

    RESIDUAL: int16 at the scale of its residual stream. OUTPUT: int16 at a scale of its own. HEADS: int8, one
    scale per head. INT8: int8, one scale.
    """

    RESIDUAL = "residual"
    OUTPUT = "output"
    HEADS = "heads"
    INT8 = "int8"


_MAKES_RESIDUAL = (PatchEmbed, Add, MixtureOfExperts, Linear, Rows)


def tensor_roles(graph: Graph) -> dict[str, Role]:
    """Role of every tensor, by the node that makes it and those that read it."""
    residual: set[str] = set()
    heads: set[str] = set()
    for node in graph.nodes:
        if isinstance(node, Add | MixtureOfExperts) or (
            isinstance(node, PatchEmbed) and not in_bytes(graph, node.name)
        ):
            residual.add(node.name)
        if isinstance(node, Add | LayerNorm):
            residual.update(node.inputs)
        if isinstance(node, Attention):
            heads.update(node.inputs)
        if isinstance(node, Rows) and node.inputs[0] in residual:
            residual.add(node.name)
    outputs = {output.tensor for output in graph.outputs}
    for node in reversed(graph.nodes):
        if isinstance(node, Rows):
            if node.name in residual:
                residual.add(node.inputs[0])
            if node.name in outputs and not isinstance(graph.by_name.get(node.inputs[0]), LayerNorm):
                outputs.add(node.inputs[0])
    roles = {}
    for node in graph.nodes:
        roles[node.name] = Role.INT8
        if node.name in residual:
            roles[node.name] = Role.RESIDUAL
        elif node.name in outputs:
            roles[node.name] = Role.OUTPUT
        elif node.name in heads:
            roles[node.name] = Role.HEADS
        elif isinstance(node, Rows):
            roles[node.name] = roles.get(node.inputs[0], Role.INT8)
    return roles


def in_bytes(graph: Graph | QuantizedModel, name: str) -> bool:
    """Only linear layers read the tensor."""
    readers = [node for node in graph.nodes if name in node.inputs]
    return (
        bool(readers)
        and all(isinstance(node, Linear | QuantizedLinear) for node in readers)
        and all(output.tensor != name for output in graph.outputs)
    )


def check_roles(graph: Graph, roles: dict[str, Role]) -> None:
    """Refuse tensors whose makers or readers do not go with their role.

    Raises
    ------
    RefusedError
        Naming the first such node.
    """
    for node in graph.nodes:
        role = roles[node.name]
        if role is Role.RESIDUAL and not isinstance(node, _MAKES_RESIDUAL):
            _refuse(
                node,
                "is added to the residual stream or normalized",
                "an embedding, a linear layer or a mixture there (pre-norm blocks)",
            )
        if role is Role.OUTPUT and not isinstance(node, Linear | Rows):
            _refuse(node, "is a model output", "a linear layer or the residual stream as output")
        if role is Role.HEADS and not isinstance(node, Linear):
            _refuse(node, "is a query, key or value", "a linear layer there")
        if isinstance(node, Linear | Attention | MixtureOfExperts):
            for name in node.inputs:
                _check_operand(node, name, roles)
        if isinstance(node, MixtureOfExperts) and not isinstance(
            graph.by_name.get(node.inputs[0]), LayerNorm
        ):
            _refuse(node, f"reads {node.inputs[0]}", "a LayerNorm in front of the mixture")


def _check_operand(node: Node, name: str, roles: dict[str, Role]) -> None:
    role = roles.get(name)
    expected = Role.HEADS if isinstance(node, Attention) else Role.INT8
    if role is not expected:
        stored = role.value if role else "an image"
        _refuse(
            node,
            f"reads {name}, which is stored as {stored}",
            "an int8 tensor: a LayerNorm, an attention or a linear layer that nothing else needs in 16 bits",
        )


def _refuse(node: Node, found: str, expected: str) -> None:
    raise RefusedError(
        f"{node.name} ({type(node).__name__}) {found}",
        expected,
        "export the encoder with pre-norm blocks, or cut the model before this node",
    )
