"""Import of models as torch's exporters write them, in the many ways people write a ViT.

Every import is compared with onnxruntime on the same images.
"""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from hwattn.models import find_workload
from hwattn.quant.importer import import_onnx
from hwattn.quant.reference import evaluate, outputs
from hwattn.spec.graph import (
    Add,
    Attention,
    Graph,
    LayerNorm,
    Linear,
    MixtureOfExperts,
    PatchEmbed,
    Rows,
)

torch = pytest.importorskip("torch")

from pipeline import compare  # noqa: E402
from torch import nn  # noqa: E402
from torch_vits import (  # noqa: E402
    CLASSES,
    DIM,
    HEAD_DIM,
    HEADS,
    IMAGE,
    PATCHES,
    Attend,
    Block,
    Masked,
    Mlp,
    MoEViT,
    OtherTensor,
    QuickGELU,
    RMSNorm,
    RootMeanSquare,
    ThirdMoment,
    TokenMixer,
    ViT,
    WrittenSwish,
    WrittenTanh,
    export,
)


def imported(path, *, tolerance=1e-4) -> Graph:
    """Import, and compare every output that has meaning with onnxruntime."""
    report = import_onnx(path)
    assert report.refused == ()
    graph = report.graph
    assert graph is not None
    images = np.random.default_rng(0).standard_normal((2, *graph.image_shape)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for task in range(graph.tasks):
        feeds = {graph.image: images}
        if graph.task_input:
            feeds[graph.task_input] = np.array(task)
        names = [output.name for output in session.get_outputs()]
        wanted = dict(zip(names, session.run(names, feeds), strict=True))
        for name, found in outputs(graph, evaluate(graph, images, task), task).items():
            assert found.shape == wanted[name].shape
            np.testing.assert_allclose(found, wanted[name], rtol=1e-4, atol=tolerance)
    return graph


def kinds(graph: Graph) -> list[type]:
    return [type(node) for node in graph.nodes]


STYLES = ["fused", "separate", "chunk", "slices", "interleaved", "bmm", "time first"]
SCALES = ["q", "k", "both", "scores", "sdpa"]


@pytest.mark.parametrize(
    ("style", "scale"),
    [(style, SCALES[i % 5]) for i, style in enumerate(STYLES)] + [("fused", s) for s in SCALES[1:]],
)
def test_attention(style, scale, tmp_path):
    graph = imported(export(ViT(Block(Attend(style, scale))), tmp_path / "m.onnx"))
    assert kinds(graph) == [PatchEmbed, LayerNorm, Linear, Linear, Linear, Attention, Linear, Add,
                            LayerNorm, Linear, Linear, Add, LayerNorm, Rows, Linear]  # fmt: skip
    attention = graph.by_name["blocks.0.attn"]
    assert attention.heads == HEADS
    assert attention.scale == pytest.approx(HEAD_DIM**-0.5)
    assert attention.inputs == ("blocks.0.attn.q", "blocks.0.attn.k", "blocks.0.attn.v")
    assert graph.by_name["blocks.0.norm2"].epsilon == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("style", "dynamo", "opset"),
    [
        ("fused", False, 11),
        ("mha", False, 14),
        ("fused", False, 18),
        ("mha", True, 23),
    ],
)
def test_exporters(style, dynamo, opset, tmp_path):
    attend = Attend(style, "sdpa") if opset > 11 else Attend("fused")
    graph = imported(export(ViT(Block(attend)), tmp_path / "m.onnx", dynamo=dynamo, opset=opset))
    assert graph.by_name["blocks.0.attn"].scale == pytest.approx(HEAD_DIM**-0.5)


ACTS = {
    "gelu": [nn.GELU],
    "gelu_tanh": [lambda: nn.GELU("tanh"), WrittenTanh],
    "quick_gelu": [QuickGELU],
    "silu": [nn.SiLU],
    "relu": [nn.ReLU],
    "softplus": [nn.Softplus],
    "hard_swish": [nn.Hardswish, WrittenSwish],
}


