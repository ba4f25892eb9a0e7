"""The ``.hwp`` file: a `Program` as safetensors with a JSON header. No pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.encoding import decode, encode_instructions
from hwattn.spec.errors import RefusedError
from hwattn.spec.files import write_complete
from hwattn.spec.isa import INSTRUCTION_BITS, Instruction
from hwattn.spec.program import ImagePort, OutputPort, Program

FORMAT = "hwattn-program"
"""The one key of the safetensors metadata; its value is JSON with the version and everything but arrays."""

VERSION = 2
"""Version of the layout; a reader accepts its own version only."""

_INSTRUCTION_BYTES = INSTRUCTION_BITS // 8
_REMEDY = "compile the model again with this version of hwattn"


def save_program(program: Program, path: str | Path) -> None:
    """Write a program to a file, which appears only when it is complete.

    Parameters
    ----------
    program : Program
    path : str or Path
        Replaced if it exists. The same program always gives the same bytes.

    Raises
    ------
    RefusedError
        If the file cannot be written.
    """
    target = Path(path)
    tensors: dict[str, NDArray[Any]] = {
        "instructions": encode_instructions(program.instructions),
        "weights": np.ascontiguousarray(program.weights),
        "params": np.ascontiguousarray(program.params),
        "norm_params": np.ascontiguousarray(program.norm_params),
    }
    content = {
        "name": program.name,
        "config": program.config.as_dict(),
        "labels": program.labels,
        "entries": program.entries,
        "activation": program.activation,
        "image": dataclasses.asdict(program.image),
        "outputs": [dataclasses.asdict(output) for output in program.outputs],
        "scratch_words": program.scratch_words,
        "macs": program.macs,
    }
    header = {"version": VERSION, "sha256": _digest(content, tensors), "program": content}
    write_complete(target, save(tensors, {FORMAT: json.dumps(header)}))


def load_program(path: str | Path) -> Program:
    """Read a program.

    Raises
    ------
    RefusedError
        If the file is missing, truncated, malformed, of another kind or of another version.
    """
    source = Path(path)
    if not source.is_file():
        raise RefusedError(f"no file {source}", "a compiled program (.hwp)", "name an existing file")
    try:
        with safe_open(str(source), framework="numpy") as file:
            text = (file.metadata() or {}).get(FORMAT)
            if text is None:
                raise RefusedError(f"{source} holds no program", "a file written by hwattn", _REMEDY)
            header = json.loads(text)
            if header["version"] != VERSION:
                raise RefusedError(
                    f"{source} has version {header['version']} of the .hwp layout",
                    f"version {VERSION}",
                    _REMEDY,
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no iterator)
        if header["sha256"] != _digest(header["program"], tensors):
            raise ValueError("its contents do not match its checksum")
        return _program(header["program"], tensors)
    except (SafetensorError, OSError) as error:
        raise RefusedError(
            f"{source} is no .hwp file ({_sentence(error)})", "a compiled program (.hwp)", _REMEDY
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise RefusedError(
            f"{source} is damaged ({_sentence(error)})", "an intact .hwp file", _REMEDY
        ) from error


def decode_instructions(encoded: NDArray[np.uint8]) -> tuple[Instruction, ...]:
    """Decode what `encode_instructions` made.

    Raises
    ------
    ValueError
        If an operation code is unknown.
    """
    return tuple(decode(int.from_bytes(row.tobytes(), "little")) for row in encoded)


def _digest(content: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> str:
    """SHA-256 of the JSON description and of all arrays."""
    state = hashlib.sha256(json.dumps(content).encode())
    for key in sorted(tensors):
        state.update(f"{key} {tensors[key].dtype} {tensors[key].shape} ".encode())
        state.update(tensors[key].tobytes())
    return state.hexdigest()


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _program(header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Program:
    config = AcceleratorConfig().replace(**header["config"])
    expected: dict[str, tuple[str, int | None]] = {
        "instructions": ("uint8", _INSTRUCTION_BYTES),
        "weights": ("int8", config.lanes),
        "params": ("int64", 3),
        "norm_params": ("int64", None),
    }
    for key, (dtype, columns) in expected.items():
        array = tensors[key]
        shape_fits = array.ndim == 1 if columns is None else array.ndim == 2 and array.shape[1] == columns
        if array.dtype != dtype or not shape_fits:
            raise ValueError(f"{key} is {array.dtype} of shape {array.shape}")
    instructions = decode_instructions(tensors["instructions"])
    labels = tuple(str(label) for label in header["labels"])
    if len(labels) != len(instructions):
        raise ValueError(f"{len(labels)} labels for {len(instructions)} instructions")
    entries = tuple(int(entry) for entry in header["entries"])
    if not all(0 <= entry < len(instructions) for entry in entries):
        raise ValueError(f"entries {entries} outside {len(instructions)} instructions")
    return Program(
        name=str(header["name"]),
        config=config,
        instructions=instructions,
        labels=labels,
        entries=entries,
        weights=tensors["weights"],
        params=tensors["params"],
        norm_params=tensors["norm_params"],
        activation=str(header["activation"]),
        image=ImagePort(**{**header["image"], "shape": tuple(header["image"]["shape"])}),
        outputs=tuple(
            OutputPort(**{**output, "shape": tuple(output["shape"])}) for output in header["outputs"]
        ),
        scratch_words=int(header["scratch_words"]),
        macs=tuple(int(count) for count in header["macs"]),
    )
