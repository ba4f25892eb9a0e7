"""NATTEN's kernels: which GPU runs which backend, with which tile shapes, tiling and scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hwattn.sim.gna.data import load
from hwattn.sim.gna.gpus import Gpu
from hwattn.spec.errors import RefusedError

BACKENDS = ("blackwell-fna", "hopper-fna", "cutlass-fna", "flex-fna")
Tile = tuple[int, ...]
TilePair = tuple[Tile, Tile]


@dataclass(frozen=True)
class Backend:
    """One backend of NATTEN.

    Attributes
    ----------
    name : str
    tiling : {"static", "dynamic"}
    scheduler : {"persistent", "greedy"}
        Persistent: thread blocks deal Q tiles round-robin. Greedy: one Q tile per thread block, each
        goes to the first free SM.
    permutes : bool
        Tokens are permuted in memory before and after the kernel.
    native_gqa : bool
        Grouped queries without repeating keys and values.
    """

    name: str
    tiling: str
    scheduler: str
    permutes: bool
    native_gqa: bool

    def check(self, dtype: str, head_dim: int, backward: bool = False) -> None:
        """Refuse data types and head dimensions that the backend has no kernel for."""
        allowed, dims = _limits(self.name, backward)
        if dtype not in allowed:
            raise RefusedError(
                f"{dtype} with {self.name}", "one of " + ", ".join(allowed), "change the data type"
            )
        if self.name == "blackwell-fna":
            step = 16 if dtype == "fp8" else 8
            fits = head_dim <= 128 and head_dim % step == 0
        elif self.name == "hopper-fna":
            fits = head_dim in ((32, 64, 128) if backward else (32, 64, 128, 256))
        elif self.name == "cutlass-fna":
            fits = head_dim % 8 == 0
        else:
            fits = 8 <= head_dim <= 512 and head_dim & (head_dim - 1) == 0
        if head_dim < 1 or not fits:
            raise RefusedError(
                f"head_dim {head_dim} with {self.name}", dims, "change head_dim or the backend"
            )


def _limits(name: str, backward: bool) -> tuple[tuple[str, ...], str]:
    if name == "blackwell-fna":
        dtypes = ("fp16", "bf16") if backward else ("fp16", "bf16", "fp8")
        return dtypes, "a multiple of 8 (16 for fp8) up to 128"
    if name == "hopper-fna":
        return ("fp16", "bf16"), "32, 64 or 128" + ("" if backward else " or 256")
    if name == "cutlass-fna":
        return ("fp16", "bf16", "fp32"), "a multiple of 8"
    return ("fp16", "bf16", "fp32"), "a power of two from 8 to 512"


_KNOWN = {
    "blackwell-fna": Backend("blackwell-fna", "static", "persistent", True, True),
    "hopper-fna": Backend("hopper-fna", "static", "greedy", True, False),
    "cutlass-fna": Backend("cutlass-fna", "dynamic", "greedy", False, False),
    "flex-fna": Backend("flex-fna", "static", "greedy", True, True),
}


def backends_of(gpu: Gpu) -> tuple[str, ...]:
    """Backends that run on a GPU, in the order in which NATTEN chooses."""
    runs = {
        "blackwell-fna": gpu.cc in (100, 103),
        "hopper-fna": gpu.cc == 90,
        "cutlass-fna": gpu.cc >= 60,
        "flex-fna": gpu.cc >= 70,
    }
    return tuple(name for name in BACKENDS if runs[name])


def get_backend(gpu: Gpu, backend: str | None) -> Backend:
    """A backend by name, or the first that NATTEN would choose on this GPU."""
    available = backends_of(gpu)
    if backend is None:
        if not available:
            raise RefusedError(f"compute capability {gpu.cc}", "60 or more", "choose a newer GPU")
        return _KNOWN[available[0]]
    if backend not in BACKENDS:
        raise RefusedError(f"backend {backend!r}", "one of " + ", ".join(BACKENDS), "correct the backend")
    if backend not in available:
        raise RefusedError(
            f"{backend} on {gpu.name}", "one of " + ", ".join(available), "choose another backend"
        )
    return _KNOWN[backend]


def _pair(entry: Any) -> TilePair:
    if isinstance(entry, dict):
        return tuple(entry["q"]), tuple(entry["kv"])
    return tuple(entry[0]), tuple(entry[1])


@lru_cache(maxsize=256)
def tile_pairs(
    backend: str, rank: int, cc: int, head_dim: int = 128, dtype: str = "fp16", backward: bool = False
) -> tuple[TilePair, ...]:
    """Every (Q tile, KV tile) of a backend, the default one first.

    Parameters
    ----------
    backend : str
    rank : int
        Axes of the layout.
    cc : int
        Compute capability times ten.
    head_dim : int
    dtype : str
    backward : bool

    Returns
    -------
    tuple of (q_tile, kv_tile)
        Without duplicates: Hopper's two schedules of one shape are one entry.
    """
    document = load("tile_configs.json")[backend.replace("-", "_")]
    if backward and "backward" not in document:
        raise RefusedError(
            f"backward tiles of {backend}", "a backend with tile shapes of its own", "drop --backward"
        )
    shapes = document["backward" if backward else "forward"]
    key = str(rank)
    if backend == "hopper-fna":
        entries = shapes[key][str(head_dim)]
    elif backend == "cutlass-fna":
        sizes = _cutlass_backward_sizes(cc, head_dim, dtype) if backward else _cutlass_forward_sizes(cc)
        entries = [entry for size in sizes for entry in shapes[size][key]]
    else:
        entries = shapes[key]
    pairs = [_pair(entry) for entry in entries]
    default = document.get("default") if backend == "cutlass-fna" else document.get("default_forward")
    if default and not backward:
        pairs.insert(0, _pair(default[key]))
    return tuple(dict.fromkeys(pairs))


def _cutlass_forward_sizes(cc: int) -> tuple[str, ...]:
    return ("64x64", "32x128") if cc in (86, 89) else ("64x64", "32x128", "64x128")


def _cutlass_backward_sizes(cc: int, head_dim: int, dtype: str) -> tuple[str, ...]:
    large = cc in (80, 90, 100, 103)
    if dtype == "fp32":
        return ("64x64", "128x64") if large else ("64x64",)
    if cc == 70 or (large and head_dim > 128):
        return ("64x64", "128x64")
    return ("64x64", "128x128") if large else ("64x64",)
