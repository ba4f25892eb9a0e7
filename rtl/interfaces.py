"""Signatures between the units of the machine, from the point of view of the client (who asks)."""

from __future__ import annotations

from amaranth.hdl import signed
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out, Signature

from hwattn.rtl.commands import EXPERT_BITS
from hwattn.spec.config import AcceleratorConfig

WORD_ADDRESS_BITS = 20
ACCUMULATOR_BITS = 32
ACCUMULATOR_ADDRESS_BITS = 14
SLOT_BITS = 3
STATE_BITS = 2
SUM_BITS = 32
GROWTH_BITS = 5
TOKEN_BITS = 16
GATE_BITS = 16
PARAM_ADDRESS_BITS = 18
BIAS_BITS = 32
MULTIPLIER_BITS = 16
SHIFT_BITS = 6
NORM_PARAM_BITS = 48
TABLE_ADDRESS_BITS = 9
TABLE_VALUE_BITS = 20
TABLE_DIFFERENCE_BITS = 16


def read_port(config: AcceleratorConfig) -> Signature:
    """Return a port that reads words of `lanes` bytes.

    Members are `request` (a stream of word addresses), `data` and `valid`. The word comes exactly one cycle after the request's
    handshake, with `valid`, and cannot be refused.
    """
    return Signature(
        {
            "request": Out(stream.Signature(WORD_ADDRESS_BITS)),
            "data": In(8 * config.lanes),
            "valid": In(1),
        }
    )


def write_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Return a masked write: word address `addr`, `data`, and one bit of `mask` for each byte."""
    return data.StructLayout({"addr": WORD_ADDRESS_BITS, "data": 8 * config.lanes, "mask": config.lanes})


def write_port(config: AcceleratorConfig) -> Signature:
    """Return a stream of masked writes."""
    return stream.Signature(write_layout(config))


def resident_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Return a write of word `word` of resident row `row` of slot `slot`."""
    return data.StructLayout(
        {
            "slot": SLOT_BITS,
            "row": range(config.rows),
            "word": range(config.row_words),
            "data": 8 * config.lanes,
        }
    )


def resident_port(config: AcceleratorConfig) -> Signature:
    """Return a stream of writes into resident rows."""
    return stream.Signature(resident_layout(config))


def accumulator_port(config: AcceleratorConfig) -> Signature:
    """Return a port that reads accumulator columns.

    `addr` is a column (bank = ``addr // acc_columns``); `data`, one signed value per row, comes one cycle after `enable`.
    The tokens of the program guarantee that a bank has one user at a time.
    """
    return Signature(
        {
            "enable": Out(1),
            "addr": Out(ACCUMULATOR_ADDRESS_BITS),
            "data": In(data.ArrayLayout(signed(ACCUMULATOR_BITS), config.rows)),
        }
    )


def growth_port(config: AcceleratorConfig) -> Signature:
    """Return the combinational look-up of the growth of every row's maximum in softmax state `state`."""
    return Signature({"state": Out(STATE_BITS), "growth": In(data.ArrayLayout(GROWTH_BITS, config.rows))})


def sum_port(config: AcceleratorConfig) -> Signature:
    """Return the combinational look-up of the sum of row `row` in softmax state `state`."""
    return Signature({"state": Out(STATE_BITS), "row": Out(range(config.rows)), "total": In(SUM_BITS)})


def lookup_port() -> Signature:
    """Return the combinational look-up of entry `meta` of the metaqueue: `present`, the `expert`, and the `count` of its tokens."""
    return Signature(
        {"meta": Out(EXPERT_BITS), "present": In(1), "expert": In(EXPERT_BITS), "count": In(TOKEN_BITS)}
    )


def entry_port() -> Signature:
    """Return the read of entry `index` of an expert's queue: `token` and `gate` come one cycle after the address."""
    return Signature(
        {
            "expert": Out(EXPERT_BITS),
            "index": Out(TOKEN_BITS),
            "token": In(TOKEN_BITS),
            "gate": In(GATE_BITS),
        }
    )


def norm_param_port() -> Signature:
    """Return the read of one 48-bit entry of the norm memory; `data` comes one cycle after `addr`."""
    return Signature({"addr": Out(PARAM_ADDRESS_BITS), "data": In(NORM_PARAM_BITS)})


def param_layout() -> data.StructLayout:
    """Return an entry of the parameter memory: requantization of one output channel."""
    return data.StructLayout({"bias": signed(BIAS_BITS), "multiplier": MULTIPLIER_BITS, "shift": SHIFT_BITS})


def table_layout() -> data.StructLayout:
    """Return an entry of the activation table: delta at the left knot, and the difference to the right one."""
    return data.StructLayout({"value": signed(TABLE_VALUE_BITS), "difference": signed(TABLE_DIFFERENCE_BITS)})


def entry_write(address_bits: int, layout: data.StructLayout | int) -> Signature:
    """Return the host's stream of writes `addr`, `data` into a unit's own memory; a unit is always ready for it."""
    return stream.Signature(data.StructLayout({"addr": address_bits, "data": layout}))
