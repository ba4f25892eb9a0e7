"""What quantization may be told to do otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from hwattn.spec.errors import RefusedError

CALIBRATORS = ("mean-square", "min-max", "percentile", "entropy")
"""Ways to choose the range of an activation, the default first."""


@dataclass(frozen=True)
class Settings:
    """Switches of `quantize`.

    Parameters
    ----------
    calibrator : str
        One of `CALIBRATORS`.
    percentile : float
        Share of magnitudes, in percent, inside the range of the percentile calibrator.
    migration : bool
        Move scales between LayerNorm, queries, keys, values and weights, and centre keys.
    bias_correction : bool
        Move the mean of all rounding errors into the bias.
    spread_rounding : bool
        Round weights against the covariance of their inputs (GPTQ); else to the nearest.
    per_head : bool
        One scale for each head of queries, keys and values; else one for all.
    precision : tuple of (str, int)
        Bits (8 or 16) of layers by name or pattern; see ``precision.named_bits``.
    budget : float
        Second passes that may be spent on 16 bits, in percent of the multiply-accumulates.
    """

    calibrator: str = CALIBRATORS[0]
    percentile: float = 99.99
    migration: bool = True
    bias_correction: bool = True
    spread_rounding: bool = True
    per_head: bool = True
    precision: tuple[tuple[str, int], ...] = ()
    budget: float = 0.0

    def __post_init__(self) -> None:
        if self.calibrator not in CALIBRATORS:
            raise RefusedError(
                f"the calibrator {self.calibrator}",
                f"one of {', '.join(CALIBRATORS)}",
                "correct --calibrator",
            )
        if not 50 < self.percentile <= 100:
            raise RefusedError(
                f"a percentile of {self.percentile}", "more than 50, at most 100", "correct --percentile"
            )
        if not 0 <= self.budget <= 100:
            raise RefusedError(f"a budget of {self.budget} %", "0 to 100", "correct --budget")


DEFAULTS = Settings()
