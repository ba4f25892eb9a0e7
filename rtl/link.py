"""The serial link: frames of bytes to requests on the host's bus, and back (``spec.link``)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.crc import catalog
from amaranth.lib.wiring import In, Out

from hwattn.rtl.entries import UNIT_BITS
from hwattn.rtl.host import host_request, host_response
from hwattn.rtl.uart import BYTE_BITS
from hwattn.spec.link import (
    ANSWER,
    COUNT_MAX,
    CRC_BYTES,
    HEADER_BYTES,
    REQUEST,
    UNIT_BYTES,
    LinkStatus,
    Operation,
)


class Link(wiring.Component):
    """Turns request frames into bus requests, one frame at a time.

    Parameters
    ----------
    silence : int
        Cycles without a byte after which an unfinished frame is forgotten.

    Members
    -------
    received : In(stream of 8 bits), sent : Out(stream of 8 bits)
        Bytes from and to the UART.
    request : Out(host_request()), response : In(host_response())
        The machine.

    Latency
    -------
    Bytes are taken one per cycle, none in the cycle after a header; a write is carried out when its frame's CRC has been checked.
    """

    def __init__(self, silence: int) -> None:
        self.silence = silence
        super().__init__(
            {
                "received": In(stream.Signature(BYTE_BITS)),
                "sent": Out(stream.Signature(BYTE_BITS)),
                "request": Out(host_request()),
                "response": In(host_response()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.buffer = buffer = memory.Memory(shape=UNIT_BITS, depth=COUNT_MAX, init=[])
        write, read = buffer.write_port(), buffer.read_port()
        m.submodules.crc_in = crc_in = catalog.CRC32_ISO_HDLC().create()
        m.submodules.crc_out = crc_out = catalog.CRC32_ISO_HDLC().create()

        header = Signal(HEADER_BYTES * BYTE_BITS)
        sequence, operation, count, target = header[:8], header[8:16], header[16:24], header[24:]
        position = Signal(range(max(HEADER_BYTES, COUNT_MAX) + 1))
        lane = Signal(range(UNIT_BYTES))
        word, right = Signal(UNIT_BITS), Signal()
        status = Signal(LinkStatus)
        last_write = Signal(BYTE_BITS)
        any_write = Signal()
        quiet = Signal(range(self.silence + 1))
        forget = Signal()
        receiving = Signal()
        taken = self.received.valid & self.received.ready
        state_byte, summed = Signal(BYTE_BITS), Signal(BYTE_BITS)
        gathered = Cat(word[BYTE_BITS:], self.received.payload)
        writes = operation == Operation.WRITE

        m.d.comb += [
            write.addr.eq(position),
            write.data.eq(gathered),
            crc_in.data.eq(self.received.payload),
            # what is sent, without the CRC itself
            crc_out.data.eq(summed),
            summed.eq(word.word_select(lane, BYTE_BITS)),
            self.received.ready.eq(receiving),
            state_byte.eq(status),
        ]
        with m.If(taken):
            m.d.sync += [quiet.eq(0), word.eq(gathered)]
        with m.Elif(receiving & ~forget):
            m.d.sync += quiet.eq(quiet + 1)
        m.d.comb += forget.eq(quiet == self.silence)
        # a cycle after `position`, which stays for two and more
        last_unit = Signal()
        m.d.sync += last_unit.eq(position == count - 1)

        def next_unit(done: str, following: str | None = None) -> None:
            """Count four bytes, then go on to the next unit, or to `done` after the last."""
            m.d.sync += lane.eq(lane + 1)
            with m.If(lane == UNIT_BYTES - 1):
                m.d.sync += position.eq(position + 1)
                with m.If(last_unit):
                    m.d.sync += position.eq(0)
                    m.next = done
                if following is not None:
                    with m.Else():
                        m.next = following

        with m.FSM():
            with m.State("Idle"):
                m.d.comb += [receiving.eq(1), crc_in.start.eq(1)]
                m.d.sync += [position.eq(0), lane.eq(0), quiet.eq(0)]
                with m.If(taken & (self.received.payload == REQUEST)):
                    m.next = "Header"
            with m.State("Header"):
                m.d.comb += [receiving.eq(1), crc_in.valid.eq(taken)]
                with m.If(forget):
                    m.next = "Idle"
                with m.If(taken):
                    m.d.sync += [
                        header.eq(Cat(header[BYTE_BITS:], self.received.payload)),
                        position.eq(position + 1),
                    ]
                    with m.If(position == HEADER_BYTES - 1):
                        m.d.sync += position.eq(0)
                        m.next = "Judge"
            with m.State("Judge"):
                m.next = "Check"
                with m.If(writes):
                    m.next = "Units"
                with m.If((count == 0) | (count > COUNT_MAX) | (operation > Operation.WRITE)):
                    m.d.sync += status.eq(LinkStatus.BAD_REQUEST)
                    m.next = "Refuse"
            with m.State("Units"):
                m.d.comb += [receiving.eq(1), crc_in.valid.eq(taken)]
                with m.If(forget):
                    m.next = "Idle"
                with m.If(taken):
                    m.d.comb += write.en.eq(lane == UNIT_BYTES - 1)
                    next_unit("Check")
            with m.State("Check"):
                m.d.comb += receiving.eq(1)
                with m.If(forget):
                    m.next = "Idle"
                with m.If(taken):
                    m.d.sync += lane.eq(lane + 1)
                    with m.If(lane == CRC_BYTES - 1):
                        m.next = "Act"
                        m.d.sync += right.eq(gathered == crc_in.crc)
            with m.State("Act"):
                m.d.sync += status.eq(LinkStatus.OK)
                m.next = "Answer"
                with m.If(~right):
                    m.d.sync += status.eq(LinkStatus.BAD_CRC)
                    m.next = "Refuse"
                with m.Elif(writes & ~(any_write & (sequence == last_write))):
                    m.d.sync += [last_write.eq(sequence), any_write.eq(1)]
                    m.next = "Write"
            with m.State("Write"):
                m.d.comb += self.request.valid.eq(1)
                with m.If(self.request.valid & self.request.ready):
                    m.d.sync += position.eq(position + 1)
                    m.next = "Fetch"
                    with m.If(last_unit):
                        m.d.sync += position.eq(0)
                        m.next = "Answer"
            with m.State("Fetch"):
                # the buffer's next unit comes a cycle after its position
                m.next = "Write"
            with m.State("Refuse"):
                m.d.sync += [
                    header[16:24].eq(0),
                    header[8:16].eq(Operation.WRITE),
                    lane.eq(0),
                    position.eq(0),
                ]
                m.next = "Answer"
            with m.State("Answer"):
                m.d.comb += [self.sent.valid.eq(1), self.sent.payload.eq(ANSWER), crc_out.start.eq(1)]
                with m.If(self.sent.ready):
                    m.d.sync += position.eq(0)
                    m.next = "Answer header"
            with m.State("Answer header"):
                fields = Cat(sequence, state_byte, Mux(writes, 0, count))
                m.d.comb += [
                    summed.eq(fields.word_select(position[:2], BYTE_BITS)),
                    self.sent.valid.eq(1),
                    self.sent.payload.eq(summed),
                ]
                with m.If(self.sent.ready):
                    m.d.comb += crc_out.valid.eq(1)
                    m.d.sync += position.eq(position + 1)
                    with m.If(position == 2):
                        m.d.sync += [position.eq(0), lane.eq(0)]
                        m.next = "Ask"
                        with m.If(writes):
                            m.next = "Seal"
            with m.State("Ask"):
                m.d.comb += self.request.valid.eq(1)
                with m.If(self.request.ready):
                    m.next = "Await"
            with m.State("Await"):
                m.d.comb += self.response.ready.eq(1)
                with m.If(self.response.valid):
                    m.d.sync += word.eq(self.response.payload)
                    m.next = "Send unit"
            with m.State("Send unit"):
                m.d.comb += [self.sent.valid.eq(1), self.sent.payload.eq(summed)]
                with m.If(self.sent.ready):
                    m.d.comb += crc_out.valid.eq(1)
                    next_unit("Seal", "Ask")
            with m.State("Seal"):
                m.d.comb += [
                    self.sent.valid.eq(1),
                    self.sent.payload.eq(crc_out.crc.word_select(lane, BYTE_BITS)),
                ]
                with m.If(self.sent.ready):
                    m.d.sync += lane.eq(lane + 1)
                    with m.If(lane == CRC_BYTES - 1):
                        m.next = "Idle"
        m.d.comb += [
            read.addr.eq(position),
            self.request.payload.write.eq(writes),
            self.request.payload.addr.eq(target + position),
            self.request.payload.data.eq(read.data),
        ]
        return m
