"""What a host sends to a machine and reads from it, in 32-bit units: programs, images and outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwattn.spec.encoding import encode_instructions
from hwattn.spec.entries import pack_entries
from hwattn.spec.isa import Memory
from hwattn.spec.program import ImagePort, OutputPort, Program
from hwattn.spec.registers import UNITS, WINDOW_UNITS, Region, Register
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
        Memories as far as they are used, weights first, then the registers INTERVAL_SHIFT and PROGRAM_HASH. The hash comes last: a load
        that broke off does not look complete. Units of region EXTERNAL are numbered without regard to the window.
    """
    table = activation_table(program.activation)
    weights = Region.EXTERNAL if program.config.external_words else Region.WEIGHT
    contents = {
        weights: np.ascontiguousarray(program.weights, np.int8).reshape(-1).view("<u4"),
        Region.PARAM: pack_entries(Memory.PARAM, program.params),
        Region.NORM: pack_entries(Memory.NORM, program.norm_params),
        Region.TABLE: np.stack([table.value, table.difference], axis=1),
    }
    if not program.config.program_streamed:
        contents[Region.PROGRAM] = encode_instructions(program.instructions).reshape(-1).view("<u4")
    for region, array in contents.items():
        units = (np.asarray(array, np.int64) & 0xFFFFFFFF).astype(np.uint32).reshape(-1)
        assert len(units) % UNITS.get(region, 1) == 0
        yield Block(region, 0, units)
    yield Block(Region.CSR, Register.INTERVAL_SHIFT, np.array([table.interval_shift], np.uint32))
    yield Block(Region.CSR, Register.PROGRAM_HASH, np.array([program.hash], np.uint32))


def image_block(port: ImagePort, image: NDArray[np.float32]) -> Block:
    """Return the units that put one image (channels, height, width) where its port says, padded with zeros to a whole unit."""
    pixels = port.quantize(image).reshape(-1)
    padded = np.zeros(-(-len(pixels) // 4) * 4, np.int8)
    padded[: len(pixels)] = pixels
    region = Region.EXTERNAL if port.external else Region.ACT
    return Block(region, port.base // 4, padded.view("<u4").astype(np.uint32))


def window_blocks(block: Block) -> Iterator[tuple[int, Block]]:
    """Cut a block of region EXTERNAL into what each window shows: yield the value of EXTERNAL_WINDOW, and the units to write then."""
    start, units = block.first, block.units
    while len(units):
        window, first = divmod(start, WINDOW_UNITS)
        here = units[: WINDOW_UNITS - first]
        yield window, Block(block.region, first, here)
        start, units = start + len(here), units[len(here) :]


def output_words(port: OutputPort, lanes: int) -> tuple[int, int]:
    """Return first word and number of words of the part of the activation memory that holds an output."""
    return port.base, (port.rows - 1) * port.stride + 2 * -(-port.columns // lanes)


def output_integers(port: OutputPort, words: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return an output's integers (rows, columns) from the words that `output_words` names, uint8 (words, lanes)."""
    return dataclasses.replace(port, base=0).read(words)


def output_values(port: OutputPort, integers: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return an output in real numbers, float32 of the port's shape, from integers (rows, columns)."""
    return (integers * np.float64(port.scale)).astype(np.float32).reshape(port.shape)
