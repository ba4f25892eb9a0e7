"""The C++ machine from Python: its memories as NumPy arrays, single instructions, and the functions of its units (ctypes)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwattn.hls.compilation import compile_interface
from hwattn.hls.headers import expert_queues
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.encoding import encode
from hwattn.spec.isa import INSTRUCTION_BITS, SOFTMAX_STATES, Instruction
from hwattn.spec.program import Program
from hwattn.spec.registers import UNITS, Region
from hwattn.spec.tables import activation_table
from hwattn.spec.transfer import program_blocks

SOFTMAX_ROW = np.dtype([("maximum", np.int16), ("growth", np.uint8), ("pad", np.uint8), ("total", np.uint32)])
"""Layout of ``SoftmaxRow`` in state.hpp."""


class MachineMemory(IntEnum):
    """Numbers of ``hwattn_memory`` in capi/machine.cpp."""

    ACT = 0
    SLOTS = 1
    ACCUMULATORS = 2
    SOFTMAX = 3
    QUEUE_TOKEN = 4
    QUEUE_GATE = 5
    QUEUE_COUNT = 6
    METAQUEUE = 7
    METAQUEUE_LENGTH = 8


class CMachine:
    """One machine of the C++ library.

    Parameters
    ----------
    config : AcceleratorConfig
        Compiled for it on first use.
    compiler : str
    options : sequence of str
        Added to the command line.

    Notes
    -----
    Machines of one configuration, compiler and options share their memories: the library holds one machine.
    """

    def __init__(self, config: AcceleratorConfig, compiler: str = "g++", options: Sequence[str] = ()) -> None:
        self.config = config
        self._library = ctypes.CDLL(str(compile_interface("machine", config, {}, compiler, options)))
        self._library.hwattn_memory.restype = ctypes.c_void_p
        lanes, rows = config.lanes, config.rows
        self.act = self._memory(MachineMemory.ACT, np.uint8, (-1, lanes))
        self.slots = self._memory(MachineMemory.SLOTS, np.uint8, (config.row_slots, rows, -1))
        self.accumulators = self._memory(MachineMemory.ACCUMULATORS, np.int32, (rows, -1))
        self.softmax = self._memory(MachineMemory.SOFTMAX, SOFTMAX_ROW, (SOFTMAX_STATES, rows))
        self.queue_token = self._memory(MachineMemory.QUEUE_TOKEN, np.uint16, (expert_queues(config), -1))
        self.queue_gate = self._memory(MachineMemory.QUEUE_GATE, np.uint16, (expert_queues(config), -1))
        self.queue_count = self._memory(MachineMemory.QUEUE_COUNT, np.uint16, (-1,))
        self.metaqueue = self._memory(MachineMemory.METAQUEUE, np.uint8, (-1,))
        self.metaqueue_length = self._memory(MachineMemory.METAQUEUE_LENGTH, np.uint16, (1,))

    def _memory(self, number: MachineMemory, kind: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        size = ctypes.c_uint64()
        start = self._library.hwattn_memory(int(number), ctypes.byref(size))
        data = (ctypes.c_uint8 * size.value).from_address(start)
        flat: NDArray[Any] = np.frombuffer(memoryview(data), np.dtype(kind))
        return flat.reshape(shape)

    def load(self, program: Program) -> None:
        """Fill the memories with a program, as a host does."""
        blocks = memory_blocks(program)
        self.external = blocks[Region.WEIGHT].copy()
        self._library.hwattn_load(
            _pointer(np.array(extent(program), np.uint32)),
            _pointer(self.external),
            *(_pointer(blocks[region]) for region in (Region.PARAM, Region.NORM, Region.TABLE)),
            activation_table(program.activation).interval_shift,
            _pointer(blocks[Region.PROGRAM]),
        )

    @property
    def external_words(self) -> NDArray[np.uint8]:
        """External memory by words, (words, lanes); the weights where there is none."""
        return self.external.view(np.uint8).reshape(-1, self.config.lanes)

    def execute(self, instruction: Instruction) -> int:
        """Run one instruction; returns an ``ErrorCause``."""
        data = encode(instruction).to_bytes(INSTRUCTION_BITS // 8, "little")
        return int(self._library.hwattn_execute(data))

    def run(self, entry: int) -> int:
        """Run from an instruction to the next Halt; returns an ``ErrorCause``."""
        return int(self._library.hwattn_run(entry))

    def unit(self, name: str, arrays: Sequence[NDArray[Any]], result: NDArray[Any]) -> None:
        """Call the function of a unit on arrays of one length, whose types must be those that capi/machine.cpp says."""
        count = ctypes.c_int64(len(arrays[0]))
        getattr(self._library, f"hwattn_{name}")(count, *map(_pointer, arrays), _pointer(result))


class CAttention:
    """The attention kernel of the C++ library.

    Parameters
    ----------
    config : AcceleratorConfig
        Its rows and lanes count.
    head_dim, key_block : int
        Compiled for them on first use.
    """

    def __init__(self, config: AcceleratorConfig, head_dim: int, key_block: int) -> None:
        self.lanes, self.head_dim = config.lanes, head_dim
        definitions = {"HWATTN_HEAD_DIM": head_dim, "HWATTN_KEY_BLOCK": key_block}
        self._library = ctypes.CDLL(str(compile_interface("attention", config, definitions)))

    def run(
        self,
        q: NDArray[np.int8],
        k: NDArray[np.int8],
        v: NDArray[np.int8],
        scaling: NDArray[np.int64],
        p16: bool,
    ) -> NDArray[np.int8]:
        """Compute attention; the arguments are those of `AttentionCase`, and so is the result."""
        words = [head_words(array, self.lanes) for array in (q, k, v)]
        result = np.empty_like(words[0])
        self._library.hwattn_attention(
            *map(_pointer, words),
            _pointer(result),
            _pointer(scaling_entries(scaling)),
            *(ctypes.c_uint(count) for count in (len(q), len(k), len(scaling), int(p16))),
        )
        return result[..., : self.head_dim]


def scaling_entries(scaling: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the scaling (heads, 4) as the attention kernel reads it: 16 bits each, the first lowest."""
    return np.ascontiguousarray(scaling, "<u2").view("<u8").reshape(-1)


