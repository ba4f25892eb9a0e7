"""The bundled workload: what its files hold, how its data is split, and how accurate the float model is."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from hwattn.models import DEFAULT_WORKLOAD, bundled_workloads, find_workload, read_workload
from hwattn.spec.errors import RefusedError

WORKLOAD = find_workload(DEFAULT_WORKLOAD)
# `task` is the index of the output that has meaning.
TASKS = {task.name: index for index, task in enumerate(WORKLOAD.tasks)}


def infer(model: onnx.ModelProto, image: np.ndarray, task: int) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image, "task": np.array(task, np.int64)})


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(WORKLOAD.model)


def test_interface(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"image": ["N", 1, 8, 8], "task": [], "digit": ["N", 10], "stroke": ["N", 16, 6]}
    assert [output.name for output in model.graph.output] == list(TASKS)


def test_weights_fit_on_chip(model: onnx.ModelProto) -> None:
    assert WORKLOAD.model.stat().st_size <= 1_000_000
    int8_bytes = sum(
        int(np.prod(tensor.dims))
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) >= 2
    )
    assert 100_000 < int8_bytes <= 120_000


def test_no_path_and_nothing_private(model: onnx.ModelProto) -> None:
    content = WORKLOAD.model.read_bytes()
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        tensor.ClearField("raw_data")
    names = re.findall(rb"[ -~]{4,}", bare.SerializeToString())
    assert len(names) > 200
    assert not [name for name in names if b"/" in name or b"\\" in name or b".py" in name]
    assert not [root for root in (b"/home", b"/root", b"/usr", b"/tmp", b"C:\\") if root in content]
    assert not model.doc_string and not model.metadata_props and not model.graph.doc_string
    for part in (*model.graph.node, *model.graph.initializer, *model.graph.value_info):
        assert not part.doc_string and not part.metadata_props


def test_test_set_is_held_out() -> None:
    test, calibration = WORKLOAD.test_set(), WORKLOAD.calibration_set()
    assert len(test["image"]) == 720 and len(calibration["image"]) == 256
    assert set(test) == set(calibration) == {"image", "label_digit", "label_stroke"}
    seen = {image.tobytes() for image in calibration["image"]}
    assert not any(image.tobytes() in seen for image in test["image"])
    assert (np.bincount(test["label_digit"]) == 72).all()


def test_data_is_what_the_script_writes() -> None:
    pytest.importorskip("sklearn")
    from hwattn.models.digits.data import load_split, normalize, stroke_labels

    train, held_out = load_split()
    seen = {image.tobytes() for image in train.pixels}
    assert not any(image.tobytes() in seen for image in held_out.pixels)
    for split, arrays in ((held_out, WORKLOAD.test_set()), (train, WORKLOAD.calibration_set())):
        count = len(arrays["image"])
        np.testing.assert_array_equal(normalize(split.pixels)[:count], arrays["image"])
        np.testing.assert_array_equal(split.digit[:count], arrays["label_digit"])
        np.testing.assert_array_equal(stroke_labels(split.pixels)[:count], arrays["label_stroke"])


def test_stroke_labels_of_known_strokes() -> None:
    from hwattn.models.digits.data import STROKE_CLASSES, stroke_labels

    rows, columns = np.mgrid[:8, :8]
    drawings = {
        "background": np.zeros((8, 8)),
        "horizontal": rows == 3,
        "vertical": columns == 3,
        "falling": abs(rows - columns) <= 0,
        "rising": abs(rows + columns - 7) <= 0,
    }
    pixels = np.stack([16 * drawing.astype(np.int64) for drawing in drawings.values()])
    for name, labels in zip(drawings, stroke_labels(pixels), strict=True):
        assert STROKE_CLASSES[np.bincount(labels[[5, 6, 9, 10]]).argmax()] == name


def test_float_accuracy(model: onnx.ModelProto) -> None:
    test = WORKLOAD.test_set()
    for task in WORKLOAD.tasks:
        logits = infer(model, test["image"], TASKS[task.name])[TASKS[task.name]]
        label = test[f"label_{task.name}"]
        assert logits.shape == (*label.shape, len(task.classes))
        accuracy = np.mean(logits.argmax(-1) == label)
        assert accuracy == pytest.approx(task.float_metric, abs=1e-3)
        majority = np.bincount(label.ravel()).max() / label.size
        assert accuracy >= (0.97 if task.name == "digit" else majority + 0.35)


def test_gates_of_the_tasks_differ_and_use_every_expert(model: onnx.ModelProto) -> None:
    traced = onnx.ModelProto()
    traced.CopyFrom(model)
    chosen = [node.output[1] for node in model.graph.node if node.op_type == "TopK"]
    assert len(chosen) == 2
    del traced.graph.output[:]
    for name in chosen:
        traced.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None))
    image = WORKLOAD.test_set()["image"]
    by_task = [infer(traced, image, task) for task in TASKS.values()]
    for digit, stroke in zip(*by_task, strict=True):
        assert digit.shape == (720, 17, 2)
        assert all(np.bincount(experts.ravel(), minlength=8).min() > 0 for experts in (digit, stroke))
        usage = np.bincount(np.concatenate((digit, stroke), axis=None), minlength=8)
        assert usage.min() > 0.02 * usage.sum()
        assert np.mean(np.sort(digit, axis=-1) != np.sort(stroke, axis=-1)) > 0.2


@pytest.mark.parametrize(("exporter", "opset"), [("dynamo", 20), ("torchscript", 14)])
def test_exporters_reproduce_the_model(exporter: str, opset: int, tmp_path, model: onnx.ModelProto) -> None:
    torch = pytest.importorskip("torch")
    from hwattn.models.digits.network import DIGITS
    from hwattn.models.networks.export import export_onnx
    from hwattn.models.networks.vit import MultiTaskViT

    torch.manual_seed(3)
    network = MultiTaskViT(DIGITS)
    exported = export_onnx(network, tmp_path / "model.onnx", exporter, opset)
    assert exported.opset_import[0].version == opset
    assert not any(node.metadata_props or node.doc_string for node in exported.graph.node)
    image = WORKLOAD.test_set()["image"][:5]
    for task in TASKS.values():
        with torch.inference_mode():
            expected = network(torch.from_numpy(image), torch.tensor(task))
        for found, wanted in zip(infer(exported, image, task), expected, strict=True):
            np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
    shapes = sorted(tuple(t.dims) for t in exported.graph.initializer if len(t.dims) == 3)
    assert shapes.count((2, 8, 48)) == [
        numpy_helper.to_array(t).shape for t in model.graph.initializer
    ].count((2, 8, 48))


def test_unknown_workload() -> None:
    assert bundled_workloads() == ("digits",)
    with pytest.raises(
        RefusedError, match="no workload is called 'digit'; expected one of digits, deit-tiny"
    ):
        find_workload("digit")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "cannot be read"),
        ("config = ", "is not TOML"),
        ('config = "digits"', "lacks or misstates a key"),
    ],
)
def test_bad_workload_file(text: str | None, found: str, tmp_path) -> None:
    if text is not None:
        (tmp_path / "workload.toml").write_text(text)
    with pytest.raises(RefusedError, match=found):
        read_workload(tmp_path)
