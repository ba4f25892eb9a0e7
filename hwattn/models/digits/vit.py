"""The two-task mixture-of-experts ViT in torch, in the manner of M3ViT (arXiv 2210.14793).

Only training and export need this file; nothing at run time imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ViTConfig:
    """Shape of the network.

    Parameters
    ----------
    image_size, patch_size : int
        Side of the square image and of a patch, pixels.
    dim, num_heads, depth : int
        Width of a token, attention heads, blocks. Odd blocks (1, 3, ...) hold a mixture of experts.
    mlp_hidden, expert_hidden : int
        Hidden width of a dense MLP and of one expert.
    num_experts, top_k : int
        Experts per mixture, shared by the tasks, and how many a token visits.
    task_classes : tuple of int
        Number of classes of the image task and of the per-patch task.
    """

    image_size: int = 8
    patch_size: int = 2
    dim: int = 48
    num_heads: int = 3
    depth: int = 4
    mlp_hidden: int = 96
    expert_hidden: int = 32
    num_experts: int = 8
    top_k: int = 2
    task_classes: tuple[int, int] = (10, 6)

    @property
    def patches(self) -> int:
        """Patches of an image; the class token is not counted."""
        return (self.image_size // self.patch_size) ** 2


class PatchEmbed(nn.Module):
    """Image to patch tokens: (N, 1, H, W) to (N, patches, dim)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, config.dim, kernel_size=config.patch_size, stride=config.patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """Embed each patch."""
        tokens: Tensor = self.proj(image)
        return tokens.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with fused qkv: (N, tokens, dim) to the same shape."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.head_dim = config.dim // config.num_heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over all tokens."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attention = ((q * self.head_dim**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        y: Tensor = self.proj((attention @ v).transpose(1, 2).reshape(batch, tokens, dim))
        return y


class Mlp(nn.Module):
    """fc1, exact GELU, fc2: the MLP of a dense block, and one expert."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every token."""
        y: Tensor = self.fc2(self.act(self.fc1(x)))
        return y


class Gate(nn.Module):
    """Scores of the experts, with one matrix per task: (N, tokens, dim) to (N, tokens, experts)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        tasks = len(config.task_classes)
        self.gate_w = nn.Parameter(torch.randn(tasks, config.num_experts, config.dim) * config.dim**-0.5)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Score with the matrix that `task` (int64, no dimensions) selects."""
        weight = torch.index_select(self.gate_w, 0, task.reshape(1)).squeeze(0)
        return x @ weight.transpose(0, 1)


class MoE(nn.Module):
    """Top-k mixture in the dense form: every expert sees every token, all but k gate weights are zero.

    The gate weights are the softmax over ALL experts, and the k kept are not renormalized (M3ViT).
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.top_k = config.top_k
        self.gate = Gate(config)
        self.experts = nn.ModuleList(Mlp(config.dim, config.expert_hidden) for _ in range(config.num_experts))

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Mix the experts that the gate of `task` chooses for each token."""
        scores = self.gate(x, task).softmax(dim=-1)
        weights, chosen = scores.topk(self.top_k, dim=-1)
        gates = torch.zeros_like(scores).scatter(-1, chosen, weights)
        y: Tensor = gates[..., 0:1] * self.experts[0](x)
        for index in range(1, len(self.experts)):
            y = y + gates[..., index : index + 1] * self.experts[index](x)
        return y


class Block(nn.Module):
    """Pre-norm encoder block, with a dense MLP or a mixture of experts."""

    def __init__(self, config: ViTConfig, moe: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.dim)
        self.moe = MoE(config) if moe else None
        self.mlp = None if moe else Mlp(config.dim, config.mlp_hidden)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Attention branch, then MLP branch, each added to the residual stream."""
        x = x + self.attn(self.norm1(x))
        y: Tensor = self.norm2(x)
        if self.moe is not None:
            y = self.moe(y, task)
        elif self.mlp is not None:
            y = self.mlp(y)
        return x + y


class MultiTaskViT(nn.Module):
    """Two-task ViT-MoE: a class of the image, and a class of every patch.

    Parameters
    ----------
    config : ViTConfig
        Shape of the network.
    """

    def __init__(self, config: ViTConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ViTConfig()
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.randn(1, 1, config.dim) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, config.patches + 1, config.dim) * 0.02)
        self.blocks = nn.ModuleList(Block(config, moe=index % 2 == 1) for index in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)
        self.head_digit = nn.Linear(config.dim, config.task_classes[0])
        self.head_stroke = nn.Linear(config.dim, config.task_classes[1])

    def forward(self, image: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of both tasks; only those of `task` have meaning.

        Parameters
        ----------
        image : float32 tensor, shape (N, 1, image_size, image_size)
            Normalized image.
        task : int64 tensor, no dimensions
            0 for the image's class, 1 for the patches' classes.

        Returns
        -------
        (digit, stroke) : pair of float32 tensors, shapes (N, 10) and (N, patches, 6)
        """
        x = self.patch_embed(image)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x, task)
        x = self.norm(x)
        return self.head_digit(x[:, 0]), self.head_stroke(x[:, 1:])
