"""Small ViTs in torch, written in the many ways people write them, and their export."""

from __future__ import annotations

import contextlib
import io
import math
import warnings

import torch
from torch import nn
from torch.nn import functional

DIM, HEADS, IMAGE, PATCH, CLASSES = 12, 3, (3, 8, 12), 4, 5
PATCHES = (IMAGE[1] // PATCH) * (IMAGE[2] // PATCH)
HEAD_DIM = DIM // HEADS


def export(model, path, *, inputs=1, opset=14, dynamo=False, batch="N"):
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    arguments = (torch.zeros(2, *IMAGE), torch.tensor(0))[:inputs]
    names = ["image", "task"][:inputs]
    count = len(model.eval()(*arguments)) if inputs == 2 else 1
    options = {"opset_version": opset, "dynamo": dynamo}
    if dynamo:
        shapes = ({0: torch.export.Dim("N")}, {})[:inputs]
        options |= {"dynamic_shapes": shapes, "external_data": False}
    elif batch is not None:
        options["dynamic_axes"] = {name: {0: batch} for name in ("image", *(f"y{i}" for i in range(count)))}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            arguments,
            str(path),
            input_names=names,
            output_names=[f"y{i}" for i in range(count)],
            **options,
        )
    return path


class Attend(nn.Module):
    def __init__(self, style="fused", scale="q", bias=True):
        super().__init__()
        self.style, self.scale = style, scale
        if style == "mha":
            self.mha = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
            return
        if style == "separate":
            self.q, self.k, self.v = (nn.Linear(DIM, DIM, bias=bias) for _ in range(3))
        else:
            self.qkv = nn.Linear(DIM, 3 * DIM, bias=bias)
        self.proj = nn.Linear(DIM, DIM)

    def split(self, x):
        n, t, d = x.shape
        heads = lambda y: y.reshape(n, t, HEADS, HEAD_DIM).transpose(1, 2)  # noqa: E731
        match self.style:
            case "separate":
                return heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
            case "chunk":
                return tuple(heads(part) for part in self.qkv(x).chunk(3, dim=-1))
            case "slices":
                y = self.qkv(x)
                return heads(y[..., :d]), heads(y[..., d : 2 * d]), heads(y[..., 2 * d :])
            case "interleaved":
                y = self.qkv(x).view(n, t, HEADS, 3 * HEAD_DIM).permute(0, 2, 1, 3)
                return y.chunk(3, dim=-1)
            case "bmm":
                return tuple(
                    part.reshape(n, t, HEADS, HEAD_DIM).transpose(1, 2).reshape(n * HEADS, t, HEAD_DIM)
                    for part in self.qkv(x).chunk(3, dim=-1)
                )
            case "time first":
                y = self.qkv(x.transpose(0, 1)).reshape(t, n, 3, HEADS, HEAD_DIM)
                return tuple(y[:, :, i].permute(1, 2, 0, 3) for i in range(3))
        return self.qkv(x).reshape(n, t, 3, HEADS, HEAD_DIM).permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x):
        n, t, d = x.shape
        if self.style == "mha":
            return self.mha(x, x, x, need_weights=False)[0]
        q, k, v = self.split(x)
        if self.scale == "sdpa":
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            root = HEAD_DIM**0.5
            if self.scale in ("q", "both"):
                q = q * (root**-0.5 if self.scale == "both" else 1 / root)
            if self.scale in ("k", "both"):
                k = k / (root**0.5 if self.scale == "both" else root)
            scores = q @ k.transpose(-2, -1)
            if self.scale == "scores":
                scores = scores / root
            y = functional.softmax(scores, dim=-1) @ v
        if self.style == "bmm":
            y = y.view(n, HEADS, t, HEAD_DIM)
        return self.proj(y.transpose(1, 2).reshape(n, t, d))


