"""What a co-simulation is asked to do and what it found: files between the caller's process and the simulator's."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hwattn.spec.external import ExternalMemory

JOB_VARIABLE = "HWATTN_COSIM_JOB"
"""Environment variable that names the job file."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong in external memory, and after how many words: ``"read"`` or ``"write"`` errors, or ``"silence"``."""

    kind: Literal["read", "write", "silence"]
    after: int


@dataclass(frozen=True)
class Job:
    """A co-simulation of a program on images.

    Parameters
    ----------
    program : str
        Path of the ``.hwp`` file.
    images : str
        Path of an ``.npy`` file, float32 (images, channels, height, width).
    tasks : list of int
        Tasks to run on every image.
    load : list of int
        Regions of the program that are loaded over the host's bus; the machine holds the others from the start.
    stepped : int
        For so many images of each task, compare after every instruction in single-step mode; all images are compared running free.
    whole : int
        For so many images of each task, the CRC-32 of the whole activation memory is compared after every instruction; for the others
        that of the words between the first and the last that the instruction changes, and the whole memory after every 64th.
    readback : int
        For so many images of each task, the whole memory is read back word by word after every instruction.
    memory : ExternalMemory
    fault : Fault or None
    result : str
        Path of the JSON file to write.
    """

    program: str
    images: str
    tasks: list[int]
    load: list[int]
    stepped: int
    whole: int
    readback: int
    memory: ExternalMemory
    fault: Fault | None
    result: str

    def save(self, path: Path) -> None:
        """Write the job file."""
        path.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def load_file(cls, path: Path) -> Job:
        """Read a job file."""
        values = json.loads(path.read_text())
        values["memory"] = ExternalMemory(**values["memory"])
        values["fault"] = Fault(**values["fault"]) if values["fault"] else None
        return cls(**values)


@dataclass(frozen=True)
class Mismatch:
    """A place where hardware and model differ.

    Parameters
    ----------
    task, image : int
    instruction : int or None
        Instruction after which it was seen in single-step mode; None at the end of a free run.
    text : str
        The instruction, disassembled, or what was compared.
    word : int or None
        First word of the activation memory that differs.
    expected, found : str
        Its bytes, hexadecimal, lane 0 first.
    """

    task: int
    image: int
    instruction: int | None
    text: str
    word: int | None
    expected: str
    found: str


@dataclass
class Run:
    """One image of one task.

    Parameters
    ----------
    task, image : int
    cycles : int
        Of the free run, from the hardware's counter.
    counters : dict of int to int
        Every counter of the free run, by register number.
    compared : int
        Instructions after which the activation memory was compared.
    outputs : dict of str to list
        Integers of every output, as the hardware left them, (rows, columns).
    error : str
        Name of the `ErrorCause` with which the machine stopped, or nothing.
    steps : list of int
        Of each instruction in single-step mode, the cycles from its step until the machine is at rest again.
    """

    task: int
    image: int
    cycles: int = 0
    counters: dict[int, int] = field(default_factory=dict)
    compared: int = 0
    outputs: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    steps: list[int] = field(default_factory=list)


@dataclass
class Findings:
    """What a co-simulation found.

    Parameters
    ----------
    runs : list of Run
    mismatches : list of Mismatch
    hung : str
        What stalled, if the machine hung; then the runs are incomplete.
    simulated_cycles : int
        Clock cycles in all, loading and comparing included.
    seconds : float
        Time that they took.
    """

    runs: list[Run] = field(default_factory=list)
    mismatches: list[Mismatch] = field(default_factory=list)
    hung: str = ""
    simulated_cycles: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Write the result file."""
        path.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def load_file(cls, path: Path) -> Findings:
        """Read a result file."""
        found = json.loads(path.read_text())
        for run in found["runs"]:
            run["counters"] = {int(register): count for register, count in run["counters"].items()}
        return cls(
            [Run(**run) for run in found["runs"]],
            [Mismatch(**mismatch) for mismatch in found["mismatches"]],
            found["hung"],
            found["simulated_cycles"],
            found["seconds"],
        )
