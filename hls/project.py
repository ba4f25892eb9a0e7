"""A project for one model and configuration: library, tops, contents of the memories, golden vectors, Makefile and Vitis script."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwattn.hls.compilation import INCLUDE, ap_types_folder, write_headers
from hwattn.hls.csim import extent, head_words, memory_blocks, scaling_entries
from hwattn.hls.headers import header, integers
from hwattn.spec.errors import RefusedError
from hwattn.spec.isa import Post, Softmax
from hwattn.spec.program import OutputPort, Program
from hwattn.spec.registers import Region
from hwattn.spec.tables import activation_table

SOURCES = Path(__file__).parent / "top"

SCRIPTS = ("Makefile", "run_hls.tcl")
TOP_FILES = {"src": ("{top}.cpp", "{top}_top.hpp"), "tb": ("{top}_tb.cpp",)}
TESTBENCH_FILES = ("vectors.hpp",)

MACHINE, ATTENTION = "machine", "attention"
"""The tops: the machine that runs the Program, and attention alone as a dataflow."""

FILES = {
    Region.WEIGHT: "weights.bin",
    Region.PARAM: "params.bin",
    Region.NORM: "norm.bin",
    Region.TABLE: "table.bin",
    Region.PROGRAM: "program.bin",
}
"""File in ``data/`` with a memory's contents, in the 32-bit little-endian units that the RTL's host sends."""


@dataclass(frozen=True)
class AttentionKernel:
    """What the attention kernel is compiled for, and a scaling that goes with it.

    Parameters
    ----------
    head_dim : int
        Features of one head.
    key_block : int
        Keys of one block; it decides the rounding, and is part of the numbers.
    scaling : tuple of int
        Score multiplier and shift, result multiplier and shift, as in Softmax and Post.
    """

    head_dim: int
    key_block: int
    scaling: tuple[int, int, int, int]


@dataclass(frozen=True)
class AttentionCase:
    """One golden vector of the attention kernel.

    Parameters
    ----------
    q, result : ndarray of int8, shape (queries, heads, head_dim)
    k, v : ndarray of int8, shape (keys, heads, head_dim)
    scaling : ndarray of int64, shape (heads, 4)
        As in `AttentionKernel`.
    p16 : bool
        16-bit probabilities.
    """

    q: NDArray[np.int8]
    k: NDArray[np.int8]
    v: NDArray[np.int8]
    result: NDArray[np.int8]
    scaling: NDArray[np.int64]
    p16: bool


def attention_kernel(program: Program) -> AttentionKernel | None:
    """Return the kernel that serves a program's attention; None if it has none."""
    blocks = [each for each in program.instructions if isinstance(each, Softmax)]
    results = [each for each in program.instructions if isinstance(each, Post) and each.row_scale]
    if not blocks or not results:
        return None
    return AttentionKernel(
        head_dim=results[0].columns,
        key_block=max(block.keys for block in blocks),
        scaling=(blocks[0].multiplier, blocks[0].shift, results[0].m2, results[0].s2),
    )


def write_project(
    folder: Path,
    program: Program,
    images: NDArray[np.float32],
    golden: Mapping[str, NDArray[np.int16]],
    cases: Sequence[AttentionCase],
) -> list[str]:
    """Write a project into an empty folder.

    Parameters
    ----------
    folder : Path
    program : Program
    images : ndarray of float32, shape (batch, channels, height, width)
    golden : dict of str to ndarray of int16, shape (batch, rows, columns)
        Each output's integers.
    cases : sequence of AttentionCase
        Golden vectors of the attention kernel, which is left out if there are none.

    Returns
    -------
    list of str
        The tops.
    """
    kernel = attention_kernel(program) if cases else None
    tops = [MACHINE, ATTENTION] if kernel else [MACHINE]
    for name in ("include", "generated", "src", "tb", "data"):
        (folder / name).mkdir()
    for source in sorted(INCLUDE.glob("*.hpp")):
        shutil.copyfile(source, folder / "include" / source.name)
    for name in SCRIPTS:
        shutil.copyfile(SOURCES / name, folder / name)
    for name in TESTBENCH_FILES:
        shutil.copyfile(SOURCES / name, folder / "tb" / name)
    for top in tops:
        for place, names in TOP_FILES.items():
            for name in names:
                shutil.copyfile(SOURCES / name.format(top=top), folder / place / name.format(top=top))
    write_headers(folder / "generated", program.config)
    (folder / "generated" / "model.hpp").write_text(model_header(program, len(images), kernel, cases))
    _write_data(folder / "data", program, images, golden)
    if kernel:
        _write_cases(folder / "data", program.config.lanes, cases)
    _write_local(folder / "local.mk")
    return tops


