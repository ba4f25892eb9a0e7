"""Import of models as torch's exporters write them, in the many ways people write a ViT.

Every import is compared with onnxruntime on the same images.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings

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
nn, functional = torch.nn, torch.nn.functional

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


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class WrittenTanh(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


class WrittenSwish(nn.Module):
    def forward(self, x):
        return x * functional.relu6(x + 3) / 6


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


class RMSNorm(nn.Module):
    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


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


@pytest.mark.parametrize(
    ("model", "op", "reason", "remedy"),
    [
        (lambda: ViT(pool="mean"), "ReduceMean", "mean pooling over the tokens", "class token"),
        (lambda: ViT(pool="softmax"), "Softmax", "softmax", "logits"),
        (lambda: ViT(Block(mlp=Mlp(nn.ELU()))), "Elu", "element-wise function", "GELU"),
        (lambda: ViT(Block(mlp=Mlp(nn.LeakyReLU()))), "LeakyRelu", "element-wise function", "GELU"),
        (lambda: ViT(Block(mlp=Mlp(nn.Mish()))), "Mul", "element-wise function", "GELU"),
        (lambda: ViT(Block(norm=RMSNorm)), "ReduceMean", "RMSNorm", "LayerNorm"),
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
    from hwattn.models.digits.vit import MultiTaskViT

    graph = import_onnx(find_workload("digits").model).graph
    network = MultiTaskViT().eval()
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
    from hwattn.models.digits.export import export_onnx

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
