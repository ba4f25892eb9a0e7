import json

import pytest

from hwattn.boards import tools
from hwattn.cli import check
from hwattn.cli.main import main


def fake(name, required, version):
    return tools.Tool(name, "a verb", f"install {name}", required, lambda: version)


def test_this_machine_has_what_the_tests_need(capsys):
    assert main(["check", "--json"]) == 0
    found = {tool["name"]: tool for tool in json.loads(capsys.readouterr().out)["tools"]}
    assert found["Yosys"]["version"].startswith("0.")
    assert found["Verilator"]["version"].count(".") == 2
    assert found["make"]["version"][0].isdigit()


@pytest.mark.parametrize("ready", [False, True])
def test_missing_tools(monkeypatch, capsys, ready):
    made = (
        fake("verilator", True, "5" if ready else None),
        fake("g++", True, "12.2"),
        fake("torch", False, None),
    )
    monkeypatch.setattr(check, "TOOLS", made)
    assert main(["check"]) == (0 if ready else 1)
    text = capsys.readouterr().out
    assert ("install verilator" in text) is not ready
    assert ("Everything that make demo needs is here." in text) is ready
    assert "install torch" in text
    assert "install g++" not in text
    assert "not found (optional)" in text
    assert main(["check", "--json"]) == (0 if ready else 1)
    document = json.loads(capsys.readouterr().out)
    assert document["ready"] is ready
    assert [tool["found"] for tool in document["tools"]] == [ready, True, False]
    assert document["tools"][2]["install"] == "install torch"


def test_programs_packages_and_scripts_that_are_not_there(monkeypatch, tmp_path):
    assert tools._package("no-such-distribution")() is None
    assert tools._package("numpy", "no_such_module")() is None
    assert tools._package("numpy", "numpy", "no-such-script")() is None
    assert tools._package("numpy", "numpy")() is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tools._program("g++", "--version")() is None
    broken = tmp_path / "g++"
    broken.write_text("not a program")
    broken.chmod(0o755)
    assert tools._program("g++", "--version")() is None
    broken.write_text("#!/bin/sh\necho mute\n")
    assert tools._program("g++", "--version")() == "unknown"
