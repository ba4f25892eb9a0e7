import io
import json
from pathlib import Path

import numpy as np
import pytest

from hwattn.cli import output
from hwattn.cli.output import Output, plain, table
from hwattn.spec.errors import RefusedError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_text_is_for_people_and_the_document_for_programs(capsys):
    for json_asked in (False, True):
        out = Output(json=json_asked)
        out.print("one line [not markup] :+1: 42")
        out.result({"cycles": 3})
        written = capsys.readouterr().out
        expected = '{"schema_version": 1, "cycles": 3}\n' if json_asked else "one line [not markup] :+1: 42\n"
        assert written == expected


def test_piped_output_has_no_escape_codes_even_when_colours_are_forced(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    Output().print(
        table(["layer", "SQNR"], [["blocks.0", 38.5], ["blocks.1", None]], right=["SQNR"], title="t")
    )
    written = capsys.readouterr().out
    assert "\x1b" not in written
    assert "38.5" in written
    assert "None" not in written


def test_a_terminal_gets_colours_and_a_progress_bar(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setattr("sys.stderr", Terminal())
    out = Output()
    out.print(table(["a"], [["b"]]))
    assert "\x1b[" in out._stdout.getvalue()
    with out.progress(3, "running") as advance:
        advance()
        advance(2)
    assert "3/3" in out._stderr.getvalue()


def test_progress_writes_nothing_when_piped(capsys):
    with Output().progress(3, "running") as advance:
        advance()
        advance(2)
    assert capsys.readouterr() == ("", "")


def test_long_text_and_long_cells_lose_nothing_when_piped(capsys):
    Output().print("word " * 60)
    assert capsys.readouterr().out == "word " * 60 + "\n"
    Output().print(table(["x"], [["y" * 250]]))
    written = capsys.readouterr().out
    assert written.count("y") == 250
    assert max(map(len, written.splitlines())) <= output.PIPED_WIDTH


def test_plain_values():
    document = {
        "scalar": np.int64(3),
        "float": np.float32(0.5),
        "flag": np.bool_(True),
        "array": np.arange(4, dtype=np.int8).reshape(2, 2),
        "infinite": float("inf"),
        "nested": ({"nan": np.float64("nan")}, [np.array([1.0, np.inf])]),
        "path": Path("a/b"),
        7: None,
    }
    assert plain(document) == {
        "scalar": 3,
        "float": 0.5,
        "flag": True,
        "array": [[0, 1], [2, 3]],
        "infinite": None,
        "nested": [{"nan": None}, [[1.0, None]]],
        "path": "a/b",
        "7": None,
    }
    json.dumps(plain(document), allow_nan=False)


def test_one_document_only(capsys):
    out = Output(json=True)
    out.result({})
    with pytest.raises(RuntimeError, match="one JSON document"):
        out.result({})
    out.error(RefusedError("a", "b", "c"))  # too late for a document: standard error only
    written = capsys.readouterr()
    assert len(written.out.splitlines()) == 1
    assert written.err == "hwattn: a; expected b; c\n"


def test_warnings_go_to_standard_error(capsys):
    Output(json=True).warn("half of the images")
    assert capsys.readouterr() == ("", "warning: half of the images\n")
