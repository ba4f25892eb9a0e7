"""Seeded weights with the statistics of trained ones, for networks whose trained weights cannot be had.

What makes a trained vision transformer hard for integers is put in on purpose: heavy tails, channels of unequal size,
LayerNorm gains that differ several times, attention that is sharp in some heads and flat in others, a residual stream that
grows with depth. Scales are set block after block on the calibration images, so that every branch has its intended size
(layer-sequential unit variance, arXiv 1511.06422). `docs/workloads.md` says what was chosen and why.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hwattn.models.networks.vit import Attention, Block, Encoder, Gate, Mlp, MoE

TAIL_DEGREES = 5
"""Degrees of freedom of Student's t, from which weights are drawn: excess kurtosis 6."""

CHANNEL_SPREAD = 0.3
"""Standard deviation of the logarithm of a row's or a column's size."""

GAIN_SPREAD = 0.4
OUTLIER_SHARE = 0.02
OUTLIER_GAIN = 3.0
"""LayerNorm gains: log-normal, with a few channels several times larger."""

SHARPNESS = (1.0, 3.0)
"""Standard deviation of a head's scores over the keys: from nearly uniform attention to a few keys per query."""

KEY_LIKENESS = 0.7
"""Largest correlation of a head's key and query weights, which makes tokens attend to similar and to near ones."""

BRANCH = (0.4, 0.9)
"""Root mean square of what a branch adds to the residual stream, in the first and in the last block."""

HIDDEN = (-0.5, 1.2)
"""Mean and standard deviation in front of GELU: most hidden activations are small."""

GATE_DEVIATION = 2.0
"""Standard deviation of a gate's scores over the tokens."""

LOGIT_DEVIATION = 1.0
"""Standard deviation of a class's logit over the images (or patches)."""

PROTOTYPE = 0.5
"""Cosine of a class's weights with the features they are imprinted from."""

_BALANCE_STEPS = 400


