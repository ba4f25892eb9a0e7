"""``hwattn quantize``, and what a model argument stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hwattn.cli import models
from hwattn.cli.main import main
from hwattn.cli.models import file_digest, resolve_model
from hwattn.models import find_workload
from hwattn.quant.precision import in_sixteen
from hwattn.spec.cache import CACHE_VARIABLE
from hwattn.spec.errors import RefusedError
from hwattn.spec.hwq import load_model, save_model

DIGITS = find_workload("digits")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache folder for all tests of this file, empty at first."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv(CACHE_VARIABLE, str(folder))
        yield folder


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the digits model as a file that belongs to no workload, and few calibration images."""
    folder = tmp_path_factory.mktemp("stranger")
    proto = onnx.load(DIGITS.model)
    proto.graph.name = "another"
    onnx.save(proto, folder / "mine.onnx")
    images = DIGITS.calibration_set()["image"]
    np.savez(folder / "x.npz", image=images[:16])
    np.savez(folder / "calib.npz", calib_image=images[:16])
    np.save(folder / "x.npy", images[:16])
    np.savez(folder / "wrong.npz", picture=images[:16])
    np.savez(folder / "shape.npz", image=np.zeros((2, 3, 8, 8), np.float32))
    return folder


def test_workload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "d.hwq"
    assert main(["quantize", "-o", str(target), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model"] == "digits" and document["calibration_images"] == 256
    assert document["bytes"] == target.stat().st_size < 250_000
    low = {layer["name"]: layer["sqnr_db"] for layer in document["layers"] if layer["sqnr_db"] < 26}
    assert not low and len(document["layers"]) > 40
    assert document["residual_sqnr_db"] > 60
    model = load_model(target)
    assert model.name == "digits" and model.source == file_digest(DIGITS.model)
    found = resolve_model(str(target))
    assert found.onnx == DIGITS.model and found.workload == DIGITS and found.preset == DIGITS.config
    assert found.output_names == ["digit", "stroke"]


@pytest.mark.parametrize("calibration", ["x.npz", "calib.npz", "x.npy"])
def test_file(stranger: Path, tmp_path: Path, calibration: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine.hwq"
    arguments = ["quantize", str(stranger / "mine.onnx"), "--calibration", str(stranger / calibration)]
    assert main([*arguments, "-o", str(target)]) == 0
    text = capsys.readouterr().out
    # of 16 images, three are held out to measure with
    assert "SQNR dB" in text and "calibrated with 13 images" in text and "MixtureOfExperts" in text
    found = resolve_model(str(target))
    assert found.model.name == "mine"
    assert found.onnx is None and found.workload is None and found.preset == models.DEFAULT_PRESET
    (tmp_path / "mine.onnx").write_bytes((stranger / "mine.onnx").read_bytes())
    assert resolve_model(str(target)).onnx == tmp_path / "mine.onnx"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0}/absent.onnx", "-o", "{1}/m.hwq"], "no file .*absent.onnx"),
        (["{0}/mine.onnx", "-o", "{1}/m.hwq"], "without images to calibrate with; .*add --calibration"),
        (
            ["{0}/mine.onnx", "--calibration", "{0}/wrong.npz", "-o", "{1}/m.hwq"],
            "of the arrays picture; expected one named image or calib_image",
        ),
        (["{0}/mine.onnx", "--calibration", "{0}/shape.npz", "-o", "{1}/m.hwq"], r"\(2, 3, 8, 8\)"),
        (["{0}/mine.onnx", "--calibration", "{0}/none.npz", "-o", "{1}/m.hwq"], "none.npz cannot be read"),
        (["digits", "-o", "{1}/m.onnx"], "ends in .hwq"),
        (["digits", "-o", "{1}/no/folder/m.hwq"], "cannot be written"),
        (["{0}/x.npz", "--calibration", "{0}/x.npz", "-o", "{1}/m.hwq"], "x.npz"),
        (["nonsense", "-o", "{1}/m.hwq"], "no workload is called 'nonsense'"),
        (["digits"], "required: -o/--output"),
    ],
)
def test_refusals(
    stranger: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["quantize", *(word.format(stranger, tmp_path) for word in arguments)])
    captured = capsys.readouterr()
    assert code == 2 and captured.out == ""
    assert captured.err.count("\n") == 1
    assert re.search(message, captured.err), captured.err
    assert not list(tmp_path.glob("*.hwq"))


