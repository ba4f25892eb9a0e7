"""Tile times of any backend on any GPU: calibrated, scaled from a sibling, or a labelled estimate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from hwattn.sim.gna.axis import IntArray
from hwattn.sim.gna.backends import Backend
from hwattn.sim.gna.calibration import FILL_TILES, REFERENCE_HEAD_DIM, calibrate
from hwattn.sim.gna.data import load
from hwattn.sim.gna.gpus import Gpu, get_gpu
from hwattn.sim.gna.schedule import makespan

EXPONENTIALS_PER_CLOCK = 16
"""Of one SM, both Hopper and Blackwell (CUDA programming guide, arithmetic throughput)."""

DTYPE_BYTES = {"fp16": 2, "bf16": 2, "fp8": 1, "fp32": 4}
LAUNCH_US = 10.0
"""Fixed time of a kernel where there is no calibration; both calibrated GPUs come out near it."""

_CALIBRATED_BACKEND = {"B200": "blackwell-fna", "H100": "hopper-fna"}


@dataclass(frozen=True)
class Range:
    """A time with its lowest and highest plausible value, all in one unit."""

    value: float
    low: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.value + other.value, self.low + other.low, self.high + other.high)

    def scaled(self, factor: float) -> Range:
        """All three times ``factor``."""
        return Range(self.value * factor, self.low * factor, self.high * factor)

    def at_least(self, floor: float) -> Range:
        """No time below ``floor``."""
        return Range(max(self.value, floor), max(self.low, floor), max(self.high, floor))


@dataclass(frozen=True)
class KernelModel:
    """What one kernel costs on one GPU.

    Attributes
    ----------
    sms : int
    scheduler : str
    launch_us : float
    tile_us : callable
        Duration of the kernel in ms to the time of one tile.
    low_us, high_us : float
        Range of the tile time.
    mask : Range
        Added to each tile, us; zero when the kernel does not mask.
    basis : str
        "calibrated", "scaled" or "roofline".
    notes : tuple of str
        What is uncertain.
    """

    sms: int
    scheduler: str
    launch_us: float
    tile_us: Callable[[float], float]
    low_us: float
    high_us: float
    mask: Range
    basis: str
    notes: tuple[str, ...]

    def busy_tiles(self, visits: IntArray, copies: int) -> int:
        """Tiles of the busiest SM, with the pipeline fill of each Q tile.

        Parameters
        ----------
        visits : ndarray of int64, shape (Q tiles,)
            Of one head and batch.
        copies : int
            Heads times batch.
        """
        return makespan(visits + FILL_TILES, self.sms, self.scheduler, copies)

    def busy_tiles_dense(self, q_tiles: int, visits: int) -> int:
        """The same when each of ``q_tiles`` Q tiles visits equally many KV tiles."""
        return -(-q_tiles // self.sms) * (visits + FILL_TILES)

    def time_ms(self, busy_tiles: float) -> Range:
        """Time of the kernel, ms, when its busiest SM works on that many tiles."""
        duration = 1.0
        for _ in range(12):
            tile = self.tile_us(duration) + self.mask.value
            duration = (self.launch_us + busy_tiles * tile) / 1e3
        low = self.launch_us + busy_tiles * (self.low_us + self.mask.low)
        high = self.launch_us + busy_tiles * (self.high_us + self.mask.high)
        return Range(duration, min(low / 1e3, duration), max(high / 1e3, duration))


def exponential_us(gpu: Gpu, rows: int, columns: int) -> float:
    """Time that one SM needs for the exponentials of a tile, us."""
    return rows * columns / EXPONENTIALS_PER_CLOCK / gpu.boost_mhz


def _calibrated(
    gpu: Gpu, backend: Backend, q_rows: int, kv_rows: int, head_dim: int, dtype: str, masked: bool
) -> KernelModel:
    source = gpu if gpu.calibrated_on else get_gpu(gpu.like or "")
    times = calibrate(source.calibrated_on or "")
    notes = []
    # of tiles of the same size, one SM's time scales with its peak
    speed = (source.fp16_tflops / source.sms) / (gpu.fp16_tflops / gpu.sms)
    if gpu is not source:
        notes.append(
            f"tile times of {source.name}, scaled by the peak per SM ({1 / speed:.2f} times as fast)"
        )
    area = q_rows * kv_rows / (times.q_rows * times.kv_rows)
    if area != 1.0:
        notes.append(f"tile time scaled by area: the calibration is of {times.q_rows}x{times.kv_rows} tiles")
    matmul = area * speed * head_dim / REFERENCE_HEAD_DIM
    if head_dim != REFERENCE_HEAD_DIM:
        notes.append(
            "head_dim other than 128: tile time scales with it, down to the time of the exponentials"
        )
    if dtype == "fp8":
        matmul /= load("gpus.json")["estimates"]["fp8_speedup"]["value"]
        notes.append("FP8: one published ratio of kernels, 1.7 to 1.2 PFLOP/s")
    floor = exponential_us(gpu, q_rows, kv_rows)
    mask = Range(times.mask_us, times.mask_low_us, times.mask_high_us).scaled(area * speed)
    return KernelModel(
        sms=gpu.sms,
        scheduler=backend.scheduler,
        launch_us=times.launch_us,
        tile_us=lambda duration: max(times.tile_us(duration) * matmul, floor),
        low_us=max(times.fastest_us * matmul, floor),
        high_us=max(times.slowest_us * matmul, floor),
        mask=mask if masked else Range(0.0, 0.0, 0.0),
        basis=gpu.basis,
        notes=tuple(notes),
    )


def dense_tflops(gpu: Gpu) -> float:
    """Forward attention that an uncalibrated GPU reaches in dense kernels, TFLOP/s."""
    share = float(load("gpus.json")["estimates"]["dense_share"]["value"])
    return gpu.dense_tflops if gpu.dense_tflops else share * gpu.fp16_tflops


def _estimated(
    gpu: Gpu, backend: Backend | None, q_rows: int, kv_rows: int, head_dim: int, dtype: str, masked: bool
) -> KernelModel:
    """A model from achieved figures elsewhere; its low end is the roofline."""
    estimates = load("gpus.json")["estimates"]
    if backend is None:
        rate, note = (
            dense_tflops(gpu),
            f"dense attention: {gpu.dense_source or estimates['dense_share']['source']}",
        )
    elif backend.name == "cutlass-fna":
        entry = estimates["cutlass_fna"]
        rate = gpu.fp16_tflops * entry["masked_tflops" if masked else "plain_tflops"] / entry["peak_tflops"]
        note = f"no calibration: share of peak as in {entry['source']}"
        # a Hopper or Blackwell GPU runs this Ampere kernel on the legacy matrix instructions
        rate = min(rate, 2 * entry["plain_tflops"])
    else:
        entry = estimates["flex_fna"]
        rate = dense_tflops(gpu) * entry["masked_share_of_dense" if masked else "share_of_dense"]
        note = f"no calibration: {entry['source']}"
    slower = 2.0 if dtype == "fp32" else 1.0
    flops = 4.0 * q_rows * kv_rows * head_dim
    tile_us = slower * flops / (rate / gpu.sms) / 1e6
    peak_us = slower * flops / (gpu.fp16_tflops / gpu.sms) / 1e6
    return KernelModel(
        sms=gpu.sms,
        scheduler="greedy",
        launch_us=LAUNCH_US,
        tile_us=lambda duration: tile_us,
        low_us=peak_us,
        high_us=1.5 * tile_us,
        mask=Range(0.0, 0.0, 0.0),
        basis="roofline",
        notes=(note, "low end: roofline floor (peak FLOP/s); high end: 1.5 times the estimate"),
    )


def kernel_model(
    gpu: Gpu,
    backend: Backend,
    q_tile: tuple[int, ...],
    kv_tile: tuple[int, ...],
    head_dim: int,
    dtype: str,
    masked: bool,
) -> KernelModel:
    """Model of a neighborhood attention kernel."""
    source = gpu if gpu.calibrated_on else get_gpu(gpu.like) if gpu.like else None
    native = source is not None and _CALIBRATED_BACKEND.get(source.calibrated_on or "") == backend.name
    make = _calibrated if native else _estimated
    return make(gpu, backend, prod(q_tile), prod(kv_tile), head_dim, dtype, masked)


def dense_model(gpu: Gpu, head_dim: int, dtype: str) -> tuple[KernelModel, int, int]:
    """Model of dense attention (cuDNN, or the best known), and its Q and KV rows per tile."""
    source = gpu if gpu.calibrated_on else get_gpu(gpu.like) if gpu.like else None
    if source is None:
        return _estimated(gpu, None, 128, 128, head_dim, dtype, False), 128, 128
    times = calibrate(source.calibrated_on or "")
    scheduler = "persistent" if times.q_rows == 256 else "greedy"
    backend = Backend("dense", "static", scheduler, False, True)
    return (
        _calibrated(gpu, backend, times.q_rows, times.kv_rows, head_dim, dtype, False),
        times.q_rows,
        times.kv_rows,
    )