def head_words(array: NDArray[np.int8], lanes: int) -> NDArray[np.int8]:
    """Return (tokens, heads, head_dim) as bytes, each head padded with zeros to whole words."""
    head_dim = array.shape[-1]
    padded = np.zeros((*array.shape[:-1], -(-head_dim // lanes) * lanes), np.int8)
    padded[..., :head_dim] = array
    return padded


def memory_blocks(program: Program) -> dict[Region, NDArray[np.uint32]]:
    """Contents of every memory in the 32-bit units that a host sends, by region.

    External memory stands for the weights where there is one: the weights, then zeros as far as the program writes. A program that lies there
    leaves a Halt alone on chip.
    """
    blocks = {block.region: np.ascontiguousarray(block.units) for block in program_blocks(program)}
    weights = np.ascontiguousarray(program.weights, np.int8).reshape(-1).view(np.uint32)
    words, *_ = extent(program)
    memory = np.zeros(words * program.config.lanes // 4, np.uint32)
    memory[: len(weights)] = weights
    blocks.pop(Region.EXTERNAL, None)
    blocks.setdefault(Region.PROGRAM, np.zeros(UNITS[Region.PROGRAM], np.uint32))
    return blocks | {Region.WEIGHT: memory}


def extent(program: Program) -> tuple[int, int, int, int]:
    """How many entries of the weight (or external), parameter, norm and program memories a program uses."""
    weights = program.config.external_words if program.scratch_words else len(program.weights)
    instructions = 1 if program.config.program_streamed else len(program.instructions)
    return weights, len(program.params), len(program.norm_params), instructions


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
