"""The same run on a machine instead of the model: on a serial port, mapped into memory, or simulated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwattn.boards.board import Board
from hwattn.boards.driver import Driver
from hwattn.boards.external_buffer import ExternalBuffer
from hwattn.boards.link_bus import LinkBus
from hwattn.boards.mapped_bus import open_uio
from hwattn.boards.serial_transport import SerialTransport
from hwattn.cli.output import Output
from hwattn.cli.uart import drive_over_pins
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.program import Program
from hwattn.spec.registers import Register
from hwattn.spec.transfer import output_values

SIMULATION = "sim"
"""Value of ``--device`` for the machine's RTL in a simulator, driven through its UART pins."""

UIO_PREFIX = "uio"


@dataclass
class DeviceRun:
    """What a device has answered: values by output, (images, ...), and the cycles of each image, by task."""

    outputs: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    cycles: dict[int, list[int]] = field(default_factory=dict)


def external_buffer(board: Board, config: AcceleratorConfig, address: int | None) -> ExternalBuffer | None:
    """Return where the external memory of a machine lies that is memory of the board's processor.

    Parameters
    ----------
    board : Board
    config : AcceleratorConfig
    address : int, optional
        Instead of the one that the device tree of a build reserves.

    Returns
    -------
    ExternalBuffer or None
        None where the machine or the board has no such memory.

    Raises
    ------
    RefusedError
        The memory is too small, or the address not that of a page.
    """
    memory = board.processor_memory
    if memory is None or not config.external_words:
        return None
    buffer = ExternalBuffer(memory.stripes(config), memory.address if address is None else address)
    buffer.stripes.page(buffer.address)
    return buffer


def run_on_device(
    device: str,
    board: Board,
    program: Program,
    images: NDArray[np.float32],
    tasks: Sequence[int],
    out: Output,
    buffer: ExternalBuffer | None = None,
) -> DeviceRun:
    """Load a program into a machine and run images on it.

    Parameters
    ----------
    device : str
        A serial port, a UIO device (``/dev/uio0``), or ``sim``.
    board : Board
        For the speed of its serial port.
    program : Program
    images : ndarray of float32, shape (N, channels, height, width)
    tasks : sequence of int
    out : Output
    buffer : ExternalBuffer, optional
        Memory of the board's processor that is external memory.

    Raises
    ------
    RefusedError
        The device cannot be opened, or is another machine; nothing was written.
    FailedError
        It does not answer, stopped with an error, or hung.
    """
    found = DeviceRun()
    values: dict[str, list[NDArray[np.float32]]] = {}
    if device == SIMULATION:
        ports = {port.name: port for port in program.outputs}
        for run in drive_over_pins(program, images, tasks).runs:
            found.cycles.setdefault(run.task, []).append(run.cycles)
            for name, integers in run.outputs.items():
                values.setdefault(name, []).append(output_values(ports[name], np.array(integers, np.int16)))
    else:
        with _driver(device, board.baud, program.config, buffer) as driver:
            driver.load(program)
            with out.progress(len(tasks) * len(images), "images") as advance:
                for task in tasks:
                    for image in images:
                        result = driver.run(program, image, task)
                        found.cycles.setdefault(task, []).append(result.counters[Register.CYCLES])
                        for name, value in result.outputs.items():
                            values.setdefault(name, []).append(value)
                        advance()
    found.outputs = {name: np.stack(entries) for name, entries in values.items()}
    return found


@contextmanager
def _driver(
    device: str, baud: int, config: AcceleratorConfig, buffer: ExternalBuffer | None
) -> Iterator[Driver]:
    """Open a device; its name says which kind it is."""
    if Path(device).name.startswith(UIO_PREFIX):
        with open_uio(Path(device)) as bus:
            yield Driver(bus, config, buffer)
    else:
        with SerialTransport(device, baud) as transport:
            yield Driver(LinkBus(transport), config)