def model_header(
    program: Program, images: int, kernel: AttentionKernel | None, cases: Sequence[AttentionCase]
) -> str:
    """What the tops and testbenches know of the model: where data lies, how much there is, and the attention kernel's shape."""
    lanes, ports = program.config.lanes, program.outputs
    if program.image.base % lanes:
        raise ValueError(f"the image starts at byte {program.image.base}, inside a word of {lanes} bytes")
    words = [_port_words(port, lanes) for port in ports]
    by_task = [
        sum(count for port, count in zip(ports, words, strict=True) if port.task == task)
        for task in range(len(program.entries))
    ]
    scalars = {
        "IMAGE_BASE": program.image.base // lanes,
        "IMAGE_WORDS": program.image.words(lanes),
        "IMAGE_EXTERNAL": int(program.image.external),
        "OUTPUT_WORDS": max(by_task),
        "INTERVAL_SHIFT": activation_table(program.activation).interval_shift,
        "TASKS": len(program.entries),
        "PORTS": len(ports),
        **dict(
            zip(
                ("EXTENT_WEIGHTS", "EXTENT_PARAMS", "EXTENT_NORM", "EXTENT_INSTRUCTIONS"),
                (max(1, count) for count in extent(program)),
                strict=True,
            )
        ),
    }
    if kernel:
        scalars |= {
            "ATTENTION_HEAD_DIM": kernel.head_dim,
            "ATTENTION_KEY_BLOCK": kernel.key_block,
            "ATTENTION_WORDS": max(
                max(len(case.q), len(case.k)) * len(case.scaling) * -(-kernel.head_dim // lanes)
                for case in cases
            ),
            "ATTENTION_HEADS": max(len(case.scaling) for case in cases),
        }
    arrays = {
        "ENTRY": program.entries,
        "PORT_TASK": [port.task for port in ports],
        "PORT_BASE": [port.base for port in ports],
        "PORT_STRIDE": [port.stride for port in ports],
        "PORT_ROWS": [port.rows for port in ports],
        "PORT_ROW_WORDS": [2 * -(-port.columns // lanes) for port in ports],
        "GOLDEN_BASE": [sum(by_task[:task]) * images for task in range(len(by_task))],
    }
    lines = [f"constexpr int {name} = {value};" for name, value in scalars.items()]
    for name, values in arrays.items():
        lines += integers(name, values)
    return header("MODEL", lines, f"program {program.hash:08x}")


def pack_rows(integers_: NDArray[np.int16], lanes: int) -> NDArray[np.uint8]:
    """Return int16 vectors (..., rows, columns) as bytes of words: per `lanes` elements their low bytes, then their high bytes."""
    columns = integers_.shape[-1]
    groups = -(-columns // lanes)
    padded = np.zeros((*integers_.shape[:-1], groups * lanes), "<i2")
    padded[..., :columns] = integers_
    pairs = padded.view(np.uint8).reshape(*integers_.shape[:-1], groups, lanes, 2)
    return np.ascontiguousarray(np.swapaxes(pairs, -1, -2))


def _port_words(port: OutputPort, lanes: int) -> int:
    return port.rows * 2 * -(-port.columns // lanes)


def _write_data(
    folder: Path, program: Program, images: NDArray[np.float32], golden: Mapping[str, NDArray[np.int16]]
) -> None:
    blocks = memory_blocks(program)
    for region, name in FILES.items():
        blocks[region].astype("<u4").tofile(folder / name)
    lanes = program.config.lanes
    pixels = program.image.quantize(images).reshape(len(images), -1)
    padded = np.zeros((len(images), program.image.words(lanes) * lanes), np.int8)
    padded[:, : pixels.shape[1]] = pixels
    padded.tofile(folder / "images.bin")
    with (folder / "golden.bin").open("wb") as file:
        for task in range(len(program.entries)):
            ports = [port for port in program.outputs if port.task == task]
            parts = [pack_rows(golden[port.name], lanes).reshape(len(images), -1) for port in ports]
            file.write(np.concatenate(parts, axis=1).tobytes())


def _write_cases(folder: Path, lanes: int, cases: Sequence[AttentionCase]) -> None:
    shapes = [(len(case.q), len(case.k), len(case.scaling), int(case.p16)) for case in cases]
    np.array(shapes, "<u8").tofile(folder / "attention_shapes.bin")
    scaling = np.concatenate([scaling_entries(case.scaling) for case in cases])
    scaling.astype("<u8").tofile(folder / "attention_scaling.bin")
    with (folder / "attention_words.bin").open("wb") as file:
        for case in cases:
            for array in (case.q, case.k, case.v, case.result):
                file.write(head_words(array, lanes).tobytes())


def _write_local(target: Path) -> None:
    """Write where the ap_types headers are on this machine, if they are; the Makefile looks for them otherwise."""
    try:
        target.write_text(f"AP_TYPES ?= {ap_types_folder()}\n")
    except RefusedError:
        return
