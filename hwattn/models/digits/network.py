"""Shape of the digits model."""

from __future__ import annotations

from hwattn.models.digits.data import DIGIT_CLASSES, PATCH_SIZE, STROKE_CLASSES
from hwattn.models.vit_config import Head, MixtureConfig, ViTConfig

MIXTURE = MixtureConfig(num_experts=8, top_k=2, hidden=32)

DIGITS = ViTConfig(
    image_size=(8, 8),
    channels=1,
    patch_size=PATCH_SIZE,
    dim=48,
    num_heads=3,
    depth=4,
    mlp_hidden=96,
    heads=(Head("digit", len(DIGIT_CLASSES)), Head("stroke", len(STROKE_CLASSES), per_patch=True)),
    mixture=MIXTURE,
)
"""Two tasks: the class of the image, and a class of every patch."""
