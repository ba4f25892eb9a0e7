"""The .hwq file: exact round trip of every kind of node, and one clear sentence for every bad file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from hwattn.spec import hwq
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Add, Output, Rows
from hwattn.spec.hwq import FORMAT, VERSION, load_model, save_model
from hwattn.spec.quantized import (
    QuantizedAttention,
    QuantizedExpert,
    QuantizedLayerNorm,
    QuantizedLinear,
    QuantizedMatrix,
    QuantizedMixture,
    QuantizedModel,
    QuantizedPatchEmbed,
)


def equal(left: Any, right: Any) -> bool:
    """Whether two values are the same, arrays by dtype, shape and content."""
    if isinstance(left, np.ndarray):
        return (
            isinstance(right, np.ndarray) and left.dtype == right.dtype and bool(np.array_equal(left, right))
        )
    if type(left) is not type(right):
        return False
    if dataclasses.is_dataclass(left):
        names = [field.name for field in dataclasses.fields(left)]
        return all(equal(getattr(left, name), getattr(right, name)) for name in names)
    if isinstance(left, tuple):
        return len(left) == len(right) and all(equal(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    return bool(left == right)


def make_model(
    seed: int = 0, dim: int = 6, experts: int = 3, activation: str | None = "gelu"
) -> QuantizedModel:
    """A model with every kind of node and random content."""
    rng = np.random.default_rng(seed)

    def ints(dtype: str, *shape: int) -> Any:
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)

    def matrix(outputs: int, inputs: int) -> QuantizedMatrix:
        return QuantizedMatrix(ints("int8", outputs, inputs), rng.random(outputs), ints("int32", outputs))

    nodes = (
        QuantizedPatchEmbed(
            "embed", ("image",), ints("int8", dim, 1, 2, 2), rng.random(dim), ints("int16", 5, dim), 1
        ),
        QuantizedLayerNorm(
            "norm", ("embed",), ints("int16", dim), ints("int32", dim), 20, 2**45 + seed, True
        ),
        QuantizedLinear("q", ("norm",), matrix(dim, dim), None),
        QuantizedLinear("fc", ("norm",), matrix(dim, dim), activation),
        QuantizedAttention("attend", ("q", "q", "fc"), 2, 0.1 + rng.random(), 16, 0),
        QuantizedMixture(
            "mixture",
            ("norm",),
            tuple(QuantizedExpert(matrix(4, dim), matrix(dim, 4)) for _ in range(experts)),
            "gelu",
            float(rng.random()),
            ints("int16", 2, experts, dim),
            float(rng.random()),
            ints("int64", 2, experts),
            2,
            False,
        ),
        Add("sum", ("embed", "mixture")),
        Rows("first", ("sum",), 0, 1),
    )
    names = ["image", *(node.name for node in nodes)]
    return QuantizedModel(
        f"modèle {seed}",
        "image",
        (1, 4, 4),
        "task" if seed % 2 else None,
        2,
        nodes,
        (Output("digit", "first", (dim,), 0), Output("all", "sum", (5, dim), None)),
        {name: rng.random(2 if name == "q" else 1) + 1e-9 for name in names},
        "ab" * 32,
    )


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31),
    dim=st.integers(1, 9),
    experts=st.integers(0, 4),
    activation=st.sampled_from([None, "gelu", "silu"]),
)
def test_round_trip(tmp_path: Path, seed: int, dim: int, experts: int, activation: str | None) -> None:
    model = make_model(seed, dim, experts, activation)
    save_model(model, tmp_path / "m.hwq")
    assert equal(load_model(tmp_path / "m.hwq"), model)


def test_arrays_that_are_not_contiguous_survive(tmp_path: Path) -> None:
    model = make_model()
    node = model.nodes[2]
    assert isinstance(node, QuantizedLinear)
    turned = dataclasses.replace(node.matrix, weight=np.asfortranarray(node.matrix.weight))
    nodes = (*model.nodes[:2], dataclasses.replace(node, matrix=turned), *model.nodes[3:])
    model = dataclasses.replace(model, nodes=nodes)
    save_model(model, tmp_path / "m.hwq")
    assert equal(load_model(tmp_path / "m.hwq"), model)


def test_same_model_gives_the_same_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    save_model(make_model(), tmp_path / "a.hwq")
    save_model(make_model(), tmp_path / "b.hwq")
    assert (tmp_path / "a.hwq").read_bytes() == (tmp_path / "b.hwq").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.hwq", "b.hwq"]


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no file .*absent.hwq; expected a quantized model"):
        load_model(tmp_path / "absent.hwq")
    with pytest.raises(RefusedError, match="cannot be written"):
        save_model(make_model(), tmp_path / "nowhere" / "m.hwq")


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 1000, -1])
def test_truncated_file(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "m.hwq"
    save_model(make_model(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RefusedError, match="is no .hwq file .*make it again with hwattn quantize"):
        load_model(path)


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "m.hwq"
    path.write_bytes(b"\x89PNG not a model at all, only some bytes")
    with pytest.raises(RefusedError, match="is no .hwq file"):
        load_model(path)
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(RefusedError, match="holds no hwattn model"):
        load_model(path)
    with pytest.raises(RefusedError, match="no file"):
        load_model(tmp_path)


def test_newer_version(tmp_path: Path) -> None:
    path = tmp_path / "m.hwq"
    save_file({"x": np.zeros(3)}, path, {FORMAT: json.dumps({"version": VERSION + 1})})
    with pytest.raises(
        RefusedError, match=f"version {VERSION + 1} of the .hwq layout; expected version {VERSION}"
    ):
        load_model(path)


def test_every_changed_byte_of_the_contents_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.hwq"
    save_model(make_model(), path)
    whole = path.read_bytes()
    for position in np.random.default_rng(0).integers(8, len(whole), 60):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(position % 7)
        path.write_bytes(damaged)
        with pytest.raises(RefusedError, match=r"is damaged|is no \.hwq file|holds no hwattn model"):
            load_model(path)


def write(path: Path, content: Any, tensors: dict[str, Any]) -> None:
    """Write a file whose checksum is right, whatever its contents."""
    header = {"version": VERSION, "sha256": hwq._digest(content, tensors), "model": content}
    save_file(tensors, path, {FORMAT: json.dumps(header)})


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "{}",
        "[]",
        '{"kind": "os.system"}',
        '{"kind": "Add", "name": "a", "inputs": []}',
        '{"kind": "Add", "name": 3, "inputs": []}',
        '{"array": "x"}',
        '{"array": "y"}',
        '{"map": 1}',
        "[" * 5000,
    ],
)
def test_damaged_header(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.hwq"
    save_file({"x": np.zeros(3)}, path, {FORMAT: text})
    with pytest.raises(RefusedError, match="is damaged"):
        load_model(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return
    write(path, content, {"x": np.zeros(3)})
    with pytest.raises(RefusedError, match="is damaged"):
        load_model(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"inputs": ["norm"]', '"inputs": ["nrm"]', "reads nrm, which no earlier node makes"),
        ('"shift": 20', '"shift": "20"', "QuantizedLayerNorm.shift is no int"),
        ('"wide": true', '"wide": 1', "QuantizedLayerNorm.wide is no bool"),
        ('{"array": "model.nodes.1.gamma"}', '{"array": "model.nodes.1.beta"}', "gamma is no int16 array"),
        ('["norm", {"array": "model.scales.norm"}]', '["norm", 0.5]', "norm has no scale"),
        ('"tensor": "first"', '"tensor": "last"', "output digit reads last"),
    ],
)
def test_inconsistent_model(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "m.hwq"
    tensors: dict[str, Any] = {}
    text = json.dumps(hwq._encode(make_model(), "model", tensors))
    assert old in text
    write(path, json.loads(text.replace(old, new, 1)), tensors)
    with pytest.raises(RefusedError, match=message):
        load_model(path)
