"""Layers that read 16 bits: named, or picked within a budget; less noise, and the same integers in the compiled program."""

from __future__ import annotations

import re

import numpy as np
import pytest
from test_quantizer import make_graph, make_images

from hwattn.compiler import compile_model
from hwattn.quant.precision import in_sixteen, layers, read_precision
from hwattn.quant.quantizer import Quantization, quantize
from hwattn.quant.reference import evaluate, outputs
from hwattn.quant.settings import Settings
from hwattn.quant.simulate import simulate
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import load_preset
from hwattn.spec.errors import RefusedError
from hwattn.spec.hwq import load_model, save_model

GRAPH = make_graph(tasks=1)
TEST = make_images(24, seed=3)
ALL = (("*", 16),)


def made_with(precision=(), budget=0.0) -> Quantization:
    return quantize(GRAPH, make_images(), "m", settings=Settings(precision=precision, budget=budget))


def noise(made: Quantization) -> float:
    """Noise over signal of the outputs of the compiled program, dB, which must be those of `simulate` but for a step here and there."""
    executor = Executor(compile_model(made.model, load_preset("digits").replace(act_words=4096)))
    found = executor.run(TEST, 0).outputs
    tensors = simulate(made.model, TEST, 0).tensors
    exact = outputs(GRAPH, evaluate(GRAPH, TEST, 0), 0)
    total = power = 0.0
    for output in made.model.outputs:
        expected = tensors[output.tensor].reshape(found[output.name].shape)
        assert np.square(found[output.name] - expected).mean() < 1e-4 * np.square(expected).mean()
        total += float(np.square(found[output.name] - exact[output.name]).sum())
        power += float(np.square(exact[output.name]).sum())
    return 10 * np.log10(total / power)


def test_all_layers_in_sixteen_bits(tmp_path) -> None:
    eight, sixteen = made_with(), made_with(ALL)
    assert in_sixteen(eight.model) == ()
    assert set(in_sixteen(sixteen.model)) == {*layers(GRAPH), "attend"}
    assert sixteen.model.sixteen_bits() == {"attend", "fc1"}
    assert noise(sixteen) < noise(eight) - 2
    save_model(sixteen.model, tmp_path / "m.hwq")
    assert in_sixteen(load_model(tmp_path / "m.hwq")) == in_sixteen(sixteen.model)


@pytest.mark.parametrize("name", ["[qkv]", "proj", "fc1", "fc2", "mixture.fc1", "mixture.fc2", "attend"])
def test_one_layer_in_sixteen_bits(name) -> None:
    made = made_with(((name, 16),))
    assert in_sixteen(made.model) == (tuple("qkv") if name == "[qkv]" else (name,))
    noise(made)


def test_a_budget_is_spent_where_it_removes_most_noise() -> None:
    levels = []
    for budget in (0.0, 10.0, 100.0):
        made = made_with(budget=budget)
        spent = sum(choice.macs for choice in made.choices)
        assert spent <= budget / 100 and bool(made.choices) == (budget > 0)
        assert sum(choice.share for choice in made.choices) < 1 + 1e-9
        gains = [choice.share / choice.macs for choice in made.choices]
        assert gains == sorted(gains, reverse=True)
        assert {name for choice in made.choices for name in choice.layers} == set(in_sixteen(made.model))
        levels.append(noise(made))
    assert levels[2] < levels[0] - 2 and levels[1] < levels[0]
    # what the user says comes first
    made = made_with((("fc2", 8), ("attend", 16)), budget=100.0)
    assert "fc2" not in in_sixteen(made.model) and "attend" in in_sixteen(made.model)
    assert all({"fc2", "attend"}.isdisjoint(choice.layers) for choice in made.choices)


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ((("fc3", 16),), "no layer fc3; expected a linear layer .*: q, k, v, .*mixture.fc1.*attend"),
        ((("q", 16), ("k", 8), ("v", 16)), "q: 16 and k: 8 and v: 16, which read the same tensor norm1"),
        ((("embed", 16),), "no layer embed"),
    ],
)
def test_refusals(precision, message) -> None:
    with pytest.raises(RefusedError) as error:
        made_with(precision)
    assert re.search(message, str(error.value)), error.value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 12", "holds .*expected a mapping from layers to 8 or 16"),
        ("- a", "holds"),
        ("a: {b", "is not YAML"),
        ("a: true", "holds"),
        (None, "cannot be read"),
    ],
)
def test_files_that_are_none(text, message, tmp_path) -> None:
    path = tmp_path / "p.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RefusedError, match=message):
        read_precision(path)


def test_a_file(tmp_path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("fc2: 16 # reads the GELU\n'*.fc1': 8\n")
    assert read_precision(path) == {"fc2": 16, "*.fc1": 8}
    with pytest.raises(RefusedError, match="budget of 101"):
        Settings(budget=101)