def test_quantizing_again_what_is_quantized(tmp_path: Path) -> None:
    (tmp_path / "m.hwq").write_bytes(b"x")
    with pytest.raises(RefusedError, match="is quantized already"):
        models.float_model(str(tmp_path / "m.hwq"))


def test_quantized_once_and_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_quantizer_version", lambda: "one")
    monkeypatch.setenv(CACHE_VARIABLE, str(cache / "own"))
    first = resolve_model("digits")
    assert [path.name for path in (cache / "own" / "quantized").glob("*/*")] == ["model.hwq"]

    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("quantized twice")

    monkeypatch.setattr(models, "quantize", never)
    assert resolve_model("digits").model.source == first.model.source
    monkeypatch.setattr(models, "_quantizer_version", lambda: "another")
    with pytest.raises(AssertionError, match="quantized twice"):
        resolve_model("digits")


def test_a_damaged_file_beside_is_not_taken(tmp_path: Path) -> None:
    save_model(resolve_model("digits").model, tmp_path / "d.hwq")
    (tmp_path / "d.hwq").write_bytes((tmp_path / "d.hwq").read_bytes()[:500])
    with pytest.raises(RefusedError, match="is no .hwq file"):
        resolve_model(str(tmp_path / "d.hwq"))


def test_a_quantized_file_needs_no_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, target = tmp_path / "d.qdq.onnx", tmp_path / "d.hwq"
    assert main(["export", "digits", "-o", str(file)]) == 0
    capsys.readouterr()
    assert main(["quantize", str(file), "-o", str(target), "--json"]) == 0
    written = capsys.readouterr()
    document = json.loads(written.out)
    assert "nothing is measured without images" in written.err
    assert document["given"]["changed"] == [] and document["given"]["weights"] > 30
    assert document["calibration_images"] == document["measured_images"] == 0
    before, after = resolve_model("digits").model, load_model(target)
    for one, other in zip(before.nodes, after.nodes, strict=True):
        assert type(one) is type(other)
        if hasattr(one, "matrix"):
            np.testing.assert_array_equal(one.matrix.weight, other.matrix.weight)
            np.testing.assert_array_equal(one.matrix.bias, other.matrix.bias)
    assert len(resolve_model(str(file)).model.nodes) == len(after.nodes)
    images = DIGITS.test_set()["image"][:32]
    np.savez(tmp_path / "x.npz", image=images)
    assert main(["quantize", str(file), "--data", str(tmp_path / "x.npz"), "-o", str(target)]) == 0
    text = capsys.readouterr().out
    assert "scales of tensors" in text and "Measured on 32 of images" in text and "scales of the file" in text
    assert main(["quantize", str(file), "--html", str(tmp_path / "r.html"), "-o", str(target)]) == 2
    assert "--html without images" in capsys.readouterr().err


def test_precision_and_budget(stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.yaml").write_text("blocks.0.mlp.fc2: 16\nblocks.1.moe.fc?: 8\n")
    arguments = ["quantize", str(stranger / "mine.onnx"), "--calibration", str(stranger / "x.npz")]
    arguments += ["-o", str(tmp_path / "m.hwq"), "--precision", str(tmp_path / "p.yaml"), "--budget", "3"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["precision"]
    chosen = {name for choice in found["choices"] for name in choice["layers"]}
    assert (
        set(found["sixteen"]) >= chosen | {"blocks.0.mlp.fc2"} and "blocks.1.moe.fc2" not in found["sixteen"]
    )
    assert 0 < sum(choice["macs"] for choice in found["choices"]) <= 0.03 < found["second_passes"]
    assert in_sixteen(load_model(tmp_path / "m.hwq")) == tuple(found["sixteen"])
    assert main(arguments) == 0
    assert "more multiply-accumulates of 3% allowed" in capsys.readouterr().out
    assert main([*arguments, "--budget", "x"]) == 2
