"""Frames of the serial link between host and machine, shared by hardware and driver.

A request is ``REQUEST, sequence, operation, count, address (4 bytes), units (4 bytes each, writes only), CRC-32 (4 bytes)``, an answer
``ANSWER, sequence, status, count, units (reads only), CRC-32``. Numbers are little-endian; the CRC is that of zlib over everything
between the first byte and the CRC. A request writes or reads `count` units at consecutive addresses. Nothing is done before the whole
frame has come and its CRC is right. A write whose sequence number is that of the write before it is answered and not done again, so that
a host that got no answer may simply send it once more.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from enum import IntEnum

REQUEST = 0x5A
ANSWER = 0xA5
COUNT_MAX = 64
"""Units in one frame."""

HEADER_BYTES = 7
"""Bytes of a request between its first byte and its units."""

ANSWER_HEADER_BYTES = 3
CRC_BYTES = 4
UNIT_BYTES = 4
SILENCE_BYTES = 64
"""After so many byte times without a byte, an unfinished request is forgotten."""


class Operation(IntEnum):
    """What a request asks for."""

    READ = 0
    WRITE = 1


class LinkStatus(IntEnum):
    """How a request went."""

    OK = 0
    BAD_CRC = 1
    BAD_REQUEST = 2


def request_frame(
    sequence: int, operation: Operation, target: int, count: int, units: Sequence[int] = ()
) -> bytes:
    """Build a request.

    Parameters
    ----------
    sequence : int
        0 to 255.
    operation : Operation
    target : int
        32-bit address of the first unit.
    count : int
        Units, 1 to COUNT_MAX.
    units : sequence of int
        What to write; empty for a read.
    """
    if not 1 <= count <= COUNT_MAX or len(units) != (count if operation == Operation.WRITE else 0):
        raise ValueError(f"{count} units with {len(units)} values do not make a frame")
    body = struct.pack(f"<BBBI{len(units)}I", sequence, operation, count, target, *units)
    return bytes([REQUEST]) + body + struct.pack("<I", zlib.crc32(body))


def answer_bytes(operation: Operation, count: int) -> int:
    """Return the length of a good answer."""
    return 1 + ANSWER_HEADER_BYTES + CRC_BYTES + (UNIT_BYTES * count if operation == Operation.READ else 0)


def parse_answer(frame: bytes) -> tuple[int, LinkStatus, list[int]] | None:
    """Take an answer apart: its sequence number, status and units; None if it is damaged or cut short."""
    if len(frame) < 1 + ANSWER_HEADER_BYTES + CRC_BYTES or frame[0] != ANSWER:
        return None
    body, (check,) = frame[1:-CRC_BYTES], struct.unpack("<I", frame[-CRC_BYTES:])
    if zlib.crc32(body) != check or (len(body) - ANSWER_HEADER_BYTES) != UNIT_BYTES * body[2]:
        return None
    if body[1] not in LinkStatus._value2member_map_:
        return None
    return body[0], LinkStatus(body[1]), list(struct.unpack(f"<{body[2]}I", body[ANSWER_HEADER_BYTES:]))
