"""A project: what lies in it, and its C simulation of the bundled model under clang and under sanitizers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from random_models import vit

from hwattn.cli.hls_vectors import attention_cases, output_vectors
from hwattn.cli.models import resolve_model
from hwattn.compiler import compile_model
from hwattn.hls.compilation import ap_types_folder, simulate_project
from hwattn.hls.csim import CMachine, memory_blocks
from hwattn.hls.project import FILES, attention_kernel, write_project
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import load_preset
from hwattn.spec.errors import FailedError
from hwattn.spec.isa import Copy
from hwattn.spec.program import Program
from hwattn.spec.registers import ErrorCause

IMAGES = 2


@pytest.fixture(scope="module")
def workload():
    resolved = resolve_model("digits")
    program = compile_model(resolved.model, load_preset("digits"))
    return program, resolved.workload.test_set()[resolved.model.image][:IMAGES]


@pytest.fixture(scope="module")
def wide_program():
    """A model whose layers read 16 bits, and an image."""
    model = vit(dim=24, hidden=40, experts=4, expert_hidden=20, blocks="dm", bits=16, p_bits=16)
    config = load_preset("digits")
    images = np.random.default_rng(0).normal(0, 0.8, (1, *model.image_shape)).astype(np.float32)
    return compile_model(model, config), images


@pytest.fixture(scope="module")
def plain_program():
    """A model without mixtures, for a machine without a router, and an image."""
    model = vit(dim=24, hidden=40, blocks="dd")
    images = np.random.default_rng(0).normal(0, 0.8, (1, *model.image_shape)).astype(np.float32)
    return compile_model(model, load_preset("digits").replace(experts=0)), images


@pytest.fixture(scope="module")
def project(workload, tmp_path_factory):
    program, images = workload
    folder = tmp_path_factory.mktemp("project")
    cases = attention_cases(attention_kernel(program), program.config.rows)
    tops = write_project(folder, program, images, output_vectors(program, images), cases)
    assert tops == ["machine", "attention"]
    return folder


@pytest.mark.parametrize("which", ["workload", "wide_program", "plain_program"])
def test_the_machine_after_every_instruction(which, request):
    """The whole activation memory equals the model's after each instruction, for both tasks."""
    program, images = request.getfixturevalue(which)
    machine, executor = CMachine(program.config), Executor(program)
    machine.load(program)
    for task in range(len(program.entries)):
        state = executor.start(images[:1])
        machine.act[...] = state.words[0]
        for index in executor.steps(state, task):
            assert machine.execute(program.instructions[index]) == ErrorCause.NONE
            assert np.array_equal(machine.act, state.words[0]), index


def test_a_program_without_halt(workload):
    program, _ = workload
    machine = CMachine(program.config)
    machine.load(Program(**{**vars(program), "instructions": (Copy(),) * program.config.program_words}))
    assert machine.run(0) == ErrorCause.END_OF_PROGRAM


def test_memories_are_what_the_host_sends(project, workload):
    program, _ = workload
    for region, units in memory_blocks(program).items():
        if region in FILES:
            assert np.array_equal(np.fromfile(project / "data" / FILES[region], "<u4"), units)


def test_scripts_name_what_is_there(project):
    script = (project / "run_hls.tcl").read_text()
    for folder in re.findall(r"\$here/(\w+)", script):
        assert (project / folder).is_dir(), folder
    for command in (
        "set_top",
        "csim_design",
        "csynth_design",
        "cosim_design",
        "export_design",
        "open_solution",
    ):
        assert command in script
    for top in ("machine", "attention"):
        assert f"int hwattn_{top}(" in (project / "src" / f"{top}.cpp").read_text()


def test_csim_under_clang(project, monkeypatch):
    if shutil.which("clang++") is None:
        pytest.skip("clang++ is not on the PATH")
    monkeypatch.setenv("CXXFLAGS", "-O1")  # compiles in less time
    said = simulate_project(project, "clang++").splitlines()
    assert [line.split(",")[0] for line in said] == ["attention: 10 cases", "machine: 2 images of 2 tasks"]
    assert all(", 0 different from the NumPy model" in line for line in said)
    assert "warning" not in (project / "csim.log").read_text()


def test_sanitizers(project):
    """Address and undefined-behaviour sanitizers stop at the first error."""
    done = subprocess.run(
        ["make", "sanitize", f"AP_TYPES={ap_types_folder()}"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "machine: 2 images of 2 tasks, 0 different" in done.stdout
    assert "attention: 2 cases, 0 different" in done.stdout


def test_a_wrong_bit_is_found(project):
    """One wrong bit in a golden vector fails the simulation, and the message says where."""
    executable = next((project / "build").glob("*machine"), None)
    if executable is None:
        pytest.skip("no compiled machine of an earlier test")
    data = project.parent / "wrong" / "data"
    shutil.copytree(project / "data", data)
    golden = bytearray((data / "golden.bin").read_bytes())
    golden[5] ^= 1
    (data / "golden.bin").write_bytes(golden)
    done = subprocess.run([executable, data], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "task 0, image 0: DIFFERENT (error cause 0)" in done.stdout
    assert "2 images of 2 tasks, 1 different" in done.stdout


def test_code_that_does_not_compile(tmp_path):
    (tmp_path / "Makefile").write_text("csim:\n\t@echo 'x.cpp:1: error: no such thing' >&2; exit 1\n")
    with pytest.raises(FailedError, match=r"x.cpp:1: error: no such thing.*read csim.log"):
        simulate_project(tmp_path)
    assert "no such thing" in (Path(tmp_path) / "csim.log").read_text()
