"""Quantized models (QDQ) in: their scales and integers are kept, and their results are met."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from hwattn.compiler import compile_model
from hwattn.quant.importer import graph_and_scales, import_onnx
from hwattn.quant.kept import Note
from hwattn.quant.precision import in_sixteen
from hwattn.quant.qdq import to_qdq
from hwattn.quant.quantizer import Quantization, quantize
from hwattn.quant.settings import Settings
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import load_preset
from hwattn.spec.errors import RefusedError
from hwattn.spec.quantized import QuantizedMixture, QuantizedModel

torch = pytest.importorskip("torch")

from pipeline import ROOMY  # noqa: E402
from test_qdq import StemPostNorm  # noqa: E402
from torch_vits import IMAGE, Attend, Block, Mlp, MoEViT, ViT, export  # noqa: E402

CALIBRATION, TEST = (
    np.random.default_rng(seed).standard_normal((48, *IMAGE)).astype(np.float32) for seed in (0, 1)
)
FLOAT_RESIDUAL = ["MatMul", "Gemm", "Conv"]


class Reader(CalibrationDataReader):
    def __init__(self):
        self.feeds = iter([{"image": CALIBRATION[i : i + 8]} for i in range(0, len(CALIBRATION), 8)])

    def get_next(self):
        return next(self.feeds, None)


def static(
    model,
    folder,
    *,
    opset=14,
    ops=None,
    symmetric=True,
    kind=QuantType.QInt8,
    form=QuantFormat.QDQ,
):
    """The float file, and the one that onnxruntime's quantize_static makes of it."""
    source, target = folder / "float.onnx", folder / "static.onnx"
    export(model, source, opset=opset)
    logging.disable(logging.WARNING)
    quantize_static(
        str(source),
        str(target),
        Reader(),
        quant_format=form,
        per_channel=True,
        activation_type=kind,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=ops,
        extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
    )
    logging.disable(logging.NOTSET)
    return source, target


def by_onnxruntime(path):
    options = onnxruntime.SessionOptions()
    # the file's own arithmetic, without fused int8 products, which saturate on processors without VNNI
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(str(path), options).run(None, {"image": TEST})[0]


def by_the_machine(model: QuantizedModel):
    executor = Executor(compile_model(model, load_preset("digits").replace(**ROOMY)))
    limit = executor.batch_limit
    parts = [executor.run(TEST[i : i + limit], 0).outputs for i in range(0, len(TEST), limit)]
    (name,) = parts[0]
    return np.concatenate([part[name] for part in parts])


def taken_over(path, calibration=None) -> Quantization:
    graph, given = graph_and_scales(path)
    return quantize(graph, calibration, "m", given=given)


def decibel(exact, found):
    return 10 * np.log10(np.square(exact).sum() / np.square(exact - found).sum())


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 8),
        ({"ops": FLOAT_RESIDUAL}, 3),
        ({"opset": 18}, 10),
    ],
)
def test_static_int8(options, steps, tmp_path):
    blocks = Block(mlp=Mlp(torch.nn.SiLU())), Block(Attend("separate", "scores"), Mlp(torch.nn.SiLU()))
    source, target = static(ViT(*blocks), tmp_path, **options)
    made = taken_over(target)
    model, file = made.model, onnx.load(target)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in file.graph.initializer}
    scales = [float(arrays[node.input[1]]) for node in file.graph.node if node.op_type == "QuantizeLinear"]
    # every int8 tensor has a scale of the file, q and k up to the factor of the scores that the file applies to them
    narrow = [name for name in model.scales if name != "head.y0" and ".add" not in name]
    narrow = [name for name in narrow if not name.endswith(("proj", "fc2", "patch_embed"))]
    assert len(narrow) >= 14 and made.kept.tensors >= 14
    for name in narrow:
        for scale in model.scales[name]:
            factors = [scale / one * factor for one in scales for factor in (1, 0.5)]
            assert min(abs(factor - 1) for factor in factors) < 1e-6, name
    rows = [
        array.reshape(len(array), -1)
        for array in arrays.values()
        if array.dtype == np.int8 and array.ndim > 1
    ]
    rows = {row.tobytes() for array in rows for row in (*array, *array.T)}
    weights = [node.matrix.weight for node in model.nodes if hasattr(node, "matrix")]
    weights.append(model.by_name["patch_embed"].weight.reshape(12, -1))
    assert len(weights) == made.kept.weights == 14
    assert all(row.tobytes() in rows for weight in weights for row in weight)
    # the file rounds more often than the machine (residual stream, before biases, probabilities): so far they are apart,
    # in steps of the file's output, and so much nearer is the machine to the float model
    exact, theirs, ours = by_onnxruntime(source), by_onnxruntime(target), by_the_machine(model)
    assert np.abs(ours - theirs).max() <= steps * model.scales["head.y0"][0] * 128
    assert decibel(exact, ours) > decibel(exact, theirs) > 25
    assert {note.tensor for note in made.kept.notes} <= {"residual stream from patch_embed", "head.y0"}


