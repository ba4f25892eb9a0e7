"""The machine's clock from a board's oscillator: as it is, or through an ECP5's PLL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, Instance, Module, Signal
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer

from hwattn.spec.errors import RefusedError

VCO_MHZ = (400.0, 800.0)
"""Range of the PLL's oscillator (Lattice FPGA-DS-02012, sysCLOCK PLL timing)."""

PHASE_DETECTOR_MHZ = (10.0, 400.0)
"""Range of the phase detector, as Lattice's own tools allow it."""

DIVIDER_MAX = 128


@dataclass(frozen=True)
class Dividers:
    """Dividers of an EHXPLLL: output = input * feedback / reference; its oscillator runs at output * post MHz."""

    reference: int
    feedback: int
    post: int


def ecp5_dividers(input_mhz: float, output_mhz: float, ratio: int = 1) -> Dividers:
    """Return the dividers that make one clock from another.

    Parameters
    ----------
    input_mhz, output_mhz : float
    ratio : int
        A clock that is so many times as fast is made too: `post` is a multiple.

    Returns
    -------
    Dividers
        With the smallest reference divider that makes the output exactly, to one part in a million.

    Raises
    ------
    RefusedError
        There are none.
    """
    for reference in range(1, DIVIDER_MAX + 1):
        if not PHASE_DETECTOR_MHZ[0] <= input_mhz / reference <= PHASE_DETECTOR_MHZ[1]:
            continue
        feedback = round(output_mhz * reference / input_mhz)
        exact = abs(feedback * input_mhz / reference - output_mhz) <= 1e-6 * output_mhz
        post = ratio * round((VCO_MHZ[0] + VCO_MHZ[1]) / 2 / output_mhz / ratio)
        within = VCO_MHZ[0] <= output_mhz * post <= VCO_MHZ[1]
        if exact and within and 1 <= feedback <= DIVIDER_MAX and 1 <= post <= DIVIDER_MAX:
            return Dividers(reference, feedback, post)
    raise RefusedError(
        f"a clock of {output_mhz:g} MHz from an oscillator of {input_mhz:g} MHz",
        "one that the PLL can make exactly",
        "take another --clock, such as a multiple of the oscillator's",
    )


def add_clock(
    m: Module, platform: Any, oscillator_mhz: float, clock_mhz: float, fast: tuple[str, int] | None = None
) -> None:
    """Add the domain ``sync`` to a board's top level; it is held in reset until the PLL has locked.

    Where the machine runs at the oscillator's clock and `fast` is None, Amaranth's platform makes the domain.

    Parameters
    ----------
    m : Module
    platform : Platform
    oscillator_mhz, clock_mhz : float
    fast : (str, int), optional
        Name of another domain and how many times as fast it is; its cycles begin where those of ``sync`` do.

    Raises
    ------
    RefusedError
        The PLL cannot make the clock, or the family's PLL is not known here.
    """
    if clock_mhz == oscillator_mhz and fast is None:
        return
    if not getattr(platform, "device", "").startswith("LFE5U"):
        raise RefusedError(
            f"a clock of {clock_mhz:g} MHz",
            f"the board's oscillator of {oscillator_mhz:g} MHz: only the PLL of ECP5 is supported",
            "leave --clock out",
        )
    name, ratio = fast or ("", 1)
    dividers = ecp5_dividers(oscillator_mhz, clock_mhz, ratio)
    second: dict[str, Any] = {"p_CLKOS_ENABLE": "DISABLED"}
    if fast:
        fast_clock = Signal(name=f"pll_{name}")
        m.domains += ClockDomain(name, reset_less=True)
        m.d.comb += ClockSignal(name).eq(fast_clock)
        second = {
            "p_CLKOS_ENABLE": "ENABLED",
            "p_CLKOS_DIV": dividers.post // ratio,
            "p_CLKOS_CPHASE": dividers.post // ratio - 1,
            "p_CLKOS_FPHASE": 0,
            "o_CLKOS": fast_clock,
        }
        platform.add_clock_constraint(fast_clock, ratio * clock_mhz * 1e6)
    m.submodules.oscillator = oscillator = io.Buffer("i", platform.request(platform.default_clk, dir="-"))
    clock, locked = Signal(name="pll_clock"), Signal(name="pll_locked")
    m.domains.sync = ClockDomain("sync")
    m.d.comb += ClockSignal("sync").eq(clock)
    m.submodules.pll = Instance(
        "EHXPLLL",
        a_FREQUENCY_PIN_CLKI=f"{oscillator_mhz:g}",
        a_FREQUENCY_PIN_CLKOP=f"{clock_mhz:g}",
        # loop filter as Lattice's tools set it for these clocks
        a_ICP_CURRENT="12",
        a_LPF_RESISTOR="8",
        a_MFG_ENABLE_FILTEROPAMP="1",
        a_MFG_GMCREF_SEL="2",
        p_PLLRST_ENA="DISABLED",
        p_INTFB_WAKE="DISABLED",
        p_STDBY_ENABLE="DISABLED",
        p_DPHASE_SOURCE="DISABLED",
        p_OUTDIVIDER_MUXA="DIVA",
        p_CLKOP_ENABLE="ENABLED",
        p_CLKOP_DIV=dividers.post,
        p_CLKOP_CPHASE=dividers.post - 1,
        p_CLKOP_FPHASE=0,
        p_CLKI_DIV=dividers.reference,
        p_CLKFB_DIV=dividers.feedback,
        p_FEEDBK_PATH="CLKOP",
        i_CLKI=oscillator.i,
        i_CLKFB=clock,
        i_RST=0,
        i_STDBY=0,
        i_PHASESEL0=0,
        i_PHASESEL1=0,
        i_PHASEDIR=1,
        i_PHASESTEP=1,
        i_PHASELOADREG=1,
        i_PLLWAKESYNC=0,
        i_ENCLKOP=0,
        o_CLKOP=clock,
        o_LOCK=locked,
        **second,
    )
    m.submodules.reset = ResetSynchronizer(~locked, domain="sync")
    platform.add_clock_constraint(clock, clock_mhz * 1e6)
