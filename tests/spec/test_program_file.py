"""The .hwp file: exact round trip, and one clear sentence for every bad file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from hwattn.spec import program_file
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import RefusedError
from hwattn.spec.isa import Halt, Instruction, Load, Matmul, Norm, Softmax
from hwattn.spec.program import ImagePort, OutputPort, Program
from hwattn.spec.program_file import FORMAT, VERSION, encode_instructions, load_program, save_program


def make_program(seed: int = 0) -> Program:
    rng = np.random.default_rng(seed)
    config = AcceleratorConfig(rows=3, lanes=4)
    instructions: tuple[Instruction, ...] = (
        Load(slot=3, base=(1 << 26) - 1, push=2),
        Matmul(pop=1, n0=65535, base=5),
        Softmax(mask_low=-65536, mask_high=65535, multiplier=65535),
        Norm(epsilon=(1 << 52) - 1, dim=48),
        Halt(),
        Halt(),
    )
    return Program(
        name="modèle",
        config=config,
        instructions=instructions,
        labels=("a", "b", "c", "d", "", ""),
        entries=(0, 5),
        weights=rng.integers(-128, 128, (7, 4)).astype(np.int8),
        params=rng.integers(-(2**31), 2**31, (5, 3)),
        norm_params=rng.integers(-(2**47), 2**47, 9),
        activation="gelu",
        image=ImagePort("image", 64, (1, 8, 8), 0.1),
        outputs=(OutputPort("digit", 0, 3, 4, 1, 10, 1 / 3, (10,)),),
        macs=(12345, 678),
    )


def same(left: Program, right: Program) -> bool:
    for field in dataclasses.fields(Program):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if isinstance(a, np.ndarray):
            if a.dtype != b.dtype or not np.array_equal(a, b):
                return False
        elif a != b:
            return False
    return True


@pytest.mark.parametrize("seed", range(3))
def test_round_trip(tmp_path: Path, seed: int) -> None:
    program = make_program(seed)
    save_program(program, tmp_path / "p.hwp")
    loaded = load_program(tmp_path / "p.hwp")
    assert same(loaded, program) and loaded.hash == program.hash
    save_program(loaded, tmp_path / "q.hwp")
    assert (tmp_path / "p.hwp").read_bytes() == (tmp_path / "q.hwp").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.hwp", "q.hwp"]


def test_hash_depends_on_every_memory() -> None:
    program = make_program()
    changed = [
        dataclasses.replace(program, instructions=program.instructions[1:]),
        dataclasses.replace(program, weights=program.weights + np.int8(1)),
        dataclasses.replace(program, params=program.params + 1),
        dataclasses.replace(program, norm_params=program.norm_params + 1),
        dataclasses.replace(program, activation="relu"),
    ]
    assert len({program.hash, *(one.hash for one in changed)}) == 6


def test_instructions_are_little_endian_words() -> None:
    encoded = encode_instructions((Load(pop=1), Halt()))
    assert encoded.shape == (2, 32) and encoded[0, 0] == 0x11 and not encoded[1].any()


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"no file .*p\.hwp; expected a compiled program"):
        load_program(tmp_path / "p.hwp")
    with pytest.raises(RefusedError, match="cannot be written"):
        save_program(make_program(), tmp_path / "nowhere" / "p.hwp")


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_truncated_file(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "p.hwp"
    save_program(make_program(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RefusedError, match=r"is no .hwp file .*compile the model again"):
        load_program(path)


def rewrite(path: Path, changes: dict[str, Any], sealed: bool = True, **tensor_changes: Any) -> None:
    """Save the program with some of its contents changed, with the checksum that fits them or the old one."""
    save_program(make_program(), path)
    with safe_open(str(path), framework="numpy") as file:
        header = json.loads(file.metadata()[FORMAT])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    tensors.update(tensor_changes)
    header["version"] = changes.pop("version", header["version"])
    header["program"].update(changes)
    if sealed:
        header["sha256"] = program_file._digest(header["program"], tensors)
    save_file(tensors, path, {FORMAT: json.dumps(header)})


def test_a_changed_byte(tmp_path: Path) -> None:
    weights = make_program().weights.copy()
    weights[3, 1] ^= 1
    rewrite(tmp_path / "p.hwp", {}, sealed=False, weights=weights)
    with pytest.raises(RefusedError, match="is damaged .its contents do not match its checksum"):
        load_program(tmp_path / "p.hwp")


def test_other_version_and_other_kind(tmp_path: Path) -> None:
    path = tmp_path / "p.hwp"
    rewrite(path, {"version": VERSION + 1})
    with pytest.raises(RefusedError, match=rf"version {VERSION + 1} of the .hwp layout; expected version"):
        load_program(path)
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(RefusedError, match="holds no program"):
        load_program(path)


@pytest.mark.parametrize(
    ("header", "tensors", "message"),
    [
        ({"labels": ["a"]}, {}, "1 labels for 6 instructions"),
        ({"entries": [0, 6]}, {}, r"entries \(0, 6\) outside 6 instructions"),
        ({"image": {"name": "x"}}, {}, "is damaged"),
        ({}, {"weights": np.zeros((7, 8), np.int8)}, r"weights is int8 of shape \(7, 8\)"),
        ({}, {"params": np.zeros((7, 3), np.int32)}, "params is int32"),
        ({}, {"instructions": np.full((6, 32), 15, np.uint8)}, "15 is not a valid Opcode"),
    ],
)
def test_damaged_file(tmp_path: Path, header: dict[str, Any], tensors: dict[str, Any], message: str) -> None:
    rewrite(tmp_path / "p.hwp", header, **tensors)
    with pytest.raises(RefusedError, match=message):
        load_program(tmp_path / "p.hwp")