class Mlp(nn.Module):
    def __init__(self, act=None, hidden=8):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(DIM, hidden), act or nn.GELU(), nn.Linear(hidden, DIM)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, attend=None, mlp=None, layer_scale=False, norm=None):
        super().__init__()
        self.norm1, self.norm2 = (norm or (lambda: nn.LayerNorm(DIM)))(), nn.LayerNorm(DIM, eps=1e-3)
        self.attend, self.mlp = attend or Attend(), mlp or Mlp()
        self.scales = nn.Parameter(torch.ones(2, DIM)) if layer_scale else None

    def forward(self, x):
        if self.scales is None:
            x = x + self.attend(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        x = x + self.scales[0] * self.attend(self.norm1(x))
        return self.scales[1] * self.mlp(self.norm2(x)) + x


class ViT(nn.Module):
    def __init__(self, *blocks, extra=1, embed="conv", pool="cls", normalize=False, position="after"):
        super().__init__()
        self.embed, self.pool, self.normalize, self.position = embed, pool, normalize, position
        if embed == "conv":
            self.proj = nn.Conv2d(IMAGE[0], DIM, PATCH, PATCH)
        else:
            self.proj = nn.Linear(IMAGE[0] * PATCH * PATCH, DIM)
        self.extra = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, DIM)) for _ in range(extra))
        count = PATCHES + (extra if position == "after" else 0)
        self.pos = nn.Parameter(torch.zeros(1, count, DIM))
        self.blocks = nn.Sequential(*(blocks or [Block()]))
        self.norm = nn.LayerNorm(DIM)
        self.head = nn.Linear(DIM, CLASSES)
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.4]).view(1, 3, 1, 1))

    def tokens(self, image):
        if self.embed == "conv":
            return self.proj(image).flatten(2).transpose(1, 2)
        n, c, h, w = image.shape
        cut = image.reshape(n, c, h // PATCH, PATCH, w // PATCH, PATCH)
        order = (0, 2, 4, 3, 5, 1) if self.embed == "channels last" else (0, 2, 4, 1, 3, 5)
        return self.proj(cut.permute(*order).reshape(n, PATCHES, -1))

    def features(self, image):
        if self.normalize:
            image = (image - self.mean) / self.std
        x = self.tokens(image)
        if self.position == "before":
            x = x + self.pos
        if len(self.extra):
            x = torch.cat([*(token.expand(x.shape[0], -1, -1) for token in self.extra), x], dim=1)
        if self.position == "after":
            x = x + self.pos
        return self.norm(self.blocks(x))

    def forward(self, image):
        x = self.features(image)
        match self.pool:
            case "cls":
                return self.head(x[:, 0])
            case "late":
                return self.head(x)[:, 0]
            case "mean":
                return self.head(x[:, 1:].mean(dim=1))
            case "softmax":
                return self.head(x[:, 0]).softmax(-1)
        return self.head(x[:, len(self.extra) :])


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class WrittenTanh(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


class WrittenSwish(nn.Module):
    def forward(self, x):
        return x * functional.relu6(x + 3) / 6


class Mixture(nn.Module):
    def __init__(self, style, tasks=1, experts=4, k=2):
        super().__init__()
        self.style, self.k = style, k
        self.gate_w = nn.Parameter(torch.zeros(tasks, experts, DIM))
        self.gate_b = nn.Parameter(torch.zeros(tasks, experts))
        self.experts = nn.ModuleList(Mlp(nn.SiLU()) for _ in range(experts))

    def gates(self, x, task):
        if task is None:
            weight, bias = self.gate_w[0], self.gate_b[0]
        else:
            weight, bias = self.gate_w[task], self.gate_b.index_select(0, task.reshape(1))[0]
        scores = functional.linear(x, weight, bias)
        match self.style:
            case "chosen":
                best, index = scores.topk(self.k, -1)
                return torch.zeros_like(scores).scatter(-1, index, best.softmax(-1))
            case "divided":
                best, index = scores.softmax(-1).topk(self.k, -1)
                best = best / best.sum(-1, keepdim=True)
                return torch.zeros_like(scores).scatter(-1, index, best)
            case "masked":
                best, index = scores.topk(self.k, -1)
                return torch.full_like(scores, float("-inf")).scatter(-1, index, best).softmax(-1)
            case "late division":
                best, index = scores.softmax(-1).topk(self.k, -1)
                gates = torch.zeros_like(scores).scatter_(-1, index, best)
                return gates / (gates.sum(-1, keepdim=True) + 1e-9)
        best, index = scores.softmax(-1).topk(self.k, -1)
        return torch.zeros_like(scores).scatter(-1, index, best)

    def forward(self, x, task=None, residual=None):
        gates = self.gates(x, task)
        match self.style:
            case "unbind":
                columns = [column.unsqueeze(-1) for column in gates.unbind(-1)]
            case "split":
                columns = gates.split(1, dim=-1)
            case _:
                columns = [gates[..., i : i + 1] for i in range(len(self.experts))]
        if self.style == "onto residual":
            for column, expert in zip(columns, self.experts, strict=True):
                residual = residual + expert(x) * column
            return residual
        y = torch.zeros_like(x) if self.style == "from zeros" else 0
        for column, expert in zip(columns, self.experts, strict=True):
            y = y + column * expert(x)
        return y if residual is None else residual + y


class MoEViT(ViT):
    def __init__(self, style, tasks=1):
        super().__init__(pool="features")
        self.moe_norm, self.moe = nn.LayerNorm(DIM), Mixture(style, tasks)
        self.heads = nn.ModuleList(nn.Linear(DIM, CLASSES + i) for i in range(tasks))

    def forward(self, image, task=None):
        x = self.blocks(torch.cat((self.extra[0].expand(image.shape[0], -1, -1), self.tokens(image)), 1))
        x = self.norm(self.moe(self.moe_norm(x), task, x))
        if task is None:
            return self.heads[0](x[:, 0])
        return tuple(head(x[:, 1:] if i else x[:, 0]) for i, head in enumerate(self.heads))


class RMSNorm(nn.Module):
    """As Llama has it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(DIM))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class RootMeanSquare(RMSNorm):
    def forward(self, x):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * self.weight


class ThirdMoment(RMSNorm):
    def forward(self, x):
        return x * torch.rsqrt(x.abs().pow(3).mean(-1, keepdim=True) + 1e-6)


class OtherTensor(RMSNorm):
    """Something else divided by the root mean square."""

    def forward(self, x):
        return torch.relu(x) * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Masked(Attend):
    def forward(self, x):
        q, k, v = self.split(x)
        mask = torch.ones(x.shape[1], x.shape[1]).tril().log()
        y = ((q @ k.transpose(-2, -1)) + mask).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(x.shape))


class PostNorm(Block):
    def forward(self, x):
        x = self.norm1(x + self.attend(x))
        return self.norm2(x + self.mlp(x))


class TokenMixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(PATCHES + 1, PATCHES + 1)

    def forward(self, x):
        return self.mix(x.transpose(1, 2)).transpose(1, 2)
