"""The workloads that are built rather than bundled: their networks, and what their seeded weights and images are; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hwattn.models.vit_config import Head, MixtureConfig, ViTConfig
from hwattn.spec.cache import cache_folder, digest

_FOLDER = Path(__file__).parent
_SOURCES = ("catalogue.py", "vit_config.py", "photographs.py", "build.py")
_NETWORK_SOURCES = ("vit.py", "weights.py", "export.py")

DEIT_NORM_EPSILON = 1e-6
"""Epsilon of timm's LayerNorms."""


@dataclass(frozen=True)
class BuiltWorkload:
    """A workload that ``python -m hwattn.models.build`` makes.

    Parameters
    ----------
    name : str
        Its name on the command line.
    network : ViTConfig
        Shape of the network.
    config : str
        Preset of the accelerator configuration to use by default.
    descriptions : tuple of str
        What each task predicts, a sentence each.
    even_routing : bool
        Of a network with mixtures: each image uses every expert about alike. Else the experts share the images' tokens
        evenly only over all images, as a load-balancing loss in training asks, and an image uses some of them much more.
    seed : int
        Of everything random.
    calibration_images, test_images : int
        How many images each set holds.
    """

    name: str
    network: ViTConfig
    config: str
    descriptions: tuple[str, ...]
    even_routing: bool = True
    seed: int = 1
    calibration_images: int = 32
    test_images: int = 16

    @property
    def folder(self) -> Path:
        """Where it is kept once it is built: in the user's cache, by a digest of the sources that build it."""
        return cache_folder() / "workloads" / _recipe_digest() / self.name


def _deit(dim: int, num_heads: int) -> ViTConfig:
    return ViTConfig(
        image_size=(224, 224),
        channels=3,
        patch_size=16,
        dim=dim,
        num_heads=num_heads,
        depth=12,
        mlp_hidden=4 * dim,
        heads=(Head("logits", 1000),),
        norm_epsilon=DEIT_NORM_EPSILON,
    )


M3VIT_TINY = ViTConfig(
    image_size=(128, 256),
    channels=3,
    patch_size=16,
    dim=192,
    num_heads=3,
    depth=12,
    mlp_hidden=768,
    heads=(Head("semseg", 19, per_patch=True), Head("depth", 32, per_patch=True)),
    mixture=MixtureConfig(num_experts=16, top_k=2, hidden=384),
)
"""The encoder that Edge-MoE (arXiv 2305.18691) accelerates, with linear heads on the patch tokens: 129 tokens."""

_IMAGE_CLASS = ("Which of 1000 classes the image shows, from the class token.",)
_SCENE = (
    "Which of 19 classes of a street scene each patch shows.",
    "In which of 32 intervals of distance each patch lies (ordinal depth, arXiv 1806.02446).",
)

BUILT_WORKLOADS = {
    workload.name: workload
    for workload in (
        BuiltWorkload("deit-tiny", _deit(192, 3), "deit-tiny", _IMAGE_CLASS),
        BuiltWorkload("deit-small", _deit(384, 6), "deit-small", _IMAGE_CLASS),
        BuiltWorkload("m3vit-tiny", M3VIT_TINY, "m3vit-tiny", _SCENE),
        BuiltWorkload("m3vit-tiny-skewed", M3VIT_TINY, "m3vit-tiny", _SCENE, even_routing=False),
    )
}
"""By name."""


def _recipe_digest() -> str:
    """Digest of the sources that decide what is built."""
    files = [_FOLDER / name for name in _SOURCES]
    files += [_FOLDER / "networks" / name for name in _NETWORK_SOURCES]
    return digest(*(file.read_text(encoding="utf-8") for file in files))
