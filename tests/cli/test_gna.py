"""``hwattn gna``: every subcommand as text, JSON and CSV, and its refusals."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hwattn.cli.main import main
from hwattn.sim.gna import Pattern
from hwattn.sim.gna.reproduce import projected_end_to_end, reproduce
from hwattn.sim.gna.sweeps import run_sweep
from hwattn.sim.gna.workloads import workload_names

HUNYUAN = "--layout 30 48 80 --window-size 18 24 24"
TILES = "--q-tile-shape 4 8 8 --kv-tile-shape 2 8 8"


def run(line: str, capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    assert main(["gna", *line.split()]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out if code == 0 else captured.err


def run_json(line: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run(line + " --json", capsys))
    assert document["schema_version"] == 1
    return document


def test_mask(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = run("mask -i 6 -w 3 -s 2 -c", capsys)
    assert text.splitlines()[:6] == ["#.....", "##....", ".##...", ".###..", "...##.", "...###"]
    file = tmp_path / "mask.npy"
    document = run_json(f"mask -i 4 4 -w 2 --additional-kv 3 -o {file}", capsys)
    mask = Pattern((4, 4), 2).mask(3)
    np.testing.assert_array_equal(np.load(file), mask)
    np.testing.assert_array_equal(np.array(document["mask"], dtype=bool), mask)
    assert document["unmasked_pairs"] == mask.sum()


def test_windows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "windows.csv"
    document = run_json(f"windows -i 12 -w 5 -s 4 --csv {file}", capsys)
    assert document["windows"] == [Pattern(12, 5, 4).windows(0).tolist()]
    rows = list(csv.DictReader(file.open()))
    assert len(rows) == 12 and rows[4] == {
        "axis": "0", "query": "4", "start": "4", "stop": "9", "step": "1", "keys": "5"
    }  # fmt: skip
    assert "0-3  0 to 4  (5 keys)" in run("windows -i 12 -w 5 -s 4", capsys)


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    text = run("explain -i 11 12 -w 4 5 -s 2 4 --dilation 2 1 --query 10 9 --key 3 9", capsys)
    assert "query (10, 9) sees 20 of 132 keys" in text
    assert "positions 8 to 11 share the window of their centre query 10" in text
    assert "shifted from 8 to 7 to stay inside the axis" in text
    assert "axis 0: key 3 is in dilation group 1, the query in 0" in text
    document = run_json("explain -i 8 -w 4 --query 0 --key 3", capsys)
    assert document["seen"] and document["key_count"] == 4 and document["axes"][0]["keys"] == [0, 1, 2, 3]


def test_simulate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    document = run_json(f"simulate {HUNYUAN} {TILES} --visits", capsys)
    assert document["simulated"] == pytest.approx(3.27, abs=0.01)
    assert document["max_visited"] == 275 and len(document["visited_kv_tiles"]) == 8 * 6 * 10
    document = run_json(f"simulate {HUNYUAN} --stride 16 8 8 {TILES}", capsys)
    assert document["block_sparse"] and document["kernel_skips_mask"] and document["reasons"] == []
    assert "axis 2: window 24 is not a multiple of KV tile 16" in run(
        "simulate -i 48 48 48 -w 24 -s 8 8 16 --q-tile 8 4 16 --kv-tile 4 8 16", capsys
    )
    file = tmp_path / "tiles.csv"
    assert len(run_json(f"simulate {HUNYUAN} --all-tiles --csv {file}", capsys)["rows"]) == 7
    assert len(list(csv.DictReader(file.open()))) == 7
    flat = run_json("simulate -i 80 80 -w 16 --tiling flat --q-tile 256 --kv-tile 128", capsys)
    assert flat["tiling"] == "flat"
    backward = run_json("simulate -i 64 64 -w 16 --q-tile 16 8 --kv-tile 16 8 --backward --visits", capsys)
    assert len(backward["visited_q_tiles"]) == 4 * 8


def test_project(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = f"project {HUNYUAN} -s 16 8 8 {TILES} --gpu b200 -n 24 -d 128"
    document = run_json(f"{line} --attention-share 0.607 --steps 50 --dense-steps 15 --gpus 4", capsys)
    names = ("kernel_ms", "permute_ms", "total_ms", "low_ms", "high_ms", "dense_ms", "speedup")
    assert all(document[name] > 0 for name in names)
    assert 1.5 < document["end_to_end_speedup"] < 1.63
    assert document["parallel"]["gpus"] == 4 and document["parallel"]["halo_ms"] == 0
    text = run(f"{line} --gpus 2 --parallel sequence --csv {tmp_path / 'a.csv'}", capsys)
    assert "needs no mask" in text and "basis         calibrated" in text and "2 GPUs by sequence" in text
    assert next(csv.DictReader((tmp_path / "a.csv").open()))["q_tile"] == "4x8x8"


def test_own_gpu(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    gpu = tmp_path / "gpu.yaml"
    gpu.write_text("{name: Mine, cc: 86, sms: 82, fp16_tflops: 71, hbm_gbs: 936, boost_mhz: 1695}\n")
    document = run_json(f"project -i 64 64 -w 16 --gpu {gpu} -n 8 -d 64", capsys)
    assert document["basis"] == "roofline" and document["backend"] == "cutlass-fna"


def test_search(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "search.csv"
    document = run_json(f"search {HUNYUAN} -n 24 -d 128 --gpu b200 --csv {file}", capsys)
    assert document["best"]["stride"] == [16, 8, 8]
    assert len(list(csv.DictReader(file.open()))) == len(document["candidates"])
    assert "18x24x24" in run(f"search {HUNYUAN} -n 24 --gpu h100 --all-backends --top 3", capsys)
    assert "combinations" in run("search -i 64 64 --sparsity 0.9 --gpu a100", capsys)


@pytest.mark.parametrize("name", workload_names())
def test_model(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = run_json(f"model {name} --gpu h100", capsys)
    assert document["attention_ms"] > 0 and document["dense_ms"] > 0
    assert (document["end_to_end_speedup"] is None) == (document["attention_share"] is None)
    assert document["layers"]
    if document["attention_share"]:
        hoisted = run_json(f"model {name} --gpu h100 --hoist-permute", capsys)
        assert hoisted["attention_ms"] <= document["attention_ms"]


def test_cosmos_predict2_is_block_sparse_as_its_authors_say(capsys: pytest.CaptureFixture[str]) -> None:
    for layer in run_json("model cosmos-predict2-2b --gpu b200", capsys)["layers"]:
        assert not layer["masked"]


def test_own_workload(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: mine\nlayout: [32, 32]\nheads: 8\nhead_dim: 64\nsteps: 10\nattention_share: 0.5\n"
        "layers:\n  - {name: local, count: 11, window: 16, stride: 8}\n  - {name: global, window: null}\n"
    )
    document = run_json(f"model {file} --gpu h100", capsys)
    assert [layer["count"] for layer in document["layers"]] == [11, 1]
    assert document["layers"][1]["speedup"] == 1.0
    assert "mine on h100" in run(f"model {file} --gpu h100", capsys)


def test_reproduce(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    document = run_json(f"reproduce --projected --csv {file}", capsys)
    assert document["figures"] == len(document["rows"]) == 48
    assert document["flopwise_reproduced"] == 48 and document["simulated_reproduced"] == 45
    assert sum(bool(row["note"]) for row in document["rows"]) == 3
    assert max(abs(row["projected_error"]) for row in document["rows"]) < 0.08
    assert len(list(csv.DictReader(file.open()))) == 48
    assert "48 of 48 FLOP-wise, 45 of 48 simulated" in run("reproduce", capsys)


@pytest.mark.parametrize(
    ("kind", "ending"), [("stride", "png"), ("visits", "svg"), ("pareto", "svg"), ("roofline", "png")]
)
def test_plot(kind: str, ending: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / f"plot.{ending}"
    assert run_json(f"plot {kind} -i 64 64 -w 32 -s 4 -n 2 --axis 1 -o {file}", capsys)["file"] == str(file)
    head = file.read_bytes()[:200]
    assert head.startswith(b"\x89PNG") if ending == "png" else b"<?xml" in head
    assert list(tmp_path.iterdir()) == [file]


def test_sweep(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "defaults: {layout: [64, 64], window: 32, heads: 8, head_dim: 128}\n"
        "grid: {gpu: [b200, h100], stride: [1, 16]}\n"
        "runs:\n  - {name: a}\n  - {name: b, batch: 2}\n"
    )
    document = run_json(f"sweep {file} --csv {tmp_path / 'sweep.csv'}", capsys)
    assert document["runs"] == 8 and all(row["total_ms"] > 0 for row in document["rows"])
    assert len(list(csv.DictReader((tmp_path / "sweep.csv").open()))) == 8
    file.write_text("runs: [{layout: [8], window: 99, heads: 1, head_dim: 64}]\n")
    assert "spans 99 tokens of 8" in run(f"sweep {file}", capsys, code=2)
    assert "spans 99" in run_json(f"sweep {file} --keep-going", capsys)["rows"][0]["error"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mask -i 8 -w 9", "axis 0: window 9 with dilation 1 spans 9 tokens of 8"),
        ("mask -i 8 8 -w 4 4 4", "window (4, 4, 4) for a layout of 2 axes"),
        ("mask -i 300 300 -w 4", "at most 65536 tokens"),
        ("mask -i 8 -w 4 -o mask.txt", "a name that ends in .npy"),
        ("explain -i 8 -w 4 --query 9", "query coordinate 9 on axis 0; expected 0 to 7"),
        ("explain -i 8 -w 4 --query 1 --key 8", "key (8,)"),
        ("windows -i 8 -w 4 -c maybe", "'maybe' is not true or false"),
        ("simulate -i 8 -w 4 --q-tile 0", "q_tile (0,)"),
        ("project -i 8 8 -w 4 --gpu gtx", "GPU 'gtx'; expected one of b200"),
        ("project -i 8 8 -w 4 --gpu nothere.yaml", "nothere.yaml cannot be read"),
        ("project -i 8 8 -w 4 --gpu h100 --q-tile 4 4", "a pair that the backend has"),
        ("project -i 8 8 -w 4 --gpus 0", "0 GPUs; expected at least 1"),
        ("search -i 8 8", "both or neither of window and sparsity"),
        ("model nothing", "workload 'nothing'; expected one of cosmos-7b"),
        ("plot stride -i 64 -w 32 -o plot.gif", "a name that ends in .png or .svg"),
        ("plot stride -i 64 -w 32 --axis 1 -o plot.png", "axis 1 of a layout of 1 axes"),
        ("project -i 8 8 -w 4 --csv /nowhere/a.csv", "No such file or directory"),
        ("", "arguments that hwattn gna knows"),
    ],
)
def test_refusals(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in run(line, capsys, code=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "is not YAML"),
        ("layers: 3", "a workload without layers"),
        ("{layers: [{window: 4}]}", "layer 0: no layout"),
        ("{layers: [{layout: [8], window: 4, heads: x, head_dim: 64}]}", "layer 0: heads 'x'"),
        ("{colour: 1, layers: []}", "field 'colour'"),
        (
            "{layout: [8], heads: 1, head_dim: 64, steps: 2, dense_steps: 3, layers: [{window: 4}]}",
            "3 dense steps of 2",
        ),
        ("just text", "a workload that is not a mapping"),
    ],
)
def test_workload_refusals(
    text: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    assert message in run(f"model {file}", capsys, code=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{run: []}", "sweep: field 'run'"),
        ("{runs: 3}", "runs that are not a list of mappings"),
        ("{grid: {stride: 3}, runs: [{}]}", "run 0: grid over stride is 3"),
        ("{runs: [{layout: [8]}]}", "run 0: no window"),
        ("text", "a sweep that is not a mapping"),
    ],
)
def test_sweep_refusals(text: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    assert message in run(f"sweep {file}", capsys, code=2)


DOCS = (Path(__file__).parents[2] / "docs" / "gna.md").read_text(encoding="utf-8")


def test_the_documentation_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for title, text in re.findall(r"```yaml title=(\S+)\n(.*?)```", DOCS, re.DOTALL):
        (tmp_path / title).write_text(text)
    commands = [
        line
        for block in re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL)
        for line in block.splitlines()
        if line.startswith("hwattn gna ")
    ]
    assert len(commands) >= 18
    for command in commands:
        assert run(command.removeprefix("hwattn gna "), capsys), command
    for block in re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL):
        exec(compile(block, "docs/gna.md", "exec"), {})


def _shape(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def test_the_documented_predictions_are_what_the_model_predicts() -> None:
    match = re.search(r"```yaml title=predictions.yaml\n(.*?)```", DOCS, re.DOTALL)
    assert match is not None
    rows = run_sweep(yaml.safe_load(match.group(1)))
    assert len(rows) == 16
    for row in rows:
        line = (
            f"| {row['gpu'].upper()} | {_shape(row['q_tile'])} / {_shape(row['kv_tile'])} | {_shape(row['stride'])} | "
            f"{row['kernel_ms']:.2f} | {row['kernel_low_ms']:.2f} to {row['kernel_high_ms']:.2f} | "
            f"{row['permute_ms']:.2f} | {row['total_ms']:.2f} | {row['dense_ms']:.1f} | {row['speedup']:.2f} |"
        )
        assert line in DOCS


def test_the_documented_errors_are_what_the_model_has() -> None:
    errors: dict[str, list[float]] = {}
    inside = 0
    for row in reproduce():
        point, low, high = projected_end_to_end(row)
        measured = row.published_measured
        errors.setdefault(row.table, []).append(point / measured - 1)
        inside += low <= measured + 0.005 and measured - 0.005 <= high
    for table, values in errors.items():
        mean, spread = sum(values) / len(values), sum(map(abs, values)) / len(values)
        largest = max(values, key=abs)
        assert f"| {table} | {len(values)} | {mean:+.1%} | {spread:.1%} | {largest:+.1%} |" in DOCS
    assert f"in {inside} of 48 rows" in DOCS
