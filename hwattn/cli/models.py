"""The model argument that several verbs share: an .hwq or .onnx file, or the name of a workload."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hwattn.quant
import hwattn.spec
from hwattn.cli.arguments import check_images, load_arrays
from hwattn.models import Workload, built_workloads, bundled_workloads, find_workload
from hwattn.quant.host import HostRunner
from hwattn.quant.importer import graph_and_scales
from hwattn.quant.onnx_file import is_quantized
from hwattn.quant.quantizer import quantize
from hwattn.spec.cache import cache_folder, digest, made_once
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Graph
from hwattn.spec.hwq import load_model, save_model
from hwattn.spec.quantized import QuantizedModel

CALIBRATION_PREFIX = "calib_"
"""Prefix of the arrays of the calibration set in a workload's ``data.npz``."""

DEFAULT_PRESET = "digits"
"""Preset of the accelerator for models that belong to no workload."""


@dataclass(frozen=True)
class ResolvedModel:
    """What a model argument stands for.

    Parameters
    ----------
    model : QuantizedModel
    onnx : Path or None
        The float model it was quantized from, where it is known.
    workload : Workload or None
        The workload it belongs to.
    """

    model: QuantizedModel
    onnx: Path | None
    workload: Workload | None

    @property
    def preset(self) -> str:
        """Preset of the accelerator to use by default."""
        return self.workload.config if self.workload else DEFAULT_PRESET

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, in the order of the tasks."""
        return [output.name for output in self.model.outputs]


@dataclass(frozen=True)
class FloatModel:
    """A float model to quantize: its file, its name, and the workload it belongs to."""

    onnx: Path
    name: str
    workload: Workload | None


def resolve_model(argument: str, calibration: Path | None = None) -> ResolvedModel:
    """Find the quantized model that an argument names, quantizing it first where need be.

    Parameters
    ----------
    argument : str
        An ``.hwq`` file; an ``.onnx`` file, quantized with `calibration`; or a workload, quantized with its own
        calibration set. What was quantized is kept in the user's cache.
    calibration : Path, optional
        ``.npz`` with the images to calibrate with.

    Raises
    ------
    RefusedError
        There is no such model, it cannot be read or quantized, or there is nothing to calibrate it with.
    """
    path = Path(argument)
    if path.suffix == ".hwq":
        model = load_model(path)
        found = _float_of(model, path)
        return ResolvedModel(model, found.onnx if found else None, found.workload if found else None)
    source = float_model(argument)
    arrays = calibration_arrays(source, calibration)
    key = digest(file_digest(source.onnx), source.name, _arrays_digest(arrays), _quantizer_version())
    folder = made_once(
        cache_folder() / "quantized" / key,
        lambda scratch: save_model(_quantize(source, arrays), scratch / "model.hwq"),
    )
    return ResolvedModel(load_model(folder / "model.hwq"), source.onnx, source.workload)


def float_model(argument: str) -> FloatModel:
    """Find the float model that an argument names: an ``.onnx`` file or a workload.

    Raises
    ------
    RefusedError
        There is no such file or workload.
    """
    path = Path(argument)
    if path.suffix in (".onnx", ".hwq") or path.is_file():
        if not path.is_file():
            raise RefusedError(f"no file {path}", "a model: .onnx or .hwq", "correct the path")
        if path.suffix == ".hwq":
            raise RefusedError(
                f"{path} is quantized already", "a float model (.onnx)", "give the ONNX file it was made from"
            )
        workload = _workload_of(file_digest(path))
        return FloatModel(path, workload.name if workload else path.stem, workload)
    workload = find_workload(argument)
    return FloatModel(workload.model, workload.name, workload)


def calibration_arrays(source: FloatModel, calibration: Path | None) -> dict[str, NDArray[Any]]:
    """Arrays to calibrate with: those of a file, else the workload's own; none for a quantized file, which holds scales.

    Raises
    ------
    RefusedError
        There is neither, or the file cannot be read.
    """
    if calibration is None:
        if source.workload is None and is_quantized(source.onnx):
            return {}
        if source.workload is None:
            raise RefusedError(
                f"{source.onnx} without images to calibrate with",
                "an .npz with an array named like the image input",
                "add --calibration X.npz",
            )
        return source.workload.calibration_set()
    arrays = load_arrays(calibration)
    return arrays if isinstance(arrays, dict) else {"": arrays}


def named_arrays(model: Graph | QuantizedModel, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays that a model reads, under the names of its inputs.

    Raises
    ------
    RefusedError
        One is missing, both as itself and with ``calib_`` before its name.
    """
    found = {}
    for name in HostRunner(model).inputs:
        key = next((key for key in (name, CALIBRATION_PREFIX + name, "") if key in arrays), None)
        if key is None:
            raise RefusedError(
                f"a calibration set of the arrays {', '.join(sorted(arrays)) or '(none)'}",
                f"one named {name} or {CALIBRATION_PREFIX}{name}",
                f"save the images as numpy.savez(..., {name}=images)",
            )
        found[name] = arrays[key]
    return found


def calibration_images(model: Graph | QuantizedModel, arrays: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return the images among the arrays of a calibration file, checked; tokens where the host makes them.

    Raises
    ------
    RefusedError
        No array is named as the image input (or ``calib_`` and that name), or it has another type or shape.
    """
    found = named_arrays(model, arrays)
    if model.front is None:
        where = f"{model.image} of the calibration set"
        found[model.image] = check_images(found[model.image], where, model.image_shape)
    return HostRunner(model).images(found)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _quantize(source: FloatModel, arrays: dict[str, NDArray[Any]]) -> QuantizedModel:
    graph, given = graph_and_scales(source.onnx)
    images = calibration_images(graph, arrays) if arrays else None
    return quantize(graph, images, source.name, file_digest(source.onnx), given=given).model


def _workload_of(onnx_digest: str) -> Workload | None:
    """The workload whose model has this digest."""
    for name in (*bundled_workloads(), *built_workloads()):
        workload = find_workload(name)
        if workload.model.is_file() and file_digest(workload.model) == onnx_digest:
            return workload
    return None


def _float_of(model: QuantizedModel, path: Path) -> FloatModel | None:
    """The ONNX file that a quantized model was made from: a workload's, or one beside it of the same name."""
    workload = _workload_of(model.source)
    if workload:
        return FloatModel(workload.model, model.name, workload)
    beside = path.with_suffix(".onnx")
    if beside.is_file() and file_digest(beside) == model.source:
        return FloatModel(beside, model.name, None)
    return None


def _arrays_digest(arrays: dict[str, NDArray[Any]]) -> str:
    state = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name} {array.dtype} {array.shape} ".encode())
        state.update(array.tobytes())
    return state.hexdigest()


def _quantizer_version() -> str:
    """Digest of the sources that decide what quantization makes of a file."""
    parts = []
    for package in (hwattn.quant, hwattn.spec):
        for source in sorted(Path(package.__path__[0]).rglob("*.py")):
            parts.append(f"{source.name} {file_digest(source)}")
    return digest(*parts, np.__version__)
