"""Program: what a machine runs. Instructions, the contents of its memories, and where data goes in and out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.encoding import encode
from hwattn.spec.isa import INSTRUCTION_BITS, Instruction


@dataclass(frozen=True)
class ImagePort:
    """Where the host writes the image: int8 (channels, height, width), row-major from byte address `base`.

    The address is one of the activation memory, with `external` of external memory. integer = clip(round_half_up(value / scale)) to int8.
    """

    name: str
    base: int
    shape: tuple[int, int, int]
    scale: float
    external: bool = False

    def words(self, lanes: int) -> int:
        """Words of `lanes` bytes that the image takes."""
        return -(-int(np.prod(self.shape)) // lanes)

    def quantize(self, images: NDArray[np.float32]) -> NDArray[np.int8]:
        """Return the integers of float images, of the same shape."""
        integers: NDArray[np.int8] = np.clip(
            np.floor(images / np.float64(self.scale) + 0.5), -128, 127
        ).astype(np.int8)
        return integers


@dataclass(frozen=True)
class OutputPort:
    """Where the host reads an output: `rows` int16 vectors of `columns` elements (layout as in ``spec.isa``).

    Row r starts at word ``base + r * stride``; value = integer * scale; `shape` is the ONNX shape without batch.
    """

    name: str
    task: int
    base: int
    stride: int
    rows: int
    columns: int
    scale: float
    shape: tuple[int, ...]

    def read(self, memory: NDArray[np.uint8]) -> NDArray[np.int16]:
        """Return the integers (..., rows, columns) that lie in an activation memory (..., words, lanes)."""
        lanes = memory.shape[-1]
        groups = -(-self.columns // lanes)
        words = self.base + self.stride * np.arange(self.rows)[:, None] + np.arange(2 * groups)
        halves = memory[..., words, :].reshape(*memory.shape[:-2], self.rows, groups, 2, lanes)
        integers = np.ascontiguousarray(np.swapaxes(halves, -1, -2)).view("<i2")
        return integers.reshape(*memory.shape[:-2], self.rows, groups * lanes)[..., : self.columns]


@dataclass(frozen=True)
class Program:
    """A compiled model.

    Parameters
    ----------
    config : AcceleratorConfig
        The machine it is compiled for; it runs on no other.
    instructions : tuple of Instruction
        All tasks' programs, each ended by a Halt.
    labels : tuple of str
        The layer that each instruction belongs to.
    entries : tuple of int
        Index of the first instruction of each task.
    weights : ndarray of int8, shape (words, lanes)
        Contents of the weight memory, or with `config.external_words` of external memory from its first word on: weights, entries of memories
        that the program fills by itself, and before them, with `config.program_streamed`, the instructions.
    params : ndarray of int64, shape (entries, 3)
        bias (32 signed bits), multiplier (16), shift (6) of each output channel.
    norm_params : ndarray of int64, shape (entries,)
        48 bits each: gamma (16 signed, upper) and beta (32 signed, lower), or the bias of a gate.
    activation : str
        Name of the activation table, one per model.
    """

    name: str
    config: AcceleratorConfig
    instructions: tuple[Instruction, ...]
    labels: tuple[str, ...]
    entries: tuple[int, ...]
    weights: NDArray[np.int8]
    params: NDArray[np.int64]
    norm_params: NDArray[np.int64]
    activation: str
    image: ImagePort
    outputs: tuple[OutputPort, ...]
    scratch_words: int = 0
    """External words that change from image to image: the last ones. The program writes them, or the host where the image lies there."""
    macs: tuple[int, ...] = field(default=())
    """Multiply-accumulates of the graph for one image, per task (experts: k per token)."""

    @property
    def scratch(self) -> tuple[int, int]:
        """First external word that changes from image to image, and the number of those words."""
        return self.config.external_words - self.scratch_words, self.scratch_words

    @property
    def task_names(self) -> list[str]:
        """What each task is called: after the outputs that it makes."""
        return [
            " and ".join(port.name for port in self.outputs if port.task == task)
            for task in range(len(self.entries))
        ]

    @property
    def hash(self) -> int:
        """32-bit identification of instructions, memories and activation, held in a register of the machine."""
        digest = hashlib.sha256()
        for instruction in self.instructions:
            digest.update(encode(instruction).to_bytes(INSTRUCTION_BITS // 8, "little"))
        for array in (self.weights, self.params, self.norm_params):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(self.activation.encode())
        return int.from_bytes(digest.digest()[:4], "little")
