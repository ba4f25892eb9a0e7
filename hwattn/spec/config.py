"""AcceleratorConfig: every free parameter of the machine, with presets."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from hwattn.spec.errors import RefusedError
from hwattn.spec.external import ExternalMemory
from hwattn.spec.isa import EXTERNAL_ADDRESS_BITS, INSTRUCTION_BITS, PC_BITS

PROGRAM_BURST = 16
"""Most instructions that are read from external memory at once."""

INSTRUCTION_BYTES = INSTRUCTION_BITS // 8


@dataclass(frozen=True)
class AcceleratorConfig:
    """Parameters of one machine. All counts are positive; memory sizes are in the memory's own words.

    Parameters
    ----------
    rows : int
        P, resident rows of the matrix unit; any integer from 1 to 128.
    lanes : int
        L, bytes per memory word and multipliers per row; a power of two from 4 to 64.
    post_lanes : int
        E, elements per cycle of post-processing, 1 to rows.
    softmax_lanes : int
        Ec, scores per cycle of the softmax unit, 1 to rows.
    norm_lanes : int
        Elements per cycle of LayerNorm; a power of two, at most `lanes`.
    act_banks : int
        Banks of the activation memory; a power of two.
    act_words : int
        Words of `lanes` bytes in each activation bank; a power of two.
    weight_words : int
        Words of `lanes` bytes of weight memory: all weights, or with external memory the buffer through which they pass.
    param_words : int
        Entries of the parameter memory (bias, multiplier and shift of one output channel).
    norm_words : int
        Entries of the LayerNorm parameter memory (gamma and beta of one feature).
    program_words : int
        Instructions of program memory; with `program_streamed` those that are read ahead.
    acc_banks : int
        Accumulator banks, 2 or 4; with 4, post-processing and softmax work on some while the matrix unit fills others.
    acc_columns : int
        Columns (rows x 32 bits) of each accumulator bank; a power of two.
    row_words : int
        Words in one slot of a resident row.
    row_slots : int
        Resident tiles held at once (double buffering needs 2, attention uses 4).
    experts : int
        Largest number of experts of a mixture; 0 for a machine without a router, for models without mixtures.
    tokens : int
        Largest number of tokens in one expert's queue.
    queue_depth : int
        Instructions waiting in front of each unit; with 1, the next one comes after the unit has taken it.
    external_words : int
        Words of `lanes` bytes of external memory behind an AXI4 port, for weights and for activations that do not fit; 0 for a machine
        without such a port.
    program_streamed : int
        1 for a machine whose program lies in external memory, from its first word on, and is read while it runs.
    """

    rows: int = 4
    lanes: int = 8
    post_lanes: int = 1
    softmax_lanes: int = 2
    norm_lanes: int = 2
    act_banks: int = 4
    act_words: int = 512
    weight_words: int = 16384
    param_words: int = 4096
    norm_words: int = 1024
    program_words: int = 2048
    acc_banks: int = 2
    acc_columns: int = 128
    row_words: int = 16
    row_slots: int = 4
    experts: int = 8
    tokens: int = 32
    queue_depth: int = 4
    external_words: int = 0
    program_streamed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in _MAY_BE_ZERO else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise RefusedError(
                    f"{field.name}={value!r}",
                    f"an integer of {least} or more",
                    f"set {field.name} to {least} or more",
                )
        self._check("rows", self.rows <= 128, "1 to 128")
        self._check(
            "lanes", _power_of_two(self.lanes) and 4 <= self.lanes <= 64, "a power of two from 4 to 64"
        )
        for name in ("post_lanes", "softmax_lanes"):
            self._check(name, getattr(self, name) <= self.rows, f"1 to rows={self.rows}")
        self._check(
            "norm_lanes",
            _power_of_two(self.norm_lanes) and self.norm_lanes <= self.lanes,
            f"a power of two up to lanes={self.lanes}",
        )
        for name in ("act_banks", "act_words", "acc_columns"):
            self._check(name, _power_of_two(getattr(self, name)), "a power of two")
        self._check("acc_banks", self.acc_banks in (2, 4), "2 or 4")
        self._check("external_words", self.external_words <= 1 << EXTERNAL_ADDRESS_BITS, "at most 2**30")
        self._check("program_streamed", self.program_streamed <= 1, "0 or 1")
        if self.program_streamed:
            self._check("external_words", self.external_words > 0, "more than 0 to stream the program from")
            self._check("program_words", self.program_words >= 4, "4 or more to read ahead")
        self._check("row_slots", 2 <= self.row_slots <= 8, "2 to 8")
        self._check("experts", self.experts <= 255, "0 to 255")
        self._check("tokens", self.tokens <= 65535, "1 to 65535")

    def _check(self, name: str, good: bool, expected: str) -> None:
        if not good:
            raise RefusedError(
                f"{name}={getattr(self, name)}", f"{name} of {expected}", f"change it with --set {name}=VALUE"
            )

    @property
    def multipliers(self) -> int:
        """int8 multipliers of the matrix unit."""
        return self.rows * self.lanes

    @property
    def act_total_words(self) -> int:
        """Words of the whole activation memory; bank b holds words b * act_words and up."""
        return self.act_banks * self.act_words

    @property
    def program_burst(self) -> int:
        """Instructions that are read from external memory at once: a power of two, whole words, half of what is read ahead at most."""
        return 1 << min(PROGRAM_BURST, self.program_words // 2).bit_length() - 1

    @property
    def program_capacity(self) -> int:
        """Instructions that a program may have."""
        if not self.program_streamed:
            return self.program_words
        held = self.external_words * self.lanes // INSTRUCTION_BYTES
        return min(1 << PC_BITS, held // self.program_burst * self.program_burst)

    def replace(self, **changes: Any) -> AcceleratorConfig:
        """Return a copy with some fields changed, validated again."""
        names = {field.name for field in dataclasses.fields(self)}
        for name in changes:
            if name not in names:
                raise RefusedError(f"the field {name}", f"one of {', '.join(sorted(names))}", "correct --set")
        return dataclasses.replace(self, **changes)

    def as_dict(self) -> dict[str, int]:
        """Return the fields in order of declaration."""
        return dataclasses.asdict(self)

    @property
    def hash(self) -> int:
        """32-bit identification of this configuration, held in a register of the machine."""
        text = json.dumps(self.as_dict(), sort_keys=True).encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:4], "little")


_MAY_BE_ZERO = ("experts", "external_words", "program_streamed")
"""Fields that leave a part of the machine out when they are 0."""

_MEMORY_TABLE = "external_memory"
"""Table of a preset with the fields of its `ExternalMemory`."""


def _power_of_two(value: int) -> bool:
    return value & (value - 1) == 0


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    folder = resources.files("hwattn.spec") / "presets"
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def load_preset(name: str) -> AcceleratorConfig:
    """Read the machine of the preset `name`.

    Raises
    ------
    RefusedError
        If there is no such preset.
    """
    fields = _preset(name)
    fields.pop(_MEMORY_TABLE, None)
    return AcceleratorConfig().replace(**fields)


def preset_memory(name: str) -> ExternalMemory:
    """Read how fast the external memory of the preset `name` is.

    Raises
    ------
    RefusedError
        If there is no such preset.
    """
    return ExternalMemory(**_preset(name).get(_MEMORY_TABLE, {}))


def _preset(name: str) -> dict[str, Any]:
    if name not in preset_names():
        raise RefusedError(
            f"no preset named {name}", f"one of {', '.join(preset_names())}", "name a preset after --config"
        )
    return tomllib.loads((resources.files("hwattn.spec") / "presets" / f"{name}.toml").read_text())
