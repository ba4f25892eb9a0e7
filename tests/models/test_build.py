"""The built workloads: names and shapes of their networks, the builder on tiny networks, and the built ones where they are."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

import hwattn.models
import hwattn.models.build
from hwattn.cli.main import main
from hwattn.cli.models import resolve_model
from hwattn.models import find_workload, read_workload
from hwattn.models.catalogue import BUILT_WORKLOADS, M3VIT_TINY, BuiltWorkload
from hwattn.models.photographs import photographs
from hwattn.models.vit_config import Head, MixtureConfig, ViTConfig
from hwattn.quant.importer import graph_of
from hwattn.quant.reference import evaluate, route
from hwattn.spec.cache import CACHE_VARIABLE
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import MixtureOfExperts

DENSE = ViTConfig((16, 24), 3, 8, 12, 3, 2, 24, (Head("logits", 7),), norm_epsilon=1e-6)
MIXED = dataclasses.replace(
    DENSE, heads=(Head("semseg", 5, True), Head("depth", 4, True)), mixture=MixtureConfig(4, 2, 8)
)
TINY = {
    "dense": BuiltWorkload("dense", DENSE, "digits", ("A class.",), calibration_images=6, test_images=3),
    "mixed": BuiltWorkload("mixed", MIXED, "digits", ("One.", "Two."), calibration_images=6, test_images=3),
}

TIMM_BLOCK = {
    "norm1.weight": "d",
    "norm1.bias": "d",
    "attn.qkv.weight": "3d d",
    "attn.qkv.bias": "3d",
    "attn.proj.weight": "d d",
    "attn.proj.bias": "d",
    "norm2.weight": "d",
    "norm2.bias": "d",
    "mlp.fc1.weight": "4d d",
    "mlp.fc1.bias": "4d",
    "mlp.fc2.weight": "d 4d",
    "mlp.fc2.bias": "d",
}
"""Parameters of a block of timm's VisionTransformer; d is the embedding's dimension."""


def timm_parameters(dim: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of timm's deit_*_patch16_224."""
    sizes = {"d": dim, "3d": 3 * dim, "4d": 4 * dim}
    found: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, 197, dim),
        "patch_embed.proj.weight": (dim, 3, 16, 16),
        "patch_embed.proj.bias": (dim,),
    }
    for block in range(12):
        for name, shape in TIMM_BLOCK.items():
            found[f"blocks.{block}.{name}"] = tuple(sizes[size] for size in shape.split())
    return found | {
        "norm.weight": (dim,),
        "norm.bias": (dim,),
        "head.weight": (1000, dim),
        "head.bias": (1000,),
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache folder of its own, in which the two tiny workloads are built, instead of the catalogue, until the file ends."""
    pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        for module in (hwattn.models, hwattn.models.build):
            patch.setattr(module, "BUILT_WORKLOADS", TINY)
        patch.setattr("sys.argv", ["build"])
        assert hwattn.models.build.main() == 0
        yield


def built(name: str) -> Any:
    """A built workload, or a skip."""
    if not BUILT_WORKLOADS[name].folder.is_dir():
        pytest.skip(f"{name} is not built: run `make workloads`")
    return find_workload(name)


@pytest.mark.train
@pytest.mark.parametrize(
    ("name", "dim", "count"), [("deit-tiny", 192, 5_717_416), ("deit-small", 384, 22_050_664)]
)
def test_parameters_are_those_of_timms_deit(name: str, dim: int, count: int) -> None:
    import torch

    from hwattn.models.networks.vit import make_network

    with torch.device("meta"):
        network = make_network(BUILT_WORKLOADS[name].network)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert shapes == timm_parameters(dim)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == count
    assert {module.eps for module in network.modules() if isinstance(module, torch.nn.LayerNorm)} == {1e-6}


def test_shape_of_m3vit() -> None:
    assert (M3VIT_TINY.patches + 1, M3VIT_TINY.dim, M3VIT_TINY.num_heads, M3VIT_TINY.depth) == (
        129,
        192,
        3,
        12,
    )
    assert M3VIT_TINY.mixture == MixtureConfig(num_experts=16, top_k=2, hidden=384)
    assert len(M3VIT_TINY.heads) == 2


def test_photographs_are_disjoint_and_seeded() -> None:
    pytest.importorskip("sklearn")
    calibration, test = (photographs(4, (16, 32), 1, held_out) for held_out in (False, True))
    assert calibration.shape == test.shape == (4, 3, 16, 32) and calibration.dtype == np.float32
    assert not any(np.array_equal(one, other) for one in calibration for other in test)
    assert np.array_equal(calibration, photographs(4, (16, 32), 1, False))
    assert not np.array_equal(calibration, photographs(4, (16, 32), 2, False))
    # natural images: most of the power lies in low frequencies
    power = np.abs(np.fft.rfft(test - test.mean(axis=-1, keepdims=True), axis=-1)) ** 2
    assert power[..., :5].sum() > 4 * power[..., 5:].sum()


def test_what_is_not_built_says_how(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(
        RefusedError, match="deit-tiny has not been built on this machine.*run `make workloads`"
    ):
        find_workload("deit-tiny")
    assert main(["import", "m3vit-tiny"]) == 2
    assert "python -m hwattn.models.build m3vit-tiny" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["build", "deit-huge"])
    assert hwattn.models.build.main() == 2
    assert "no workload deit-huge to build" in capsys.readouterr().err
    monkeypatch.setattr(hwattn.models.build, "_NEEDED", ("torch", "no_such_module"))
    monkeypatch.setattr("sys.argv", ["build", "deit-tiny"])
    assert hwattn.models.build.main() == 2
    assert "no_such_module to build deit-tiny with" in capsys.readouterr().err


def test_every_expert_of_the_built_m3vit_is_used() -> None:
    workload = built("m3vit-tiny")
    graph = graph_of(workload.model)
    image = workload.test_set()["image"][: workload.simulation_images]
    mixtures = [node for node in graph.nodes if isinstance(node, MixtureOfExperts)]
    assert len(mixtures) == 6 and graph.tasks == 2
    for task in range(graph.tasks):
        values = evaluate(graph, image, task)
        for node in mixtures:
            chosen, _ = route(node, values[node.inputs[0]], task)
            # two tokens at least, so that a few decisions may flip in integers
            assert np.bincount(chosen.ravel(), minlength=16).min() >= 2


@pytest.mark.usefixtures("tiny")
def test_tiny_workloads_answer_to_their_names(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert hwattn.models.built_workloads() == ("dense", "mixed")
    for name, workload in TINY.items():
        found = find_workload(name)
        assert [task.name for task in found.tasks] == [head.name for head in workload.network.heads]
        assert {task.metric for task in found.tasks} == {"agreement"}
        assert len(found.calibration_set()["image"]) == 6 and len(found.test_set()["image"]) == 3
        capsys.readouterr()
        assert main(["eval", name, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert [task["metric"] for task in document["tasks"]] == ["agreement"] * len(found.tasks)
        assert all(task["integer"] >= 0.6 for task in document["tasks"])
        assert main(["run", name, "-o", str(tmp_path / f"{name}.npz"), "--json"]) == 0


@pytest.mark.usefixtures("tiny")
def test_a_quantized_file_finds_its_built_workload(tmp_path: Any) -> None:
    assert main(["quantize", "dense", "-o", str(tmp_path / "m.hwq"), "--json"]) == 0
    workload = resolve_model(str(tmp_path / "m.hwq")).workload
    assert workload is not None and workload.name == "dense"


@pytest.mark.usefixtures("tiny")
def test_building_again_gives_the_same_files(tmp_path: Any) -> None:
    hwattn.models.build.write_workload(TINY["mixed"], tmp_path)
    for name in ("model.onnx", "workload.toml"):
        assert (tmp_path / name).read_bytes() == (TINY["mixed"].folder / name).read_bytes()
    for name, array in read_workload(tmp_path).test_set().items():
        assert np.array_equal(array, find_workload("mixed").test_set()[name])


@pytest.mark.usefixtures("tiny")
def test_weights_have_tails_and_attention_is_not_uniform() -> None:
    import torch

    from hwattn.models.networks.vit import make_network
    from hwattn.models.networks.weights import draw_weights

    config = dataclasses.replace(DENSE, image_size=(64, 64), dim=48, mlp_hidden=96)
    images = torch.from_numpy(photographs(6, (64, 64), 1, held_out=False))
    network: Any = make_network(config).eval()
    draw_weights(network, images, seed=1)
    weight = network.blocks[0].mlp.fc1.weight.detach().flatten().double()
    kurtosis = float((weight - weight.mean()).pow(4).mean() / weight.var().square())
    assert kurtosis > 5  # 3 for a normal distribution
    attention = network.blocks[1].attn
    with torch.inference_mode():
        x = network.blocks[1].norm1(network.blocks[0](network.tokens(images)))
        q, k, _ = attention.qkv(x).reshape(6, 65, 3, 3, 16).permute(2, 0, 3, 1, 4)
        largest = (q @ k.transpose(-2, -1) / 4).softmax(-1).amax(-1).mean(dim=(0, 2))
    assert (largest > 3 / 65).all()
