"""A machine in plain Python at the other end of a pseudo-terminal."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import tty
from collections.abc import Iterator

from fake_machine import FakeMachine

from hwattn.spec.link import HEADER_BYTES, Operation


@contextlib.contextmanager
def on_a_port(machine: FakeMachine) -> Iterator[str]:
    """A pseudo-terminal with the machine at its other end; a frame ends where its length says, or with silence."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    stop = threading.Event()

    def serve() -> None:
        held = b""
        while not stop.is_set():
            if not select.select([ours], [], [], 0.1)[0]:
                held = b""
                continue
            held += os.read(ours, 4096)
            while len(held) > HEADER_BYTES:
                units = held[3] if held[2] == Operation.WRITE else 0
                length = 1 + HEADER_BYTES + 4 * units + 4
                if len(held) < length:
                    break
                machine.send(held[:length])
                held = held[length:]
                os.write(ours, machine.receive(4096))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield os.ttyname(theirs)
    finally:
        stop.set()
        thread.join()
        os.close(ours)
        os.close(theirs)
