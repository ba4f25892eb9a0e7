"""Import of mixtures of experts that compute only the chosen experts, as torch's exporters write them."""

from __future__ import annotations

import numpy as np
import pytest

from hwattn.quant.importer import import_onnx
from hwattn.spec.graph import MixtureOfExperts

torch = pytest.importorskip("torch")

import torch_mixtures as mixtures  # noqa: E402
from pipeline import compare  # noqa: E402
from test_importer_torch import imported  # noqa: E402
from torch_vits import DIM, IMAGE, export  # noqa: E402

NAMES = list(mixtures.STYLES)


@pytest.mark.parametrize(
    ("name", "dynamo", "opset"),
    [(name, False, 14 + 3 * (i % 2)) for i, name in enumerate(NAMES)]
    + [
        ("Accumulate", False, 18),
        ("IndexAdd", True, 18),
        ("Repeated", True, 23),
        ("GatheredMatmul", True, 18),
    ],
)
def test_forms(name, dynamo, opset, tmp_path):
    k = 1 if name in ("One", "Largest") else 2
    divide = len(name) % 2 == 0
    model = mixtures.SparseViT(mixtures.STYLES[name](k, divide))
    graph = imported(export(model, tmp_path / "m.onnx", dynamo=dynamo, opset=opset))
    (found,) = (node for node in graph.nodes if isinstance(node, MixtureOfExperts))
    assert (len(found.experts), found.k, found.activation) == (mixtures.EXPERTS, k, "silu")
    assert found.renormalize == (divide and name not in ("Images", "Onto", "Largest"))
    assert found.experts[0].fc1_weight.shape == (mixtures.HIDDEN, DIM)


def test_bits_of_index_form(tmp_path):
    path = export(mixtures.SparseViT(mixtures.IndexAdd()), tmp_path / "m.onnx")
    rng = np.random.default_rng(1)
    calibration, test = ({"image": rng.standard_normal((n, *IMAGE)).astype(np.float32)} for n in (32, 4))
    assert compare(path, test, calibration).cosines["y0"] > 0.95


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("WithoutWeight", "without its routing weight"),
        ("FirstWeight", "from the place of another"),
        ("Overwritten", "or not added"),
        ("LastMissing", "lacks expert 3"),
        ("Twice", "or not added"),
        ("BestOnly", "looked at in part only"),
        ("OtherTokens", "a sum of different tokens"),
        ("Reversed", "put back in another order"),
        ("Load", "number of tokens"),
        ("AmongTokens", "attention among"),
        ("OtherBias", "bias of one expert"),
        ("OtherSecond", "meet another token"),
        ("OtherWeight", "for another"),
        ("Unweighted", "without routing weights"),
        ("OtherChoice", "something else than their routing weights"),
        ("DenseOther", "for another"),
        ("OnePlaceTwice", "behind an expert's"),
        ("OnePlaceMissing", "lacks place 2 of the choice"),
        ("MaskedOther", "of other tokens or experts"),
        ("MaskOfThree", "at the tokens of another"),
        ("ResultsOfOther", "chosen for another"),
    ],
)
def test_refused(name, reason, tmp_path):
    model = mixtures.SparseViT(getattr(mixtures, name)(3 if "OnePlace" in name else 2))
    report = import_onnx(export(model, tmp_path / "m.onnx"))
    assert report.graph is None
    assert reason in report.refused[0].reason, report.refused
