"""The JSON document of every verb against the schema that is checked in, each asked for in the cheapest way."""

import json
from importlib import resources

import jsonschema
import pytest

from hwattn.cli.main import VERBS, main

SCHEMAS = resources.files("hwattn.cli") / "schemas"

PATTERN = ["-i", "8", "12", "-w", "4", "4", "-s", "2", "2"]
GPU = ["--heads", "4", "--head-dim", "128", "--gpu", "b200"]

CALLS = [
    ("check", ["check"]),
    ("import", ["import", "digits"]),
    ("quantize", ["quantize", "digits", "-o", "{tmp}/digits.hwq"]),
    ("run", ["run", "digits", "--images", "2", "-o", "{tmp}/y.npz"]),
    ("eval", ["eval", "digits", "--images", "16"]),
    ("export", ["export", "digits", "-o", "{tmp}/digits.onnx"]),
    ("sim", ["sim", "digits", "--images", "1", "--task", "0", "--stepped", "0"]),
    ("perf", ["perf", "digits", "--task", "0"]),
    ("build", ["build", "--board", "ulx3s-85f", "--stage", "verilog", "--empty", "-o", "{tmp}/out"]),
    (
        "build",
        ["build", "--board", "kv260", "--stage", "verilog", "--empty", "--config", "tiny", "-o", "{tmp}/out"],
    ),
    ("boards", ["boards"]),
    ("hls", ["hls", "--images", "1", "-o", "{tmp}/out"]),
    ("gna#mask", ["gna", "mask", *PATTERN]),
    ("gna#windows", ["gna", "windows", *PATTERN]),
    ("gna#explain", ["gna", "explain", *PATTERN, "--query", "3", "5"]),
    ("gna#simulate", ["gna", "simulate", *PATTERN, "--q-tile", "4", "4", "--kv-tile", "4", "4"]),
    ("gna#project", ["gna", "project", "-i", "16", "32", "-w", "8", "16", *GPU]),
    ("gna#search", ["gna", "search", "-i", "16", "32", "-w", "8", "16", *GPU]),
    ("gna#model", ["gna", "model", "flux-4k"]),
    ("gna#reproduce", ["gna", "reproduce"]),
    ("gna#plot", ["gna", "plot", "visits", *PATTERN, "-o", "{tmp}/visits.svg"]),
]
"""Schema (and which of its definitions), and arguments; ``{tmp}`` is a folder of the test's own."""

REFUSED = [
    ["check", "--no-such-option"],
    ["no-such-verb"],
    ["quantize", "{tmp}/absent.onnx", "-o", "{tmp}/x.hwq"],
    ["eval", "{tmp}/absent.hwq"],
    ["eval", "no-such-workload"],
    ["run", "digits", "--input", "{tmp}/absent.npy", "-o", "{tmp}/y.npz"],
    ["import", "{tmp}/absent.onnx"],
    ["sim", "digits", "--task", "no-such-task"],
    ["sim", "digits", "--set", "lanes=3"],
    ["perf", "digits", "--memory", "latency=5"],
    ["build", "--board", "no-such-board", "-o", "{tmp}/out"],
    ["hls", "digits", "--compiler", "no-such-compiler", "--csim", "-o", "{tmp}/out"],
    ["gna", "mask", "-i", "8", "-w", "9"],
    ["gna", "model", "no-such-workload"],
]


def schema(name):
    """The schema of a verb, or with ``#`` one of its definitions."""
    verb, _, definition = name.partition("#")
    whole = json.loads((SCHEMAS / f"{verb}.json").read_text())
    return {**whole, "$ref": f"#/$defs/{definition}"} if definition else whole


def document(arguments, folder, capfd):
    """Exit code, the one JSON document on standard output, and standard error."""
    code = main([*(word.format(tmp=folder) for word in arguments), "--json"])
    written = capfd.readouterr()
    return code, json.loads(written.out), written.err


@pytest.mark.parametrize("name", [*VERBS, "error"])
def test_every_verb_has_a_valid_schema(name):
    jsonschema.Draft202012Validator.check_schema(schema(name))
    assert schema(name)["required"][0] == "schema_version"
    with pytest.raises(jsonschema.ValidationError, match="schema_version"):
        jsonschema.validate({}, schema(name))


@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=[" ".join(words[:2]) for _, words in CALLS])
def test_documents(name, arguments, tmp_path, capfd):
    code, written, errors = document(arguments, tmp_path, capfd)
    assert code == 0, errors
    jsonschema.validate(written, schema(name))


@pytest.mark.parametrize("arguments", REFUSED, ids=[" ".join(words[:2]) for words in REFUSED])
def test_refusals(arguments, tmp_path, capfd):
    code, written, errors = document(arguments, tmp_path, capfd)
    assert code == 2
    assert len(errors.splitlines()) == 1
    jsonschema.validate(written, schema("error"))
    assert not list(tmp_path.iterdir())