@pytest.mark.parametrize(
    ("name", "make", "opset"),
    [(name, make, 14) for name, makes in ACTS.items() for make in makes]
    + [("gelu", nn.GELU, 20), ("gelu_tanh", ACTS["gelu_tanh"][0], 20)],
)
def test_activations(name, make, opset, tmp_path):
    graph = imported(export(ViT(Block(mlp=Mlp(make()))), tmp_path / "m.onnx", opset=opset))
    assert graph.by_name["blocks.0.mlp.fc1"].activation == name
    assert graph.by_name["blocks.0.mlp.fc2"].activation is None


@pytest.mark.parametrize(
    ("model", "tokens", "first"),
    [
        (lambda: ViT(extra=0, pool="tokens"), PATCHES, 0),
        (lambda: ViT(extra=2), PATCHES + 2, 2),
        (lambda: ViT(extra=3, position="before", pool="tokens"), PATCHES + 3, 3),
        (lambda: ViT(normalize=True, pool="late"), PATCHES + 1, 1),
        (lambda: ViT(embed="linear"), PATCHES + 1, 1),
        (lambda: ViT(embed="channels last", normalize=True), PATCHES + 1, 1),
    ],
)
def test_embeddings_and_heads(model, tokens, first, tmp_path):
    graph = imported(export(model(), tmp_path / "m.onnx"))
    embed = graph.by_name["patch_embed"]
    assert embed.init.shape == (tokens, DIM)
    assert embed.first == first
    assert graph.outputs[0].task is None and graph.tasks == 1
    head = graph.by_name[graph.outputs[0].tensor]
    assert isinstance(head, Linear) and head.weight.shape == (CLASSES, DIM)


def test_layer_scale_is_folded(tmp_path):
    graph = imported(export(ViT(Block(layer_scale=True), Block(layer_scale=True)), tmp_path / "m.onnx"))
    assert [node.name for node in graph.nodes if isinstance(node, Add)] == [
        "blocks.0.add1", "blocks.0.add2", "blocks.1.add1", "blocks.1.add2",
    ]  # fmt: skip


@pytest.mark.parametrize("batch", [None, "N"])
def test_fixed_batch(batch, tmp_path):
    imported(export(ViT(), tmp_path / "m.onnx", batch=batch))


@pytest.mark.parametrize("options", [{"affine": False}, {"bias": False}])
def test_layernorm_without_parameters(options, tmp_path):
    make = (lambda: nn.LayerNorm(DIM, elementwise_affine=False)) if "affine" in options else (
        lambda: nn.LayerNorm(DIM, bias=False))  # fmt: skip
    imported(export(ViT(Block(Attend(bias=False), norm=make)), tmp_path / "m.onnx"))


@pytest.mark.parametrize(
    ("make", "dynamo", "opset"),
    [
        (RMSNorm, False, 14),
        (RootMeanSquare, False, 17),
        (lambda: nn.RMSNorm(DIM), True, 23),
    ],
)
def test_rms_norm(make, dynamo, opset, tmp_path):
    path = export(ViT(Block(norm=make), Block(norm=make)), tmp_path / "m.onnx", dynamo=dynamo, opset=opset)
    graph = imported(path)
    norms = [node.zero_mean for node in graph.nodes if isinstance(node, LayerNorm)]
    assert norms == [True, False, True, False, False]


def test_bits_of_rms_norm(tmp_path):
    path = export(ViT(Block(norm=RMSNorm), Block(norm=RMSNorm)), tmp_path / "m.onnx")
    rng = np.random.default_rng(1)
    calibration, test = ({"image": rng.standard_normal((n, *IMAGE)).astype(np.float32)} for n in (32, 4))
    assert compare(path, test, calibration).cosines["y0"] > 0.98


RENORMALIZED = ["chosen", "divided", "masked", "late division"]


@pytest.mark.parametrize(
    ("style", "tasks"),
    [(style, 1) for style in ("plain", *RENORMALIZED, "unbind", "split", "onto residual", "from zeros")]
    + [("plain", 3), ("divided", 3)],
)
def test_mixtures(style, tasks, tmp_path):
    inputs = 1 if tasks == 1 else 2
    graph = imported(export(MoEViT(style, tasks), tmp_path / "m.onnx", inputs=inputs))
    (mixture,) = (node for node in graph.nodes if isinstance(node, MixtureOfExperts))
    assert mixture.gate_weight.shape == (tasks, 4, DIM) and mixture.gate_bias.shape == (tasks, 4)
    assert mixture.renormalize == (style in RENORMALIZED)
    assert mixture.k == 2 and mixture.activation == "silu"
    assert [output.task for output in graph.outputs] == ([None] if tasks == 1 else [0, 1, 2])
    assert graph.task_input == (None if tasks == 1 else "task")