def test_asymmetric_tensors_keep_their_range(tmp_path):
    _, target = static(ViT(), tmp_path, symmetric=False, kind=QuantType.QUInt8)
    made = taken_over(target)
    notes = {note.tensor: note for note in made.kept.notes}
    gelu = notes["blocks.0.mlp.fc1"]
    assert "with zero point" in gelu.found and "range is kept" in gelu.reason
    step, zero = (float(part) for part in gelu.found.split(" with zero point "))
    assert float(gelu.made) == pytest.approx((255 - zero) * step / 127, rel=1e-3)
    assert made.kept.weights == 8 and decibel(by_onnxruntime(target), by_the_machine(made.model)) > 25


def qcdq(path, target, *, narrow=False, factor=1.0):
    """Brevitas' form: weights and inputs of products behind QuantizeLinear, Clip, DequantizeLinear; nothing else."""
    model = onnx.load(path)
    graph, nodes = model.graph, []
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    read = {name for node in graph.node if node.op_type in FLOAT_RESIDUAL for name in node.input[:2]} - set(
        arrays
    )
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(read - {"image"}))
    session = onnxruntime.InferenceSession(probe.SerializeToString())
    found = dict(
        zip([o.name for o in session.get_outputs()], session.run(None, {"image": CALIBRATION}), strict=True)
    )
    found |= {"image": CALIBRATION, **arrays}
    limit = 7 if narrow else 127

    def constant(array, name):
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    done = {}
    low, high = constant(np.int8(-limit), "low"), constant(np.int8(limit), "high")
    for node in graph.node:
        for place, name in enumerate(node.input[:2] if node.op_type in FLOAT_RESIDUAL else ()):
            if name not in done:
                array = found[name]
                axis = (1 if array.ndim == 2 else 0) if name in arrays else None
                if node.op_type == "Gemm":
                    axis = 0 if axis is not None else None
                over = tuple(i for i in range(array.ndim) if i != axis) if axis is not None else None
                scale = np.asarray(np.abs(array).max(axis=over) / limit, np.float32)
                real = constant(scale, f"{name}.scale")
                back = real if factor == 1 else constant(np.float32(scale * factor), f"{name}.back")
                zero = constant(np.zeros(scale.shape, np.int8), f"{name}.zero")
                given = {} if axis is None else {"axis": axis}
                nodes += [
                    helper.make_node("QuantizeLinear", [name, real, zero], [f"{name}.q"], **given),
                    helper.make_node("Clip", [f"{name}.q", low, high], [f"{name}.c"]),
                    helper.make_node("DequantizeLinear", [f"{name}.c", back, zero], [f"{name}.d"], **given),
                ]
                done[name] = f"{name}.d"
            node.input[place] = done[name]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, target)
    return target


def test_brevitas_form(tmp_path):
    path = export(ViT(Block(Attend("separate"))), tmp_path / "float.onnx")
    target = qcdq(path, tmp_path / "qcdq.onnx")
    with pytest.raises(
        RefusedError,
        match=r"no scale for the residual stream from patch_embed, head.y0, and no images .*add --calibration",
    ):
        taken_over(target)
    made = taken_over(target, CALIBRATION)
    assert made.kept.notes == [] and made.kept.weights == 8
    assert made.kept.tensors == 9  # image, two norms, q, k, v, attention, fc1, the last norm
    assert made.residual_sqnr_db > 60
    theirs, ours = by_onnxruntime(target), by_the_machine(made.model)
    # only the probabilities are rounded differently, and a number here and there to the other side
    assert decibel(theirs, ours) > 35


