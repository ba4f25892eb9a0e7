"""From the bases that the outputs need to a `Graph`: nodes, names, and what each ONNX node became."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from hwattn.quant.onnx_bases import (
    AddBase,
    AttentionBase,
    Base,
    ConvBase,
    GateBase,
    LinearBase,
    MixtureBase,
    NormBase,
    PatchBase,
    RowsBase,
)
from hwattn.quant.onnx_values import Refusal
from hwattn.spec.graph import (
    Add,
    Attention,
    Expert,
    LayerNorm,
    Linear,
    MixtureOfExperts,
    Node,
    PatchEmbed,
    Rows,
)


def reachable(roots: Iterable[Base]) -> list[Base]:
    """The bases that become nodes, in topological order."""
    found: dict[int, Base] = {}
    waiting = list(roots)
    while waiting:
        base = waiting.pop()
        if base.order not in found:
            found[base.order] = base
            waiting.extend(base.sources)
    return [found[order] for order in sorted(found)]


def make_nodes(
    bases: Sequence[Base], names: dict[int, str], image: str, tasks: int
) -> tuple[list[Node], list[tuple[Base, Refusal]]]:
    """The graph's nodes of the bases, under the given names, and the bases that cannot be nodes."""
    nodes: list[Node] = []
    refused: list[tuple[Base, Refusal]] = []
    for base in bases:
        try:
            node = _node(base, names, image, tasks)
            _check_finite(node)
            nodes.append(node)
        except Refusal as refusal:
            refused.append((base, refusal))
    return nodes, refused


def _check_finite(node: Node) -> None:
    parts = [node, *(node.experts if isinstance(node, MixtureOfExperts) else ())]
    for part in parts:
        for value in vars(part).values():
            if isinstance(value, np.ndarray) and not np.isfinite(value).all():
                raise Refusal(f"the weights of {node.name} hold infinity or NaN", "train the model again")


def _node(base: Base, names: dict[int, str], image: str, tasks: int) -> Node:
    name = names[base.order]
    inputs = tuple(names[source.order] for source in base.sources)
    match base:
        case PatchBase():
            return PatchEmbed(name, (image,), base.conv.weight, base.init, base.first)
        case NormBase():
            return LayerNorm(name, inputs, base.gamma, base.beta, base.epsilon, base.zero_mean)
        case LinearBase():
            if base.weight.ndim != 2:
                raise Refusal(
                    "a linear layer whose weights depend on the task, outside a gate",
                    "share all weights but the gates' between the tasks",
                )
            return Linear(name, inputs, base.weight, base.bias, base.activation)
        case AttentionBase():
            return Attention(name, inputs, base.heads, base.scale)
        case AddBase():
            return Add(name, inputs)
        case RowsBase():
            return Rows(name, inputs, base.start, base.stop)
        case MixtureBase():
            return _mixture(base, name, inputs, tasks)
        case ConvBase():
            raise Refusal("patches without tokens", "flatten the patches to (batch, tokens, features)")
        case GateBase():
            raise Refusal(
                "the weights of a gate are used for something else than weighting experts",
                "remove a softmax from the model's end: return logits",
            )
    raise Refusal("the image itself is used as tokens", "embed the image in patches")


def _mixture(base: MixtureBase, name: str, inputs: tuple[str, ...], tasks: int) -> MixtureOfExperts:
    logits = base.gates.logits
    if not base.whole:
        raise Refusal(f"the mixture lacks {base.missing}", "sum over all experts of the gate")
    experts = []
    activations = set()
    for number in range(logits.features):
        fc2 = base.experts[number]
        fc1 = fc2.source
        assert isinstance(fc1, LinearBase) and fc1.activation is not None
        activations.add(fc1.activation)
        experts.append(Expert(fc1.weight, fc1.bias, fc2.weight, fc2.bias))
    if len(activations) > 1:
        raise Refusal(
            "experts of one mixture have different activations", "use one activation for all of them"
        )
    shape = (tasks, *logits.weight.shape[-2:])
    return MixtureOfExperts(
        name,
        inputs,
        tuple(experts),
        activations.pop(),
        np.array(np.broadcast_to(logits.weight, shape)),
        np.array(np.broadcast_to(logits.bias, shape[:-1])),
        base.gates.k,
        base.gates.renormalize,
    )


def name_bases(bases: Sequence[Base], heads: dict[int, str]) -> dict[int, str]:
    """Names in the manner of timm, from the structure alone, so that every exporter gives the same.

    Parameters
    ----------
    bases : sequence of Base
        In topological order.
    heads : dict of int to str
        Names of the outputs, by the order of their base.
    """
    users: dict[int, list[Base]] = {base.order: [] for base in bases}
    for base in bases:
        for source in base.sources:
            users[source.order].append(base)
    roles: dict[int, str] = {}
    block = -1
    for base in bases:
        if isinstance(base, AttentionBase):
            block += 1
            _name_attention(base, f"blocks.{block}.", users, roles)
    names: dict[int, str] = {}
    taken: set[str] = set()
    block = -1
    for base in bases:
        role = roles.get(base.order)
        if role is not None:
            block = max(block, int(role.split(".")[1]))
        wanted = role or _other_role(base, block, users, heads)
        name, number = wanted, 2
        while name in taken:
            name, number = f"{wanted}_{number}", number + 1
        taken.add(name)
        names[base.order] = name
    return names


def _name_attention(
    base: AttentionBase, prefix: str, users: dict[int, list[Base]], roles: dict[int, str]
) -> None:
    roles[base.order] = prefix + "attn"
    for part, source in zip("qkv", base.sources, strict=True):
        roles.setdefault(source.order, f"{prefix}attn.{part}")
        for before in source.sources:
            if isinstance(before, NormBase):
                roles.setdefault(before.order, prefix + "norm1")
    for user in users[base.order]:
        if isinstance(user, LinearBase):
            roles.setdefault(user.order, prefix + "attn.proj")
            for after in users[user.order]:
                if isinstance(after, AddBase):
                    roles.setdefault(after.order, prefix + "add1")


def _other_role(base: Base, block: int, users: dict[int, list[Base]], heads: dict[int, str]) -> str:
    if base.order in heads:
        return f"head.{heads[base.order]}"
    prefix = f"blocks.{block}." if block >= 0 else ""
    after = users[base.order]
    match base:
        case PatchBase():
            return "patch_embed"
        case NormBase():
            inside = any(user for user in after if isinstance(user, MixtureBase) or _is_fc1(user))
            return prefix + "norm2" if inside else "norm"
        case LinearBase() if _is_fc1(base):
            return prefix + "mlp.fc1"
        case LinearBase() if _is_fc1(base.source):
            return prefix + "mlp.fc2"
        case MixtureBase():
            return prefix + "moe"
        case AddBase():
            return prefix + "add2"
        case RowsBase():
            return "cls" if (base.start, base.stop) == (0, 1) else "patches"
    return prefix + "linear"


def _is_fc1(base: Base) -> bool:
    return isinstance(base, LinearBase) and base.activation is not None