class Drawer:
    """Draws parameters from one seeded stream."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, generator=self.generator)

    def uniform(self, low: float, high: float) -> float:
        """A uniform number."""
        return low + (high - low) * float(torch.rand(1, generator=self.generator))

    def matrix(self, rows: int, columns: int) -> Tensor:
        """A weight matrix: heavy-tailed elements, rows and columns of unequal size, unit output variance."""
        square = self.normal(TAIL_DEGREES, rows, columns).square().mean(dim=0)
        student = self.normal(rows, columns) / square.sqrt() * math.sqrt((TAIL_DEGREES - 2) / TAIL_DEGREES)
        spread = torch.exp(CHANNEL_SPREAD * self.normal(rows, 1)) * torch.exp(
            CHANNEL_SPREAD * self.normal(1, columns)
        )
        return student * spread / math.sqrt(columns)

    def waves(self, count: int, height: int, width: int) -> Tensor:
        """Smooth patterns (count, height, width): cosines whose amplitude falls with frequency, unit variance."""
        steps = [torch.arange(size) + 0.5 for size in (height, width)]
        waves = [
            torch.cos(math.pi * steps[axis] * torch.arange(size)[:, None] / size)
            for axis, size in enumerate((height, width))
        ]
        rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
        falloff = 1 / (1 + rows.square() + columns.square())
        pattern = torch.einsum("nuv,uy,vx->nyx", self.normal(count, height, width) * falloff, *waves)
        return pattern / pattern.square().mean(dim=(1, 2), keepdim=True).sqrt()


@torch.no_grad()
def draw_weights(network: Encoder, images: Tensor, seed: int, even_routing: bool = True) -> None:
    """Overwrite every parameter of a network.

    Parameters
    ----------
    network : Encoder
    images : float32 tensor, shape (N, channels, height, width)
        Calibration images, on which sizes are set.
    seed : int
        Of everything random.
    even_routing : bool
        Gates take no notice of what all tokens of an image have in common, so that each image uses every expert about
        alike; else an expert gets its share over all images, but hardly any tokens of some.
    """
    draw = Drawer(seed)
    tasks = [torch.tensor(task) for task in range(len(network.config.heads))]
    _draw_embedding(network, images, draw)
    streams = [network.tokens(images) for _ in tasks]
    blocks = [block for block in network.blocks if isinstance(block, Block)]
    for index, block in enumerate(blocks):
        size = BRANCH[0] + (BRANCH[1] - BRANCH[0]) * index / max(1, len(blocks) - 1)
        _draw_norm(block.norm1, draw)
        _draw_norm(block.norm2, draw)
        _draw_attention(block.attn, [block.norm1(x) for x in streams], size, draw)
        streams = [x + block.attn(block.norm1(x)) for x in streams]
        normalized = [block.norm2(x) for x in streams]
        if isinstance(block.moe, MoE):
            _draw_gate(block.moe.gate, normalized, block.moe.top_k, even_routing, draw)
        _draw_branch(block, normalized, tasks, size, draw)
        streams = [x + block.branch(y, task) for x, y, task in zip(streams, normalized, tasks, strict=True)]
    _draw_norm(network.norm, draw)
    for head, layer, x in zip(network.config.heads, network.classifiers(), streams, strict=True):
        features = network.norm(x)
        _draw_head(layer, features[:, 1:] if head.per_patch else features[:, 0], draw)


def _draw_embedding(network: Encoder, images: Tensor, draw: Drawer) -> None:
    """Smooth filters of patches, mostly of brightness, and smooth positions; tokens of unit variance."""
    projection = network.patch_embed.proj
    assert projection.bias is not None
    dim, channels, height, width = projection.weight.shape
    colour = 1 + 0.4 * draw.normal(dim, channels, 1, 1)
    projection.weight.copy_(colour * draw.waves(dim, height, width)[:, None])
    projection.weight.mul_(torch.exp(CHANNEL_SPREAD * draw.normal(dim, 1, 1, 1)))
    projection.bias.zero_()
    made = network.patch_embed(images)
    projection.weight.div_(made.std())
    projection.bias.copy_(-made.mean(dim=(0, 1)) / made.std() + 0.1 * draw.normal(dim))
    place = draw.waves(dim, *network.config.grid).flatten(1).T
    network.pos_embed[0, 1:].copy_(0.5 * place + 0.7 * draw.normal(*place.shape))
    network.pos_embed[0, 0].copy_(0.3 * draw.normal(dim))
    network.cls_token[0, 0].copy_(0.7 * draw.normal(dim))


def _draw_norm(norm: nn.LayerNorm, draw: Drawer) -> None:
    count = norm.weight.numel()
    norm.weight.copy_(torch.exp(GAIN_SPREAD * draw.normal(count)))
    outliers = torch.randperm(count, generator=draw.generator)[: max(1, round(OUTLIER_SHARE * count))]
    norm.weight[outliers] *= OUTLIER_GAIN
    norm.bias.copy_(0.2 * draw.normal(count))


def _draw_linear(layer: nn.Linear, draw: Drawer) -> None:
    layer.weight.copy_(draw.matrix(*layer.weight.shape))
    layer.bias.copy_(0.1 * draw.normal(len(layer.bias)))


def _scale(layer: nn.Linear, factor: float | Tensor) -> None:
    layer.weight.mul_(factor)
    layer.bias.mul_(factor)


def _draw_attention(attention: Attention, inputs: list[Tensor], size: float, draw: Drawer) -> None:
    """Heads of different sharpness; the branch gets root mean square `size`."""
    _draw_linear(attention.qkv, draw)
    _draw_linear(attention.proj, draw)
    heads, head_dim = attention.num_heads, attention.head_dim
    query, key, _ = attention.qkv.weight.view(3, heads, head_dim, -1)
    for head in range(heads):
        likeness = draw.uniform(0, KEY_LIKENESS)
        key[head].mul_(math.sqrt(1 - likeness**2)).add_(query[head], alpha=likeness)
    x = torch.cat(inputs)
    q, k, _ = attention.qkv(x).view(*x.shape[:2], 3, heads, head_dim).permute(2, 0, 3, 1, 4)
    deviation = (q @ k.transpose(-2, -1) * head_dim**-0.5).std(dim=-1).mean(dim=(0, 2))
    bias = attention.qkv.bias.view(3, heads, head_dim)
    for head in range(heads):
        low, high = SHARPNESS
        factor = low * (high / low) ** draw.uniform(0, 1) / float(deviation[head])
        for part in (0, 1):
            attention.qkv.weight.view(3, heads, head_dim, -1)[part, head].mul_(math.sqrt(factor))
            bias[part, head].mul_(math.sqrt(factor))
    _scale(attention.proj, size / float(attention(x).square().mean().sqrt()))


def _draw_branch(block: Block, inputs: list[Tensor], tasks: list[Tensor], size: float, draw: Drawer) -> None:
    """The MLP, or all experts of a mixture, such that the branch has root mean square `size`."""
    layers = [block.mlp] if block.mlp is not None else []
    if block.moe is not None:
        layers += [expert for expert in block.moe.experts if isinstance(expert, Mlp)]
    x = torch.cat(inputs)
    for mlp in layers:
        _draw_linear(mlp.fc1, draw)
        _draw_linear(mlp.fc2, draw)
        _scale(mlp.fc1, HIDDEN[1] / float(mlp.fc1(x).std()))
        mlp.fc1.bias.add_(HIDDEN[0])
    made = [block.branch(y, task) for y, task in zip(inputs, tasks, strict=True)]
    reached = float(torch.cat(made).square().mean().sqrt())
    for mlp in layers:
        _scale(mlp.fc2, size / reached)


def _draw_gate(gate: Gate, inputs: list[Tensor], top_k: int, even: bool, draw: Drawer) -> None:
    """A gate for each task whose experts get equal shares of all images' tokens; if `even`, of each image's.

    The gate has no bias: what makes an expert popular is its weight along the mean token. As in balancing without an
    auxiliary loss (arXiv 2408.15664), it is raised where an expert gets less than its share and lowered where it gets more.
    """
    experts, dim = gate.gate_w.shape[1:]
    for task, x in enumerate(inputs):
        tokens, mean = x.flatten(0, 1), x.mean(dim=(0, 1))
        direction = mean / mean.square().sum()
        weight = draw.matrix(experts, dim)
        ignored = x.mean(dim=1) if even else mean[None]
        basis = torch.linalg.qr(ignored.T).Q
        weight = weight - weight @ basis @ basis.T
        weight = weight * (GATE_DEVIATION / (tokens @ weight.T).std(dim=0))[:, None]
        raised = torch.zeros(experts)
        scores, along = tokens @ weight.T, (tokens @ direction)[:, None]
        for step in range(_BALANCE_STEPS):
            chosen = (scores + along * raised).topk(top_k, dim=-1).indices
            load = torch.bincount(chosen.flatten(), minlength=experts) / chosen.numel()
            rate = 0.3 * GATE_DEVIATION * (1 - step / _BALANCE_STEPS)
            raised -= rate * torch.log(load * experts + 0.02).clamp(-1, 1)
        gate.gate_w[task].copy_(weight + raised[:, None] * direction)


def _draw_head(layer: nn.Linear, features: Tensor, draw: Drawer) -> None:
    """Logits of which one stands out, as a trained head's: classes are imprinted from features (arXiv 1712.07136).

    As many classes as there are features have their weights turned towards one of them, centred; the others' are random.
    """
    seen = features.flatten(0, -2)
    centred = seen - seen.mean(dim=0)
    layer.weight.copy_(draw.matrix(*layer.weight.shape))
    classes = torch.randperm(len(layer.weight), generator=draw.generator)[: len(seen)]
    examples = torch.randperm(len(seen), generator=draw.generator)[: len(classes)]
    prototypes = nn.functional.normalize(centred[examples], dim=-1)
    rows = layer.weight[classes]
    towards = PROTOTYPE * rows.norm(dim=-1, keepdim=True) * prototypes
    layer.weight[classes] = math.sqrt(1 - PROTOTYPE**2) * rows + towards
    layer.weight.mul_(LOGIT_DEVIATION / (centred @ layer.weight.T).std(dim=0).median())
    layer.bias.copy_(0.1 * draw.normal(len(layer.bias)) - layer.weight @ seen.mean(dim=0))
