"""Shapes of the vision transformers that the workloads are made from; no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MixtureConfig:
    """Shape of a mixture of experts.

    Parameters
    ----------
    num_experts, top_k : int
        Experts of a mixture, shared by the tasks, and how many a token visits.
    hidden : int
        Hidden width of one expert.
    """

    num_experts: int
    top_k: int
    hidden: int


@dataclass(frozen=True)
class Head:
    """A linear head: its output's name, its classes, and whether it reads every patch token or the class token."""

    name: str
    classes: int
    per_patch: bool = False


@dataclass(frozen=True)
class ViTConfig:
    """Shape of a network.

    Parameters
    ----------
    image_size : tuple of int
        Height and width of the image, pixels.
    channels, patch_size : int
        Of the image; side of a patch, pixels.
    dim, num_heads, depth : int
        Width of a token, attention heads, blocks.
    mlp_hidden : int
        Hidden width of a dense MLP.
    heads : tuple of Head
        One for each task, in order.
    mixture : MixtureConfig or None
        Of the odd blocks (1, 3, ...); None for a network of dense blocks.
    norm_epsilon : float
        Epsilon of every LayerNorm.
    """

    image_size: tuple[int, int]
    channels: int
    patch_size: int
    dim: int
    num_heads: int
    depth: int
    mlp_hidden: int
    heads: tuple[Head, ...]
    mixture: MixtureConfig | None = None
    norm_epsilon: float = 1e-5

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of an image; the class token is not counted."""
        return self.grid[0] * self.grid[1]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of an image: channels, height, width."""
        return (self.channels, *self.image_size)
