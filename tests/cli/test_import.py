from __future__ import annotations

import json

import jsonschema
import onnx
import pytest

from hwattn.cli import main as entry
from hwattn.models import find_workload

MODEL = find_workload("digits").model


def schema():
    from importlib.resources import files

    return json.loads((files("hwattn.cli") / "schemas" / "import.json").read_text())


@pytest.fixture
def refused_model(tmp_path):
    model = onnx.load(MODEL)
    next(node for node in model.graph.node if node.op_type == "Gelu").op_type = "Elu"
    path = tmp_path / "elu.onnx"
    for node in model.graph.node:
        if node.op_type == "Elu":
            del node.attribute[:]
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("argument", ["digits", str(MODEL)])
def test_table(argument, capsys):
    assert entry.main(["import", argument]) == 0
    text = capsys.readouterr().out
    assert "blocks.1.moe" in text and "TopK" in text
    assert "261 ONNX nodes became 48 nodes" in text
    assert "multiply-accumulates per image" in text


def test_one_line_for_each_node(capsys):
    assert entry.main(["import", "digits", "--nodes"]) == 0
    text = capsys.readouterr().out
    assert "node_layer_norm_3" in text and "LayerNormalization" in text


def test_json(capsys):
    assert entry.main(["import", "--json", "digits"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, schema())
    assert document["refused"] == [] and document["host"] == []
    assert len(document["mapped"]) == 261
    assert document["macs"] == 1_281_120 and document["parameters"] == 111_008
    assert "error" not in document


def test_refused_nodes(refused_model, capsys):
    assert entry.main(["import", str(refused_model)]) == 2
    captured = capsys.readouterr()
    assert "refused" in captured.out and "Elu" in captured.out and "blocks.0.attn" not in captured.err
    assert captured.err.startswith("hwattn import: ")
    assert "1 node cannot be mapped: Elu node_gelu" in captured.err
    assert "Traceback" not in captured.err


def test_refused_nodes_json(refused_model, capsys):
    assert entry.main(["import", str(refused_model), "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, schema())
    (refused,) = document["refused"]
    assert refused["node"] == "node_gelu" and refused["op"] == "Elu"
    assert "no activation of the machine" in refused["reason"] and "GELU" in refused["remedy"]
    assert set(document["error"]) == {"found", "expected", "remedy"}
    assert document["macs"] == 0


def test_no_onnx(tmp_path, capsys):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"\x08\x07garbage")
    assert entry.main(["import", str(path), "--json"]) == 2
    captured = capsys.readouterr()
    assert "is not an ONNX file" in json.loads(captured.out)["error"]["found"]
    assert len(captured.err.strip().splitlines()) == 1