def test_narrower_than_int8(tmp_path):
    path = export(ViT(Block(Attend("separate"))), tmp_path / "float.onnx")
    made = taken_over(qcdq(path, tmp_path / "qcdq.onnx", narrow=True), CALIBRATION)
    assert made.kept.weights == 8
    assert max(np.abs(n.matrix.weight).max() for n in made.model.nodes if hasattr(n, "matrix")) == 7
    assert all("clips at 127" in note.reason and "from -7 to 7" in note.found for note in made.kept.notes)


def assert_same(left, right, where=""):
    """Every integer and name is the same; scales to float32."""
    if dataclasses.is_dataclass(left):
        for entry in dataclasses.fields(left):
            if entry.compare and entry.name not in ("name", "inputs", "source"):
                assert_same(getattr(left, entry.name), getattr(right, entry.name), f"{where}.{entry.name}")
    elif isinstance(left, tuple):
        assert len(left) == len(right), where
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_same(one, other, f"{where}[{index}]")
    elif isinstance(left, np.ndarray) and left.dtype.kind == "i" and not where.endswith("gate_bias"):
        np.testing.assert_array_equal(left, right, where)
    elif isinstance(left, np.ndarray | float):
        # a gate's bias of up to 48 bits is a float32 in the file
        np.testing.assert_allclose(left, right, rtol=2e-7, err_msg=where)
    elif not isinstance(left, dict):
        assert left == right, where


@pytest.mark.parametrize(
    ("make", "inputs", "sixteen"),
    [
        (
            lambda: ViT(Block(), Block(mlp=Mlp(torch.nn.SiLU()), layer_scale=True)),
            1,
            ["*.attn", "*.fc2", "*0.attn.[qkv]"],
        ),
        (lambda: ViT(Block(), extra=0, pool="tokens", normalize=True), 1, ["*proj", "*.fc1", "head*"]),
        (lambda: MoEViT("plain", 2), 2, ["*moe.fc2"]),
        (lambda: MoEViT("chosen"), 1, ["*"]),
        (StemPostNorm, 1, []),
    ],
)
def test_round_trip(make, inputs, sixteen, tmp_path):
    graph, given = graph_and_scales(export(make(), tmp_path / "m.onnx", inputs=inputs))
    assert given is None
    settings = Settings(precision=tuple((name, 16) for name in sixteen))
    model = quantize(graph, CALIBRATION, "m", settings=settings).model
    assert bool(in_sixteen(model)) == bool(sixteen)
    onnx.save(to_qdq(model), tmp_path / "m.qdq.onnx")
    made = taken_over(tmp_path / "m.qdq.onnx")
    assert made.kept.notes == []
    assert_same(model, made.model)
    assert [type(node) for node in model.nodes] == [type(node) for node in made.model.nodes]
    for before, after in zip(model.nodes, made.model.nodes, strict=True):
        np.testing.assert_allclose(model.scales[before.name], made.model.scales[after.name], rtol=2e-7)
    onnx.save(to_qdq(made.model), tmp_path / "again.qdq.onnx")
    again = taken_over(tmp_path / "again.qdq.onnx")
    mixtures = [node for node in again.model.nodes if isinstance(node, QuantizedMixture)]
    assert_same(made.model.nodes, again.model.nodes)
    for name, scale in again.model.scales.items():
        np.testing.assert_array_equal(made.model.scales[name], scale)
    assert len(mixtures) == isinstance(make(), MoEViT)


def test_refusals(tmp_path):
    _, integers = static(ViT(), tmp_path, form=QuantFormat.QOperator)
    report = import_onnx(integers)
    assert report.graph is None
    assert any("QDQ" in entry.remedy for entry in report.refused)
    path = export(ViT(Block(Attend("separate"))), tmp_path / "float.onnx")
    report = import_onnx(qcdq(path, tmp_path / "wrong.onnx", factor=2.0))
    assert report.graph is None and "another scale" in report.refused[0].reason


def test_a_file_that_needs_images_says_what_for(tmp_path):
    _, target = static(ViT(), tmp_path, ops=["Conv", "Gemm"])
    with pytest.raises(RefusedError, match=r"no scale for .*blocks.0.attn.q.* more, and no images"):
        taken_over(target)
    made = taken_over(target, CALIBRATION)
    float_weights = [note for note in made.kept.notes if note.found == "float weights"]
    assert (
        Note("blocks.0.attn.q", "float weights", "int8", "no one scale for each row in the file")
        in float_weights
    )
    assert made.kept.weights == 2
