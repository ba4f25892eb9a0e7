"""Models of timm, transformers and torch with seeded weights, at full size and small, and their export to ONNX."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import io
import logging
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


class _Anything(type):
    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _StandIn(types.ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _StandIn(spec.name)

    def exec_module(self, module):
        pass


@contextlib.contextmanager
def torchvision_stand_in() -> Iterator[None]:
    """Let timm be imported without torchvision, which its data loaders ask for and its models do not use."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]


def timm() -> Any:
    if "timm" not in sys.modules:
        with torchvision_stand_in():
            importlib.import_module("timm")
    return sys.modules["timm"]


@dataclass(frozen=True)
class LibraryModel:
    """A model: how it is made, small or at full size, and its inputs (name to shape without the batch axis, type)."""

    name: str
    library: str
    make: Callable[[bool], nn.Module]
    inputs: Callable[[bool], dict[str, tuple[tuple[int, ...], type]]]
    outputs: tuple[str, ...] = ("y",)
    features: str = "y"
    vocabulary: int = 64
    host: tuple[str, ...] = field(default=())

    def samples(self, small: bool, count: int, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        made = {}
        for name, (shape, kind) in self.inputs(small).items():
            if kind is int:
                made[name] = rng.integers(0, self.vocabulary, (count, *shape))
            else:
                made[name] = rng.standard_normal((count, *shape)).astype(np.float32)
        return made


SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 10}


def _vit(kind: str = "VisionTransformer", full: str = "", **options: Any) -> Callable[[bool], nn.Module]:
    def make(small: bool) -> nn.Module:
        if small:
            module = timm().models.vision_transformer if kind == "VisionTransformer" else timm().models.deit
            return getattr(module, kind)(**SMALL, **options)
        return timm().create_model(full, pretrained=False, **({"img_size": 224} if "dino" in full else {}))

    return make


def _eva(small: bool) -> nn.Module:
    options = {"use_rot_pos_emb": False, "global_pool": "avg", "qkv_fused": False, "init_values": 0.1}
    if small:
        return timm().models.eva.Eva(**SMALL, **options)
    size = {"img_size": 224, "patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3}
    return timm().models.eva.Eva(**size, **options)


def _hf(kind: str) -> Callable[[bool], nn.Module]:
    def make(small: bool) -> nn.Module:
        import transformers

        size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
        if not small:
            size = {
                "hidden_size": 192,
                "num_hidden_layers": 12,
                "num_attention_heads": 3,
                "intermediate_size": 768,
            }
        if kind == "Bert":
            size |= {"vocab_size": 64, "max_position_embeddings": 64}
        elif small:
            size |= {"image_size": 32, "patch_size": 8}
        model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**size))

        class Plain(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, x: torch.Tensor) -> Any:
                made = self.model(x)
                return made.last_hidden_state, made.pooler_output

        return Plain()

    return make


def _encoder(norm_first: bool) -> Callable[[bool], nn.Module]:
    def make(small: bool) -> nn.Module:
        dim, heads, depth = (64, 4, 2) if small else (192, 3, 12)
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, batch_first=True, norm_first=norm_first, activation="gelu"
        )
        return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    return make


def _image(small: bool) -> dict[str, tuple[tuple[int, ...], type]]:
    return {"x": ((3, 32, 32) if small else (3, 224, 224), float)}


def _words(small: bool) -> dict[str, tuple[tuple[int, ...], type]]:
    return {"x": ((16,) if small else (64,), int)}


def _tokens(small: bool) -> dict[str, tuple[tuple[int, ...], type]]:
    return {"x": ((10, 64) if small else (64, 192), float)}


_HF = ("hidden", "pooled")
MODELS = [
    LibraryModel("vit_tiny_patch16_224", "timm", _vit(full="vit_tiny_patch16_224"), _image),
    LibraryModel("deit_tiny_patch16_224", "timm", _vit(full="deit_tiny_patch16_224"), _image),
    LibraryModel(
        "deit_small_distilled_patch16_224",
        "timm",
        _vit("VisionTransformerDistilled", "deit_small_distilled_patch16_224"),
        _image,
        host=("back",),
    ),
    LibraryModel(
        "vit_small_patch14_reg4_dinov2",
        "timm",
        _vit(full="vit_small_patch14_reg4_dinov2", init_values=0.1, reg_tokens=4, no_embed_class=True),
        _image,
    ),
    LibraryModel(
        "vit_base_patch16_siglip_gap_224",
        "timm",
        _vit(full="vit_base_patch16_siglip_gap_224", class_token=False, global_pool="avg"),
        _image,
        host=("back",),
    ),
    LibraryModel("eva (mean pooling, tiny)", "timm", _eva, _image, host=("back",)),
    LibraryModel("ViTModel", "transformers", _hf("ViT"), _image, _HF, "hidden", host=("back",)),
    LibraryModel("DeiTModel", "transformers", _hf("DeiT"), _image, _HF, "hidden", host=("back",)),
    LibraryModel("BertModel", "transformers", _hf("Bert"), _words, _HF, "hidden", host=("front", "back")),
    LibraryModel("TransformerEncoder, norm first", "torch", _encoder(True), _tokens, host=("front",)),
    LibraryModel("TransformerEncoder, norm last", "torch", _encoder(False), _tokens, host=("front", "back")),
]


def export(entry: LibraryModel, path: Path, *, small: bool, dynamo: bool, opset: int) -> Path:
    """Export with seeded weights and a dynamic batch."""
    torch.manual_seed(0)
    model = entry.make(small).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name.endswith("bias"):
                parameter.normal_(std=0.02)
            if name == "head.weight":
                parameter.normal_(std=0.05)
            if "gamma" in name or ".ls" in name:
                parameter.uniform_(0.1, 0.5)
    arguments = tuple(torch.from_numpy(array) for array in entry.samples(small, 2, 0).values())
    names, outputs = list(entry.inputs(small)), list(entry.outputs)
    options: dict[str, Any] = {"opset_version": opset, "dynamo": dynamo}
    if dynamo:
        dimension = torch.export.Dim("N", min=1, max=4096)
        options |= {"dynamic_shapes": tuple({0: dimension} for _ in names), "external_data": False}
    else:
        options["dynamic_axes"] = {name: {0: "N"} for name in [*names, *outputs]}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(model, arguments, str(path), input_names=names, output_names=outputs, **options)
    return path
