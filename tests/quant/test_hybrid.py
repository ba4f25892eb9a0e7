"""Models of which the host runs a part: what is cut off, that it is refused in the middle, and that results are right."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hwattn.quant.hybrid import STARTS_MAX
from hwattn.quant.importer import import_onnx
from hwattn.quant.onnx_file import Changes
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Add, LayerNorm, Linear
from hwattn.spec.host import token_image, token_scale, token_weight

torch = pytest.importorskip("torch")

from library_models import MODELS  # noqa: E402
from library_models import export as export_library  # noqa: E402
from pipeline import compare  # noqa: E402
from torch import nn  # noqa: E402
from torch_vits import IMAGE, Block, Mlp, PostNorm, ViT, export  # noqa: E402


def images(count: int, seed: int) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(seed).standard_normal((count, *IMAGE)).astype(np.float32)}


class Words(nn.Module):
    """Embedding, a mask that is added, post-norm blocks, and the mean of all tokens: like a sentence transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(30, 12), nn.LayerNorm(12)
        self.blocks = nn.ModuleList([PostNorm(), PostNorm()])

    def forward(self, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.words(words))
        for block in self.blocks:
            y = block.attend
            q, k, v = y.split(x)
            scores = q @ k.transpose(-2, -1) * 0.5 + (1.0 - mask[:, None, None, :].float()) * -10000.0
            made = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
            x = block.norm1(x + y.proj(made))
            x = block.norm2(x + block.mlp(x))
        return x.mean(dim=1)


def sentences(path):
    torch.manual_seed(0)
    arguments = torch.zeros(2, 6, dtype=torch.int64), torch.ones(2, 6, dtype=torch.int64)
    axes = {name: {0: "N", 1: "length"} for name in ("words", "mask")}
    names = ["words", "mask"]
    torch.onnx.export(
        Words().eval(),
        arguments,
        str(path),
        input_names=names,
        output_names=["y"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )
    return path


@pytest.mark.parametrize(
    ("model", "part", "operators"),
    [
        (lambda: ViT(Block(), pool="mean"), "back", ["ReduceMean", "Gemm"]),
        (lambda: ViT(Block(), pool="softmax"), "back", ["Softmax"]),
    ],
)
def test_back(model, part, operators, tmp_path) -> None:
    made = compare(export(model(), tmp_path / "m.onnx"), images(8, 1), images(64, 2))
    (text,) = made.host
    assert text.startswith(f"{part}, from ") and all(one in text for one in operators)
    assert made.quantization.model.back is not None and made.quantization.model.front is None
    assert made.cosines["y0"] > 0.99


def test_front_and_back_with_an_axis_and_a_fixed_input(tmp_path) -> None:
    path = sentences(tmp_path / "m.onnx")
    with pytest.raises(RefusedError, match=r"axes of no fixed length: length; .*--axis length=LENGTH"):
        import_onnx(path)
    rng = np.random.default_rng(0)
    test, calibration = ({"words": rng.integers(0, 30, (count, 6))} for count in (8, 64))
    made = compare(path, test, calibration, Changes({"length": 6}, {"mask": 1}))
    front, back = made.host
    assert "Gather" in front and "ReduceMean" in back
    model = made.quantization.model
    assert model.front.inputs == ("words",) and model.fixed == {"mask": 1}
    assert made.cosines["y"] > 0.99
    streams = [node.name for node in model.nodes if node.name.endswith(".stream")]
    assert streams, "post-norm blocks begin new residual streams"
    scales = {float(model.scales[name][0]) for name in streams}
    assert len(scales) == len(streams)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (Changes({"width": 6}), "no axis width in the inputs of"),
        (Changes({"length": 6}, {"masks": 1}), "no input masks in"),
        (Changes({}, {"mask": 1}), "the input mask of .* has an axis of no fixed length"),
    ],
)
def test_wrong_changes(changes, message, tmp_path) -> None:
    with pytest.raises(RefusedError, match=message):
        import_onnx(sentences(tmp_path / "m.onnx"), changes)


def test_the_middle_is_refused(tmp_path) -> None:
    report = import_onnx(export(ViT(Block(), Block(mlp=Mlp(nn.ELU())), Block()), tmp_path / "m.onnx"))
    assert report.graph is None and report.host == ()
    assert report.refused[0].op == "Elu" and "GELU" in report.refused[0].remedy


def test_post_norm_graph(tmp_path) -> None:
    model = ViT(PostNorm(), pool="cls")
    report = import_onnx(export(model, tmp_path / "m.onnx"))
    # the first block reads patches without a LayerNorm: the embedding goes to the host
    assert report.graph is not None and report.graph.front is not None
    streams = [node for node in report.graph.nodes if node.name.endswith(".stream")]
    for node in streams:
        assert isinstance(node, Linear) and np.array_equal(node.weight, np.eye(12))
        assert isinstance(report.graph.by_name[node.inputs[0]], LayerNorm)
        readers = [other for other in report.graph.nodes if node.name in other.inputs]
        assert all(isinstance(other, Add | LayerNorm) for other in readers)


def test_two_digits_hold_a_token() -> None:
    tokens = np.random.default_rng(0).standard_normal((3, 5, 7)).astype(np.float32)
    scale = token_scale(tokens)
    image = token_image(tokens, scale)
    assert image.shape == (3, 1, 5, 14) and token_scale(image) == pytest.approx(scale)
    integers = np.rint(image / scale)
    assert np.abs(integers).max() <= 127
    back = (integers * scale) @ token_weight(7).reshape(7, 14).T
    assert np.abs(back[:, 0] - tokens).max() < scale / 200


def test_a_file_of_many_embeddings_ends(tmp_path) -> None:
    nodes, last = [], "x"
    for index in range(2 * STARTS_MAX):
        nodes.append(helper.make_node("Sin", [last], [f"t{index}"]))
        last = f"t{index}"
    value = helper.make_tensor_value_info
    ends = [value(name, TensorProto.FLOAT, ["N", 4, 4]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(RefusedError, match="inputs with four axes"):
        import_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("entry", MODELS, ids=[entry.name for entry in MODELS])
def test_models_of_libraries(entry, dynamo, tmp_path) -> None:
    if importlib.util.find_spec(entry.library) is None:
        pytest.skip(f"{entry.library} is not installed (requirements/models.txt)")
    if entry.name.startswith("eva") and not dynamo:
        pytest.skip("torch's TorchScript exporter fails on it: is_causal must be bool, not Tensor")
    path = export_library(entry, tmp_path / "m.onnx", small=True, dynamo=dynamo, opset=23 if dynamo else 17)
    made = compare(path, entry.samples(True, 4, 1), entry.samples(True, 16, 2))
    assert [text.split(",")[0] for text in made.host] == list(entry.host)
    assert min(made.cosines.values()) > 0.99
