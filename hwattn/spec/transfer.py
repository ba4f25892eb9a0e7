"""What a host sends to a machine and reads from it, in 32-bit units: programs, images and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwattn.spec.isa import INSTRUCTION_BITS, encode
from hwattn.spec.program import ImagePort, OutputPort, Program
from hwattn.spec.registers import UNITS, Region, Register
from hwattn.spec.tables import activation_table

Units = NDArray[np.uint32]


@dataclass(frozen=True)
class Block:
    """Consecutive units of a region, from unit `first` on."""

    region: Region
    first: int
    units: Units


def program_blocks(program: Program) -> Iterator[Block]:
    """Yield everything that a machine without initial contents needs to run a program.

    Parameters
    ----------
    program : Program

    Yields
    ------
    Block
        Memories as far as they are used, then the registers INTERVAL_SHIFT and PROGRAM_HASH. The hash comes last: a load that broke off
        does not look complete.
    """
    table = activation_table(program.activation)
    norm = np.asarray(program.norm_params, np.int64)
    contents = {
        Region.WEIGHT: np.ascontiguousarray(program.weights, np.int8).reshape(-1).view("<u4"),
        Region.PARAM: np.stack([program.params[:, 0], program.params[:, 1] | program.params[:, 2] << 16], axis=1),
        Region.NORM: np.stack([norm, norm >> 32], axis=1),
        Region.TABLE: np.stack([table.value, table.difference], axis=1),
        Region.PROGRAM: np.frombuffer(
            b"".join(encode(instruction).to_bytes(INSTRUCTION_BITS // 8, "little") for instruction in program.instructions),
            "<u4",
        ),
    }
    for region, array in contents.items():
        units = (np.asarray(array, np.int64) & 0xFFFFFFFF).astype(np.uint32).reshape(-1)
        assert len(units) % UNITS.get(region, 1) == 0
        yield Block(region, 0, units)
    yield Block(Region.CSR, Register.INTERVAL_SHIFT, np.array([table.interval_shift], np.uint32))
    yield Block(Region.CSR, Register.PROGRAM_HASH, np.array([program.hash], np.uint32))


def quantize_image(port: ImagePort, images: NDArray[np.float32]) -> NDArray[np.int8]:
    """Turn images into the integers that the machine takes: round half up, saturating.

    Parameters
    ----------
    port : ImagePort
    images : ndarray of float32, shape (..., channels, height, width)

    Returns
    -------
    ndarray of int8, same shape
    """
    steps = np.floor(np.asarray(images, np.float64) / port.scale + 0.5)
    return np.clip(steps, -128, 127).astype(np.int8)


def image_block(port: ImagePort, image: NDArray[np.float32]) -> Block:
    """Return the units that put one image (channels, height, width) into the activation memory, padded with zeros to a whole unit."""
    pixels = quantize_image(port, image).reshape(-1)
    padded = np.zeros(-(-len(pixels) // 4) * 4, np.int8)
    padded[: len(pixels)] = pixels
    return Block(Region.ACT, port.base // 4, padded.view("<u4").astype(np.uint32))


def output_rows(port: OutputPort, lanes: int) -> list[tuple[int, int]]:
    """Return first unit and number of units of each row of an output in region ACT."""
    words = 2 * -(-port.columns // lanes)
    return [((port.base + row * port.stride) * lanes // 4, words * lanes // 4) for row in range(port.rows)]


def output_integers(port: OutputPort, rows: NDArray[np.uint8], lanes: int) -> NDArray[np.int16]:
    """Put int16 vectors together from their words.

    Parameters
    ----------
    port : OutputPort
    rows : ndarray of uint8, shape (..., rows, 2 * ceil(columns / lanes) * lanes)
        For each group of `lanes` elements the word of low bytes, then the word of high bytes.
    lanes : int

    Returns
    -------
    ndarray of int16, shape (..., rows, columns)
    """
    groups = rows.reshape(*rows.shape[:-1], -1, 2, lanes).astype(np.uint16)
    values = groups[..., 0, :] | groups[..., 1, :] << 8
    flat = values.reshape(*rows.shape[:-1], -1)[..., : port.columns]
    return np.ascontiguousarray(flat).view(np.int16)


def output_values(port: OutputPort, integers: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return an output in real numbers, float32 (..., *port.shape), from integers of shape (..., rows, columns)."""
    real = integers.astype(np.float64) * port.scale
    return real.astype(np.float32).reshape(*integers.shape[:-2], *port.shape)
