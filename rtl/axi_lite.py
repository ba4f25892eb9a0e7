"""An AXI4-Lite slave in front of the machine's bus (Arm IHI 0022, chapter B1): registers mapped, memories through a window."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwattn.rtl.entries import UNIT_BITS
from hwattn.rtl.host import host_request, host_response
from hwattn.spec.registers import AXI_ADDRESS, AXI_BYTES, AXI_CSR_BYTES, AXI_DATA, Region, address

ADDRESS_BITS = AXI_BYTES.bit_length() - 1
STROBE_BITS = UNIT_BITS // 8
OKAY, SLAVE_ERROR = 0b00, 0b10


def axi_lite_ports(prefix: str) -> dict[str, In | Out]:
    """Return the ports of an AXI4-Lite slave of `AXI_BYTES` bytes, named as AXI names them (``s_axi_awaddr``)."""
    directions = {
        "awaddr": In(ADDRESS_BITS),
        "awprot": In(3),
        "awvalid": In(1),
        "awready": Out(1),
        "wdata": In(UNIT_BITS),
        "wstrb": In(STROBE_BITS),
        "wvalid": In(1),
        "wready": Out(1),
        "bresp": Out(2),
        "bvalid": Out(1),
        "bready": In(1),
        "araddr": In(ADDRESS_BITS),
        "arprot": In(3),
        "arvalid": In(1),
        "arready": Out(1),
        "rdata": Out(UNIT_BITS),
        "rresp": Out(2),
        "rvalid": Out(1),
        "rready": In(1),
    }
    return {f"{prefix}_{name}": direction for name, direction in directions.items()}


class AxiLite(wiring.Component):
    """Turns AXI4-Lite accesses into requests on the machine's bus, one after the other.

    Bytes 0 to `AXI_CSR_BYTES` - 1 are the registers; a write to `AXI_ADDRESS` sets the address of a unit, and each access to `AXI_DATA`
    reads or writes that unit and counts the address up. Anything else, and a write that is not of all four bytes, is answered with
    SLVERR and changes nothing.

    Members
    -------
    s_axi_* : AXI4-Lite slave, 32 bits of data
        No output depends on an input in the same cycle.
    request : Out(host_request()), response : In(host_response())
        The machine.

    Latency
    -------
    Three cycles and the machine's own for each access; reads and writes that come together take turns, so that neither starves.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                **axi_lite_ports("s_axi"),
                "request": Out(host_request()),
                "response": In(host_response()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        offset = Signal(ADDRESS_BITS)
        data = Signal(UNIT_BITS)
        strobe = Signal(STROBE_BITS)
        writing, whole = Signal(), Signal()
        unit = Signal(UNIT_BITS)
        is_register, is_address, is_data = Signal(), Signal(), Signal()
        word = Cat(Const(0, 2), offset[2:])
        m.d.comb += [
            is_register.eq(offset < AXI_CSR_BYTES),
            is_address.eq(word == AXI_ADDRESS),
            is_data.eq(word == AXI_DATA),
            whole.eq(strobe.all()),
            self.request.payload.write.eq(writing),
            self.request.payload.data.eq(data),
            self.request.payload.addr.eq(unit),
        ]
        with m.If(is_register):
            m.d.comb += self.request.payload.addr.eq(address(Region.CSR, 0) | offset[2:])

        def answer(response: int) -> None:
            """Go on to the answer of the access."""
            with m.If(writing):
                m.d.sync += [self.s_axi_bresp.eq(response), self.s_axi_bvalid.eq(1)]
            with m.Else():
                m.d.sync += [self.s_axi_rresp.eq(response), self.s_axi_rvalid.eq(1)]
            m.next = "Answer"

        with m.FSM():
            self._take(m, offset, data, strobe, writing)
            with m.State("Decode"):
                m.d.sync += self.s_axi_rdata.eq(0)
                with m.If(~whole | ~(is_register | is_address | is_data)):
                    answer(SLAVE_ERROR)
                with m.Elif(is_address):
                    m.d.sync += self.s_axi_rdata.eq(unit)
                    with m.If(writing):
                        m.d.sync += unit.eq(data)
                    answer(OKAY)
                with m.Else():
                    m.next = "Ask"
            with m.State("Ask"):
                m.d.comb += self.request.valid.eq(1)
                with m.If(self.request.ready):
                    with m.If(is_data):
                        m.d.sync += unit.eq(unit + 1)
                    with m.If(writing):
                        answer(OKAY)
                    with m.Else():
                        m.next = "Await"
            with m.State("Await"):
                m.d.comb += self.response.ready.eq(1)
                with m.If(self.response.valid):
                    m.d.sync += self.s_axi_rdata.eq(self.response.payload)
                    answer(OKAY)
            with m.State("Answer"):
                with m.If(self.s_axi_bvalid & self.s_axi_bready):
                    m.d.sync += self.s_axi_bvalid.eq(0)
                    m.next = "Idle"
                with m.If(self.s_axi_rvalid & self.s_axi_rready):
                    m.d.sync += self.s_axi_rvalid.eq(0)
                    m.next = "Idle"
        return m

    def _take(self, m: Module, offset: Signal, data: Signal, strobe: Signal, writing: Signal) -> None:
        """Add the states that take an access: a read's address, or a write's address and data together."""
        last_was_write = Signal()
        with m.State("Idle"):
            # a slave may wait for both valids of a write before it is ready for either; so half a write never holds up a read
            whole_write = self.s_axi_awvalid & self.s_axi_wvalid
            with m.If(self.s_axi_arvalid & (~whole_write | last_was_write)):
                m.d.sync += [self.s_axi_arready.eq(1), writing.eq(0), last_was_write.eq(0)]
                m.next = "Take"
            with m.Elif(whole_write):
                m.d.sync += [
                    self.s_axi_awready.eq(1),
                    self.s_axi_wready.eq(1),
                    writing.eq(1),
                    last_was_write.eq(1),
                ]
                m.next = "Take"
        with m.State("Take"):
            # valid stays until ready: everything is taken in this cycle
            m.d.sync += [
                self.s_axi_arready.eq(0),
                self.s_axi_awready.eq(0),
                self.s_axi_wready.eq(0),
                offset.eq(Mux(writing, self.s_axi_awaddr, self.s_axi_araddr)),
                data.eq(self.s_axi_wdata),
                strobe.eq(Mux(writing, self.s_axi_wstrb, ~0)),
            ]
            m.next = "Decode"
