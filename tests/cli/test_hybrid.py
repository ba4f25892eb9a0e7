"""The verbs on a model of which the host runs the end, from ONNX to QDQ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hwattn.cli.main import main

pytest.importorskip("torch")

import torch
from torch import nn

SHAPE = (3, 8, 12)


class MeanPooled(nn.Module):
    """A small ViT block whose patches are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.proj, self.pos = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, 6, 16) * 0.1)
        self.encoder = nn.TransformerEncoderLayer(
            16, 2, 32, batch_first=True, norm_first=True, activation="gelu"
        )
        self.head = nn.Linear(16, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.proj(image).flatten(2).transpose(1, 2) + self.pos
        return self.head(self.encoder(x).mean(dim=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hybrid")
    torch.manual_seed(0)
    torch.onnx.export(
        MeanPooled().eval(),
        (torch.zeros(2, *SHAPE),),
        str(made / "m.onnx"),
        input_names=["image"],
        output_names=["y"],
        dynamic_axes={"image": {0: "N"}, "y": {0: "N"}},
        opset_version=17,
        dynamo=False,
    )
    rng = np.random.default_rng(0)
    np.savez(made / "calibration.npz", image=rng.standard_normal((40, *SHAPE)).astype(np.float32))
    np.savez(made / "test.npz", image=rng.standard_normal((8, *SHAPE)).astype(np.float32))
    return made


def document(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    code = main([*arguments, "--json"])
    written = capsys.readouterr()
    assert code == 0, written.err
    return json.loads(written.out)


def test_from_onnx_to_qdq(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, hwq = str(folder / "m.onnx"), str(folder / "m.hwq")
    (host,) = document(["import", model], capsys)["host"]
    assert host.startswith("back, from ") and "ReduceMean" in host

    calibration = ["--calibration", str(folder / "calibration.npz"), "-o", hwq]
    made = document(["quantize", model, *calibration, "--html", str(folder / "r.html")], capsys)
    assert (made["calibration_images"], made["measured_images"], made["held_out"]) == (32, 8, True)
    assert made["host"] == ["back"] and made["routing_decisions"] == 0
    assert all(layer["cosine"] > 0.99 and 0 <= layer["saturated"] <= 1 for layer in made["layers"])
    page = (folder / "r.html").read_text()
    assert page.count("<svg") == 2 and "blocks.0.mlp.fc1" in page

    test = str(folder / "test.npz")
    ran = document(["run", hwq, "--input", test, "-o", str(folder / "y.npz")], capsys)
    assert ran["host"] == ["back"] and ran["outputs"] == {"y": [8, 5]}
    (task,) = document(["eval", hwq, "--data", test], capsys)["tasks"]
    assert task["name"] == "y" and task["cosine"] > 0.99

    exported = document(["export", hwq, "-o", str(folder / "m.qdq.onnx")], capsys)
    assert exported["pairs"] > 5 and exported["inputs"] == ["image"]


def test_calibrators_and_a_folder_of_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(1)
    for index in range(6):
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{index}.png")
    arguments = ["quantize", str(folder / "m.onnx"), "--calibration", str(folder / "pictures")]
    for calibrator in ("min-max", "percentile", "entropy"):
        options = ["--mean", "0.5,0.4,0.3", "--std", "0.2", "--calibrator", calibrator, "--no-migration"]
        made = document([*arguments, *options, "-o", str(folder / f"{calibrator}.hwq")], capsys)
        assert made["calibrator"] == calibrator and made["calibration_images"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--calibrator", "best"], "one of mean-square, min-max, percentile, entropy"),
        (["--percentile", "30"], "more than 50"),
        (["--axis", "length"], "write it as --axis sequence_length=32"),
        (["--axis", "length=4"], "no axis length in the inputs"),
        (["--fix", "mask=one"], "write it as --fix attention_mask=1"),
        (["--fix", "mask=1"], "no input mask in"),
    ],
)
def test_refusals(options: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["quantize", str(folder / "m.onnx"), "--calibration", str(folder / "calibration.npz")]
    assert main([*arguments, "-o", str(folder / "x.hwq"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "x.hwq").exists()


class TwoReadings(nn.Module):
    """Words, embedded on the host, and two heads over one encoder: one task with two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 16)
        self.encoder = nn.TransformerEncoderLayer(
            16, 2, 32, batch_first=True, norm_first=True, activation="gelu"
        )
        self.norm, self.first, self.second = nn.LayerNorm(16), nn.Linear(16, 5), nn.Linear(16, 3)

    def forward(self, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.norm(self.encoder(self.words(words)))
        return self.first(x[:, 0]), self.second(x[:, 1:])


def test_words_and_two_outputs_go_through_rtl_and_cycle_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    torch.onnx.export(
        TwoReadings().eval(),
        (torch.zeros(2, 6, dtype=torch.int64),),
        str(tmp_path / "m.onnx"),
        input_names=["words"],
        output_names=["first", "second"],
        dynamic_axes={name: {0: "N"} for name in ("words", "first", "second")},
        opset_version=17,
        dynamo=False,
    )
    rng = np.random.default_rng(0)
    for name, count in ("calibration", 40), ("test", 2):
        np.savez(tmp_path / f"{name}.npz", words=rng.integers(0, 20, (count, 6)))
    model, test = str(tmp_path / "m.hwq"), str(tmp_path / "test.npz")
    document(
        [
            *("quantize", str(tmp_path / "m.onnx"), "-o", model),
            *("--calibration", str(tmp_path / "calibration.npz")),
        ],
        capsys,
    )
    simulated = document(["sim", model, "--input", test, "--images", "1", "--stepped", "0"], capsys)
    assert simulated["bit_exact"]
    assert list(simulated["cycles_by_task"]) == ["first and second"]
    predicted = document(["perf", model, "--input", test, "--task", "second"], capsys)
    assert [predicted["cycles"]] == simulated["cycles"]
    written = tmp_path / "out.npz"
    made = document(["run", model, "--input", test, "-o", str(written), "--task", "second"], capsys)
    assert made["outputs"] == {"first": [2, 5], "second": [2, 5, 3]}
