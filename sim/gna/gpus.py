"""The GPUs that kernels are projected onto: peaks, bandwidths and what is known of their attention kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from hwattn.sim.gna.data import load
from hwattn.spec.errors import RefusedError

_LIKE = ("b200", "h100")
_NUMBERS = (
    "cc", "sms", "fp16_tflops", "hbm_gbs", "boost_mhz", "dense_tflops", "link_gbs", "fp8_tflops", "l2_mb"
)  # fmt: skip


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Parameters
    ----------
    key, name : str
        What the user types, and the full name.
    cc : int
        Compute capability times ten (90 for H100).
    sms : int
        Streaming multiprocessors.
    fp16_tflops : float
        Dense tensor peak with FP32 accumulation, TFLOP/s.
    hbm_gbs : float
        Memory bandwidth, GB/s.
    boost_mhz : float
        Boost clock.
    calibrated_on : str or None
        Name of the GPU in ``calibration.json`` whose rows were measured on this one.
    like : str or None
        Key of a calibrated GPU of the same architecture, whose tile times are scaled by the peaks.
    copy_gbs : tuple of float or None
        Least and greatest achieved bandwidth of the token permutation, GB/s.
    dense_tflops : float or None
        Achieved forward attention where there is no calibration.
    link_gbs : float or None
        Interconnect to the next GPU, GB/s per direction.
    fp8_tflops, l2_mb : float or None
    confidence, source, copy_source, dense_source, link_source : str
        Where the figures come from, and how far they can be trusted.
    """

    key: str
    name: str
    cc: int
    sms: int
    fp16_tflops: float
    hbm_gbs: float
    boost_mhz: float
    calibrated_on: str | None = None
    like: str | None = None
    copy_gbs: tuple[float, float] | None = None
    dense_tflops: float | None = None
    link_gbs: float | None = None
    fp8_tflops: float | None = None
    l2_mb: float | None = None
    confidence: str = "user"
    source: str = "user"
    copy_source: str = ""
    dense_source: str = ""
    link_source: str = ""

    @property
    def basis(self) -> str:
        """How kernel times come about: "calibrated", "scaled" or "roofline"."""
        if self.calibrated_on:
            return "calibrated"
        return "scaled" if self.like else "roofline"


def make_gpu(description: Mapping[str, Any]) -> Gpu:
    """GPU from a description, such as a YAML file's, with the names of :class:`Gpu`.

    Raises
    ------
    RefusedError
        An unknown name, a missing one, or a figure that is not a positive number.
    """
    known = {field.name for field in fields(Gpu)} - {"calibrated_on"}
    for name in description:
        if name not in known:
            raise RefusedError(
                f"GPU field {name!r}", "one of " + ", ".join(sorted(known)), "correct the GPU description"
            )
    required = ("name", "cc", "sms", "fp16_tflops", "hbm_gbs", "boost_mhz")
    missing = [name for name in required if description.get(name) is None]
    if missing:
        raise RefusedError(
            f"a GPU without {', '.join(missing)}", "at least " + ", ".join(required), "add the figures"
        )
    values = {**description, "key": str(description.get("key", description["name"])).lower()}
    for name, value in values.items():
        if name in _NUMBERS and value is not None and not _is_positive(value, name in ("cc", "sms")):
            kind = "a positive whole number" if name in ("cc", "sms") else "a positive number"
            raise RefusedError(f"GPU {name} {value!r}", kind, "correct the GPU description")
        if name not in _NUMBERS and name != "copy_gbs" and value is not None:
            values[name] = str(value)
    if values.get("like") is not None and values["like"] not in _LIKE:
        raise RefusedError(
            f"GPU like {values['like']!r}", "one of " + ", ".join(_LIKE), "name a calibrated GPU"
        )
    if values.get("copy_gbs") is not None:
        values["copy_gbs"] = _copy_range(values["copy_gbs"])
    return Gpu(**values)


def _copy_range(value: Any) -> tuple[float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(_is_positive(v) for v in value):
        raise RefusedError(f"GPU copy_gbs {value!r}", "two positive numbers, least and greatest", "give both")
    return float(min(value)), float(max(value))


def _is_positive(value: Any, whole: bool = False) -> bool:
    kinds = (int,) if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 < value < float("inf")


@lru_cache(maxsize=1)
def _catalog() -> dict[str, Gpu]:
    found = {}
    for entry in load("gpus.json")["gpus"]:
        values = dict(entry)
        if values.get("copy_gbs"):
            values["copy_gbs"] = tuple(values["copy_gbs"])
        found[values["key"]] = Gpu(**values)
    return found


def gpu_names() -> tuple[str, ...]:
    """Keys of the known GPUs."""
    return tuple(entry["key"] for entry in load("gpus.json")["gpus"])


def get_gpu(gpu: str | Gpu) -> Gpu:
    """The GPU of a key; upper case, spaces and underscores do not matter. A :class:`Gpu` passes through."""
    if isinstance(gpu, Gpu):
        return gpu
    if not isinstance(gpu, str):
        raise RefusedError(f"GPU {gpu!r}", "the name of a GPU", "one of " + ", ".join(gpu_names()))
    key = gpu.lower().replace(" ", "").replace("_", "-")
    aliases = {"orin": "agx-orin", "jetson-agx-orin": "agx-orin", "4090": "rtx4090", "5090": "rtx5090"}
    key = aliases.get(key, key.replace("rtx-", "rtx"))
    try:
        return _catalog()[key]
    except KeyError:
        raise RefusedError(
            f"GPU {gpu!r}",
            "one of " + ", ".join(gpu_names()),
            "name a known GPU, or describe yours in a YAML file",
        ) from None
