"""``hwattn boards``: every board with what it has and needs."""

from __future__ import annotations

import json

import pytest

from hwattn.boards.board import boards
from hwattn.cli.main import main


def test_text_names_every_board(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["boards"]) == 0
    text = capsys.readouterr().out
    for board in boards().values():
        for word in (board.name, board.title, board.device, board.memory, board.needs, board.program_with):
            assert word in text
    assert "83,640" in text
    assert "208 x 18 kbit" in text


def test_document_holds_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["boards", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["boards"]
    assert [entry["name"] for entry in listed] == list(boards())
    (entry,) = [entry for entry in listed if entry["name"] == "ulx3s-85f"]
    assert entry["resources"] == {"lut": 83640, "ff": 83640, "dsp": 156, "ram": 208}
    assert entry["clock_mhz"] == 25.0
    assert entry["preset"] == "digits"
    assert "platform" not in entry
