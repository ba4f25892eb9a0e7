"""Vision transformers in torch under timm's names: dense ones, and multi-task mixtures in the manner of M3ViT (arXiv 2210.14793).

Only training, building and export need this file; nothing at run time imports torch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwattn.models.vit_config import MixtureConfig, ViTConfig


class PatchEmbed(nn.Module):
    """Image to patch tokens: (N, channels, H, W) to (N, patches, dim)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.proj = nn.Conv2d(config.channels, config.dim, kernel_size=size, stride=size)

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

    def __init__(self, dim: int, num_experts: int, tasks: int) -> None:
        super().__init__()
        self.gate_w = nn.Parameter(torch.randn(tasks, num_experts, dim) * dim**-0.5)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Score with the matrix that `task` (int64, no dimensions) selects."""
        weight = torch.index_select(self.gate_w, 0, task.reshape(1)).squeeze(0)
        return x @ weight.transpose(0, 1)


class MoE(nn.Module):
    """Top-k mixture in the dense form: every expert sees every token, all but k gate weights are zero.

    The gate weights are the softmax over ALL experts, and the k kept are not renormalized (M3ViT).
    """

    def __init__(self, dim: int, mixture: MixtureConfig, tasks: int) -> None:
        super().__init__()
        self.top_k = mixture.top_k
        self.gate = Gate(dim, mixture.num_experts, tasks)
        self.experts = nn.ModuleList(Mlp(dim, mixture.hidden) for _ in range(mixture.num_experts))

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
    """Pre-norm encoder block, with a dense MLP or, where there is a `mixture`, a mixture of experts."""

    def __init__(self, config: ViTConfig, mixture: MixtureConfig | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, config.norm_epsilon)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.dim, config.norm_epsilon)
        self.moe = MoE(config.dim, mixture, len(config.heads)) if mixture else None
        self.mlp = None if mixture else Mlp(config.dim, config.mlp_hidden)

    def forward(self, x: Tensor, task: Tensor | None = None) -> Tensor:
        """Attention branch, then MLP branch, each added to the residual stream."""
        x = x + self.attn(self.norm1(x))
        return x + self.branch(self.norm2(x), task)

    def branch(self, y: Tensor, task: Tensor | None) -> Tensor:
        """The MLP or mixture, of the normalized tokens `y`."""
        if self.moe is not None:
            y = self.moe(y, task)
        elif self.mlp is not None:
            y = self.mlp(y)
        return y


class Encoder(nn.Module):
    """What the networks share: patch embedding, class token, positions, blocks and the last LayerNorm.

    Parameters
    ----------
    config : ViTConfig
        Shape of the network.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.randn(1, 1, config.dim) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, config.patches + 1, config.dim) * 0.02)
        self.blocks = nn.ModuleList(
            Block(config, config.mixture if index % 2 else None) for index in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, config.norm_epsilon)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the ONNX inputs."""
        return ("image",)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the ONNX outputs, one for each task."""
        return tuple(head.name for head in self.config.heads)

    def classifiers(self) -> list[nn.Linear]:
        """The heads' linear layers, in the order of the tasks."""
        raise NotImplementedError

    def tokens(self, image: Tensor) -> Tensor:
        """What the first block reads: (N, channels, height, width) to (N, patches + 1, dim)."""
        x = self.patch_embed(image)
        return torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self.pos_embed

    def features(self, image: Tensor, task: Tensor | None = None) -> Tensor:
        """Normalized tokens behind the last block: (N, patches + 1, dim)."""
        x = self.tokens(image)
        for block in self.blocks:
            x = block(x, task)
        normalized: Tensor = self.norm(x)
        return normalized


class VisionTransformer(Encoder):
    """A classifier; its parameters have the names and shapes of timm's DeiT (arXiv 2012.12877).

    Parameters
    ----------
    config : ViTConfig
        Of one head that reads the class token, without a mixture.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        self.head = nn.Linear(config.dim, config.heads[0].classes)

    def classifiers(self) -> list[nn.Linear]:
        """The one head."""
        return [self.head]

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, height, width)."""
        logits: Tensor = self.head(self.features(image)[:, 0])
        return logits


class MultiTaskViT(Encoder):
    """A mixture-of-experts ViT with a gate and a head for each task, all other weights shared.

    Parameters
    ----------
    config : ViTConfig
        With a mixture; head ``name`` is the submodule ``head_name``.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        for head in config.heads:
            self.add_module(f"head_{head.name}", nn.Linear(config.dim, head.classes))

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the ONNX inputs."""
        return ("image", "task")

    def classifiers(self) -> list[nn.Linear]:
        """The heads' linear layers, in the order of the tasks."""
        layers = [self.get_submodule(f"head_{head.name}") for head in self.config.heads]
        return [layer for layer in layers if isinstance(layer, nn.Linear)]

    def forward(self, image: Tensor, task: Tensor) -> tuple[Tensor, ...]:
        """Logits of all tasks; only those of `task` have meaning.

        Parameters
        ----------
        image : float32 tensor, shape (N, channels, height, width)
            Normalized image.
        task : int64 tensor, no dimensions
            Index of the task.

        Returns
        -------
        tuple of float32 tensors, shape (N, classes), or (N, patches, classes) for a head that reads every patch
        """
        x = self.features(image, task)
        return tuple(
            layer(x[:, 1:] if head.per_patch else x[:, 0])
            for head, layer in zip(self.config.heads, self.classifiers(), strict=True)
        )


def make_network(config: ViTConfig) -> Encoder:
    """The network of that shape: multi-task where it has a mixture, else a classifier."""
    return MultiTaskViT(config) if config.mixture else VisionTransformer(config)
