"""``hwattn eval``: the bit-accurate model against float, and routing flips."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hwattn.cli.evaluate import accuracy, float_outputs, needed_tokens, routing_flips
from hwattn.cli.main import main
from hwattn.cli.models import resolve_model
from hwattn.models import find_workload
from hwattn.quant.host import open_session
from hwattn.quant.importer import graph_of
from hwattn.quant.reference import evaluate, route
from hwattn.spec.cache import CACHE_VARIABLE
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import MixtureOfExperts
from hwattn.spec.hwq import save_model

DIGITS = find_workload("digits")


@pytest.fixture(scope="module", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One cache folder for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


def evaluation(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The JSON document of a run."""
    assert main(["eval", *arguments, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_digits_on_all_held_out_images(capsys: pytest.CaptureFixture[str]) -> None:
    document = evaluation(capsys)
    assert document["images"] == 720
    tasks = {task["name"]: task for task in document["tasks"]}
    assert list(tasks) == ["digit", "stroke"]
    for task, entry in zip(DIGITS.tasks, document["tasks"], strict=True):
        assert entry["metric"] == task.metric == "accuracy"
        assert entry["float"] == pytest.approx(task.float_metric, abs=1e-3)
    assert tasks["digit"]["float"] - tasks["digit"]["integer"] <= 0.002
    assert tasks["stroke"]["float"] - tasks["stroke"]["integer"] <= 0.005
    assert 0 < document["routing_flips"] <= 0.01
    # class token and patches in the first mixture for both tasks, what each output needs in the second
    assert document["routing_decisions"] == 720 * 2 * (17 + 1 + 17 + 16)


def test_own_data_and_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test_set = DIGITS.test_set()
    np.savez(tmp_path / "bare.npz", image=test_set["image"][:6])
    np.savez(tmp_path / "prefixed.npz", **{f"test_{name}": array[:6] for name, array in test_set.items()})
    np.save(tmp_path / "bare.npy", test_set["image"][:6])
    bare = evaluation(capsys, "--data", str(tmp_path / "bare.npz"))
    assert bare == evaluation(capsys, "--data", str(tmp_path / "bare.npy"))
    assert [task["metric"] for task in bare["tasks"]] == ["agreement", "agreement"]
    assert all(task["float"] == 1.0 and task["integer"] > 0.9 for task in bare["tasks"])
    labelled = evaluation(capsys, "--data", str(tmp_path / "prefixed.npz"))
    assert [task["metric"] for task in labelled["tasks"]] == ["accuracy", "accuracy"]
    # results do not depend on the machine, as long as the key blocks are the same
    assert labelled == evaluation(capsys, "--images", "6", "--config", "tiny")


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--images", "3"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"digit .* accuracy .* 100.00% .* 100.00% .* \+0.00", text)
    assert "Routing flips:" in text and "3 images; float by onnxruntime" in text


def test_a_quantized_file_needs_its_float_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = onnx.load(DIGITS.model)
    proto.graph.name = "another"
    onnx.save(proto, tmp_path / "mine.onnx")
    np.savez(tmp_path / "x.npz", image=DIGITS.calibration_set()["image"][:8])
    model = resolve_model(str(tmp_path / "mine.onnx"), tmp_path / "x.npz").model
    (tmp_path / "sub").mkdir()
    save_model(model, tmp_path / "sub" / "m.hwq")
    arguments = ["eval", str(tmp_path / "sub" / "m.hwq")]
    assert main(arguments) == 2
    assert "whose float model is not known; expected the ONNX file" in capsys.readouterr().err
    arguments += ["--float", str(tmp_path / "mine.onnx")]
    assert main(arguments) == 2
    assert "mine without images to evaluate; " in capsys.readouterr().err
    assert main([*arguments, "--data", str(tmp_path / "x.npz")]) == 0


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"picture": np.zeros(3)}, "holds no array named image or test_image"),
        ({"image": np.zeros((2, 1, 8, 8))}, "of type float64; expected float32"),
        (
            {"image": np.zeros((2, 1, 8, 8), np.float32), "label_stroke": np.zeros((2, 15), int)},
            r"label_stroke of type int64 and shape \(2, 15\); expected integers of shape \(2, 16\)",
        ),
        (
            {"image": np.zeros((2, 1, 8, 8), np.float32), "label_digit": np.zeros(2)},
            "label_digit of type float64",
        ),
    ],
)
def test_bad_data(
    tmp_path: Path, arrays: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    assert main(["eval", "--data", str(tmp_path / "x.npz")]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_float_outputs_and_flips() -> None:
    graph, images = graph_of(DIGITS.model), DIGITS.test_set()["image"][:5]
    model, session = resolve_model("digits").model, open_session(DIGITS.model)
    for task, name in enumerate(["digit", "stroke"]):
        made = float_outputs(session, model, {"image": images}, task)
        values = evaluate(graph, images, task)
        assert list(made) == [name]
        tensor = next(output.tensor for output in graph.outputs if output.name == name)
        np.testing.assert_allclose(made[name].ravel(), values[tensor].ravel(), atol=1e-4)
        tokens = needed_tokens(graph, task)
        mixtures = [node for node in graph.nodes if isinstance(node, MixtureOfExperts)]
        exact = [
            route(node, values[node.inputs[0]][:, slice(*tokens[node.name])], task)[0] for node in mixtures
        ]
        decisions = sum(chosen.size for chosen in exact)
        assert routing_flips(graph, images, task, exact) == (0, decisions)
        assert routing_flips(graph, images, task, [chosen[..., ::-1] for chosen in exact]) == (0, decisions)
        changed = [exact[0].copy(), exact[1]]
        changed[0][0, 0, 0] = (set(range(8)) - set(exact[0][0, 0])).pop()
        assert routing_flips(graph, images, task, changed) == (1, decisions)
    assert needed_tokens(graph, 0)[mixtures[1].name] == (0, 1)
    assert needed_tokens(graph, 1)[mixtures[1].name] == (1, 17)


def test_a_fixed_batch_is_filled_up(tmp_path: Path) -> None:
    proto = onnx.load(DIGITS.model)
    for value in (*proto.graph.input[:1], *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(proto, tmp_path / "four.onnx")
    model, images = resolve_model("digits").model, DIGITS.test_set()["image"][:6]
    fixed = float_outputs(open_session(tmp_path / "four.onnx"), model, {"image": images}, 0)
    free = float_outputs(open_session(DIGITS.model), model, {"image": images}, 0)
    np.testing.assert_allclose(fixed["digit"], free["digit"], atol=1e-5)


def test_a_file_that_onnxruntime_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(RefusedError, match="onnxruntime does not load .*x.onnx"):
        open_session(tmp_path / "x.onnx")


def test_accuracy() -> None:
    logits = np.eye(3, dtype=np.float32)[[[0, 1], [2, 2]]]
    assert accuracy(logits, np.array([[0, 1], [2, 0]])) == 0.75
