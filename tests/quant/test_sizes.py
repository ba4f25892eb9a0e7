"""Files that ask for far more memory than they have bytes are refused before anything is allocated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hwattn.models import find_workload
from hwattn.quant.importer import import_onnx
from hwattn.quant.onnx_values import Refusal
from hwattn.quant.patterns.sizes import MAX_ELEMENTS, check_size, result_elements
from hwattn.spec.errors import RefusedError

INT = np.int64


@pytest.mark.parametrize(
    ("op", "arrays", "elements"),
    [
        ("ConstantOfShape", [np.array([1 << 16, 1 << 16, 1 << 10])], 1 << 42),
        ("Expand", [np.zeros((3, 1, 4)), np.array([3, 1 << 20, 4])], 3 * 4 << 20),
        ("Expand", [np.zeros((3, 197, 192)), np.array([3, 197, 192])], 3 * 197 * 192),
        ("Tile", [np.zeros((2, 3)), np.array([5, 7])], 210),
        ("Range", [np.array(0), np.array(1 << 40), np.array(2)], 1 << 39),
        ("Pad", [np.zeros((2, 3)), np.array([0, 1, 0, 1 << 30])], 2 * (3 + 1 + (1 << 30))),
        ("OneHot", [np.zeros(5), np.array(1 << 40), np.zeros(2)], 5 << 40),
        ("Gather", [np.zeros((10, 7)), np.zeros((3, 4), INT)], 84),
        ("MatMul", [np.zeros((2, 5, 1)), np.zeros((1, 6))], 60),
        ("Add", [np.zeros((50_000, 1)), np.zeros((1, 70_000))], 3_500_000_000),
        ("Add", [np.zeros(3), np.zeros(4)], 0),
        ("Relu", [np.zeros(3)], 0),
    ],
)
def test_elements_are_known_before_they_are_made(op: str, arrays: list[np.ndarray], elements: int) -> None:
    node = helper.make_node(op, [f"x{i}" for i in range(len(arrays))], ["y"])
    assert result_elements(node, arrays) == elements
    if elements > MAX_ELEMENTS:
        with pytest.raises(Refusal, match="elements, more than"):
            check_size(node, arrays)
    else:
        check_size(node, arrays)


def test_a_constant_of_terabytes_is_refused_by_name(tmp_path: Path) -> None:
    model = onnx.load(find_workload("digits").model)
    shape = helper.make_tensor("absurd", TensorProto.INT64, [3], [1 << 16, 1 << 16, 1 << 10])
    model.graph.initializer.append(shape)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["absurd"], ["filled"], name="fill"))
    (bias,) = (node for node in model.graph.node if node.op_type == "Conv")
    bias.input[2] = "filled"
    onnx.save(model, tmp_path / "m.onnx")
    report = import_onnx(tmp_path / "m.onnx")
    assert report.graph is None
    assert any(row.node == "fill" and "elements" in row.reason for row in report.refused)


@pytest.mark.parametrize("shape", [(1, 60_000, 60_000), (1 << 20, 8, 8), (1, 8, 1 << 40)])
def test_an_absurd_image_is_refused(shape: tuple[int, int, int], tmp_path: Path) -> None:
    model = onnx.load(find_workload("digits").model)
    (image,) = (entry for entry in model.graph.input if entry.name == "image")
    for axis, size in zip(image.type.tensor_type.shape.dim[1:], shape, strict=True):
        axis.dim_value = size
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(RefusedError, match=r"image|input|pixels"):
        import_onnx(tmp_path / "m.onnx")
