import errno
import importlib
import json
import os
import subprocess
import sys
import types

import pytest

from hwattn.cli import main as cli
from hwattn.cli.main import VERBS, main
from hwattn.spec.errors import FailedError, RefusedError


@pytest.fixture
def verb(monkeypatch):
    """Put a verb of the test's own in the place of `check`."""

    def install(run, configure=lambda parser: None):
        module = types.SimpleNamespace(HELP="A verb of the tests.", configure=configure, run=run)
        monkeypatch.setattr(cli, "_load", lambda name: module)

    return install


def test_help_lists_every_verb_and_imports_none():
    program = "import sys; from hwattn.cli.main import main; main(['--help']); print(sorted(sys.modules))"
    text = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    for name in VERBS:
        assert f"    {name} " in text
    for heavy in ("amaranth", "onnx", "onnxruntime", "torch", "cocotb"):
        assert f"'{heavy}'" not in text


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_describes_itself(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--json" in text
    module = importlib.import_module(f"hwattn.cli.{VERBS[name].module}")
    assert module.HELP.split()[0] in text


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("hwattn ")


def test_exit_code_and_arguments_of_a_verb(verb, capsys):
    seen = []

    def run(args, out):
        seen.append(args.number)
        out.print("text")
        out.result({"number": args.number})
        return 1

    verb(run, lambda parser: parser.add_argument("number", type=int))
    assert main(["check", "7"]) == 1
    assert capsys.readouterr().out == "text\n"
    assert main(["check", "--json", "8"]) == 1
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "number": 8}
    assert seen == [7, 8]


def test_json_is_understood_before_after_and_inside_a_verb(verb, capsys):
    def configure(parser):
        parser.add_subparsers(required=True).add_parser("below")

    verb(lambda args, out: out.result({}) or 0, configure)
    for words in (["--json", "check", "below"], ["check", "--json", "below"], ["check", "below", "--json"]):
        assert main(words) == 0
        assert json.loads(capsys.readouterr().out) == {"schema_version": 1}


@pytest.mark.parametrize(
    ("raised", "code", "found"),
    [
        (RefusedError("a", "b", "c"), 2, "a"),
        (FailedError("a", "b", "c"), 1, "a"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.npy"), 2, "x.npy: No such file"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 2, "No space left"),
        (MemoryError(), 2, "memory ran out"),
    ],
)
def test_errors_are_one_sentence_and_a_code(verb, capsys, raised, code, found):
    def run(args, out):
        raise raised

    verb(run)
    assert main(["check"]) == code
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith(f"hwattn check: {found}")
    assert len(written.err.splitlines()) == 1
    assert main(["check", "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["schema_version"] == 1
    assert document["error"]["found"].startswith(found)
    assert set(document["error"]) == {"found", "expected", "remedy"}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], "required: VERB"),
        (["chek"], "no verb chek; expected one of check, import"),
        (["check", "--colour"], "unrecognized arguments: --colour"),
        (["check", "extra"], "unrecognized arguments: extra"),
        (["--jsn"], "required: VERB"),
    ],
)
def test_wrong_arguments(words, found, capsys):
    assert main(words) == 2
    written = capsys.readouterr()
    assert found in written.err
    assert "--help" in written.err
    assert len(written.err.splitlines()) == 1
    assert main([*words, "--json"]) == 2
    assert found.partition(";")[0] in json.loads(capsys.readouterr().out)["error"]["found"]


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setitem(VERBS, "check", cli.Verb("of_no_module", "help"))
    assert main(["check"]) == 2
    assert "hwattn.cli.of_no_module is not installed" in capsys.readouterr().err


def test_interrupt(verb, capsys):
    def run(args, out):
        raise KeyboardInterrupt

    verb(run)
    assert main(["check"]) == 130
    assert capsys.readouterr().err == "hwattn: interrupted\n"


@pytest.mark.parametrize(
    ("verb", "first_words"), [("check", b""), ("no-such-verb", b"hwattn: no verb no-such-verb")]
)
def test_a_reader_that_goes_away_is_no_error(verb, first_words):
    writer = subprocess.Popen(
        [sys.executable, "-m", "hwattn.cli.main", verb, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    writer.stdout.close()
    written = writer.stderr.read()
    assert written.startswith(first_words)
    assert written.count(b"\n") == bool(first_words)
    assert writer.wait() == cli.BROKEN_PIPE