@pytest.mark.parametrize(
    ("model", "op", "reason", "remedy"),
    [
        (lambda: ViT(Block(mlp=Mlp(nn.ELU()))), "Elu", "element-wise function", "GELU"),
        (lambda: ViT(Block(mlp=Mlp(nn.LeakyReLU()))), "LeakyRelu", "element-wise function", "GELU"),
        (lambda: ViT(Block(mlp=Mlp(nn.Mish()))), "Mul", "element-wise function", "GELU"),
        (lambda: ViT(Block(norm=ThirdMoment)), "ReduceMean", "mean of a function", "RMSNorm"),
        (lambda: ViT(Block(norm=OtherTensor)), "Mul", "within a LayerNorm", "LayerNorm"),
        (lambda: ViT(Block(Masked())), "Add", "mask or bias", "remove attention masks"),
        (lambda: ViT(Block(TokenMixer())), "MatMul", "no longer the features of one token", "features"),
    ],
)
def test_refused(model, op, reason, remedy, tmp_path):
    report = import_onnx(export(model(), tmp_path / "m.onnx"))
    assert report.graph is None
    (entry,) = report.refused[:1]
    assert (entry.op, reason in entry.reason, remedy in entry.remedy) == (op, True, True), entry


def bundled_in_torch():
    """The bundled model in torch again, its weights taken from the imported graph."""
    from hwattn.models.digits.network import DIGITS
    from hwattn.models.networks.vit import MultiTaskViT

    graph = import_onnx(find_workload("digits").model).graph
    network = MultiTaskViT(DIGITS).eval()
    weights = {"patch_embed.proj.weight": graph.by_name["patch_embed"].weight}
    init = graph.by_name["patch_embed"].init
    weights |= {
        "pos_embed": init[None],
        "cls_token": 0 * init[None, :1],
        "patch_embed.proj.bias": 0 * init[0],
    }
    for node in graph.nodes:
        target = node.name.replace("head.", "head_")
        match node:
            case LayerNorm():
                weights |= {f"{target}.weight": node.gamma, f"{target}.bias": node.beta}
            case Linear() if not target.endswith((".q", ".k", ".v")):
                weights |= {f"{target}.weight": node.weight, f"{target}.bias": node.bias}
            case Attention():
                qkv = [graph.by_name[name] for name in node.inputs]
                weights[f"{target}.qkv.weight"] = np.concatenate([part.weight for part in qkv])
                weights[f"{target}.qkv.bias"] = np.concatenate([part.bias for part in qkv])
            case MixtureOfExperts():
                weights[f"{target}.gate.gate_w"] = node.gate_weight
                for i, expert in enumerate(node.experts):
                    for name, array in vars(expert).items():
                        weights[f"{target}.experts.{i}.{name.replace('_', '.')}"] = array
    network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
    return network


@pytest.mark.parametrize(("exporter", "opset"), [("torchscript", 14), ("dynamo", 18)])
def test_bundled_model_exported_again(exporter, opset, tmp_path):
    from hwattn.models.networks.export import export_onnx

    workload = find_workload("digits")
    proto = export_onnx(bundled_in_torch(), tmp_path / "m.onnx", exporter, opset)
    assert {"Erf"} <= {node.op_type for node in proto.graph.node}
    assert ("LayerNormalization" in {node.op_type for node in proto.graph.node}) == (opset > 14)
    graph, wanted = imported(tmp_path / "m.onnx"), import_onnx(workload.model).graph
    assert [(type(n), n.name, n.inputs) for n in graph.nodes] == [
        (type(n), n.name, n.inputs) for n in wanted.nodes
    ]
    images = workload.test_set()["image"][:32]
    for task in range(2):
        found, expected = (outputs(g, evaluate(g, images, task), task) for g in (graph, wanted))
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-4)


def test_batch_frozen_into_the_graph_is_refused(tmp_path):
    class Frozen(ViT):
        def tokens(self, image):
            return super().tokens(image).reshape(2, PATCHES, DIM)

    report = import_onnx(export(Frozen(), tmp_path / "m.onnx"))
    assert report.graph is None and report.refused
