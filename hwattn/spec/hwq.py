"""The ``.hwq`` file: a `QuantizedModel` as safetensors with a JSON header. No pickle, no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hwattn.spec.errors import RefusedError
from hwattn.spec.files import write_complete
from hwattn.spec.graph import Add, Output, Rows
from hwattn.spec.host import HostPart
from hwattn.spec.quantized import (
    QuantizedAttention,
    QuantizedExpert,
    QuantizedLayerNorm,
    QuantizedLinear,
    QuantizedMatrix,
    QuantizedMixture,
    QuantizedModel,
    QuantizedPatchEmbed,
)

FORMAT = "hwattn-quantized-model"
"""The one key of the safetensors metadata; its value is JSON with the version and the model."""

VERSION = 3
"""Version of the layout; a reader accepts its own version only."""

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        QuantizedPatchEmbed,
        QuantizedLayerNorm,
        QuantizedLinear,
        QuantizedAttention,
        QuantizedMixture,
        QuantizedExpert,
        QuantizedMatrix,
        QuantizedModel,
        Add,
        Rows,
        Output,
        HostPart,
    )
}
_ARRAYS: dict[tuple[str, str], tuple[str, int]] = {
    ("QuantizedMatrix", "weight"): ("int8", 2),
    ("QuantizedMatrix", "scale"): ("float64", 1),
    ("QuantizedMatrix", "bias"): ("int32", 1),
    ("QuantizedPatchEmbed", "weight"): ("int8", 4),
    ("QuantizedPatchEmbed", "scale"): ("float64", 1),
    ("QuantizedPatchEmbed", "init"): ("int16", 2),
    ("QuantizedLayerNorm", "gamma"): ("int16", 1),
    ("QuantizedLayerNorm", "beta"): ("int32", 1),
    ("QuantizedMixture", "gate_weight"): ("int16", 3),
    ("QuantizedMixture", "gate_bias"): ("int64", 2),
    ("HostPart", "onnx"): ("uint8", 1),
}
"""dtype and dimensions of every array field."""

_SCALAR_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "bool": (bool,),
    "int | None": (int, type(None)),
    "str | None": (str, type(None)),
}


def save_model(model: QuantizedModel, path: str | Path) -> None:
    """Write a model to a file, which appears only when it is complete.

    Parameters
    ----------
    model : QuantizedModel
    path : str or Path
        Replaced if it exists.

    Raises
    ------
    RefusedError
        If the file cannot be written.
    """
    target = Path(path)
    tensors: dict[str, NDArray[Any]] = {}
    content = _encode(model, "model", tensors)
    header = {"version": VERSION, "sha256": _digest(content, tensors), "model": content}
    write_complete(target, save(tensors, {FORMAT: json.dumps(header)}))


def load_model(path: str | Path) -> QuantizedModel:
    """Read a model.

    Raises
    ------
    RefusedError
        If the file is missing, truncated, malformed, of another kind or of another version.
    """
    source = Path(path)
    remedy = "make it again with hwattn quantize"
    if not source.is_file():
        raise RefusedError(f"no file {source}", "a quantized model (.hwq)", "make one with hwattn quantize")
    try:
        with safe_open(str(source), framework="numpy") as file:
            text = (file.metadata() or {}).get(FORMAT)
            if text is None:
                raise RefusedError(
                    f"{source} holds no hwattn model", "a file written by hwattn quantize", remedy
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no iterator)
        header = json.loads(text)
        if header["version"] != VERSION:
            raise RefusedError(
                f"{source} has version {header['version']} of the .hwq layout",
                f"version {VERSION}",
                "make it again with this version of hwattn, or install the version that wrote it",
            )
        if header["sha256"] != _digest(header["model"], tensors):
            raise ValueError("its contents do not match its checksum")
        model = _decode(header["model"], tensors)
        if not isinstance(model, QuantizedModel):
            raise TypeError("the outermost value is no model")
        _check_references(model)
    except (SafetensorError, OSError) as error:
        raise RefusedError(
            f"{source} is no .hwq file ({_sentence(error)})", "a quantized model (.hwq)", remedy
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise RefusedError(
            f"{source} is damaged ({_sentence(error)})", "an intact .hwq file", remedy
        ) from error
    return model


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _digest(content: Any, tensors: dict[str, NDArray[Any]]) -> str:
    """SHA-256 of the JSON description and of all arrays."""
    state = hashlib.sha256(json.dumps(content).encode())
    for key in sorted(tensors):
        state.update(f"{key} {tensors[key].dtype} {tensors[key].shape} ".encode())
        state.update(tensors[key].tobytes())
    return state.hexdigest()


def _encode(value: Any, key: str, tensors: dict[str, NDArray[Any]]) -> Any:
    """Turn a value into JSON, moving arrays into `tensors` under names that start with `key`."""
    if isinstance(value, np.ndarray):
        tensors[key] = np.array(value, order="C")
        return {"array": key}
    if dataclasses.is_dataclass(value) and type(value).__name__ in _KINDS:
        content = {
            field.name: _encode(getattr(value, field.name), f"{key}.{field.name}", tensors)
            for field in dataclasses.fields(value)
            if field.init
        }
        return {"kind": type(value).__name__, **content}
    if isinstance(value, tuple):
        return [_encode(item, f"{key}.{index}", tensors) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {"map": [[name, _encode(item, f"{key}.{name}", tensors)] for name, item in value.items()]}
    return value


def _decode(value: Any, tensors: dict[str, NDArray[Any]]) -> Any:
    """Build the object that `_encode` described, checking kinds, fields and array types."""
    if isinstance(value, list):
        return tuple(_decode(item, tensors) for item in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return tensors[value["array"]]
    if "map" in value:
        return {name: _decode(item, tensors) for name, item in value["map"]}
    name = value["kind"]
    kind = _KINDS[name]
    content = {key: _decode(item, tensors) for key, item in value.items() if key != "kind"}
    made = kind(**content)
    for field in dataclasses.fields(made):
        if field.init:
            _check_field(name, field.name, str(field.type), getattr(made, field.name))
    return made


def _check_field(kind: str, name: str, declared: str, value: Any) -> None:
    """Raise ValueError where a field's content is not of the declared type."""
    where = f"{kind}.{name}"
    if (kind, name) in _ARRAYS:
        dtype, dimensions = _ARRAYS[kind, name]
        if not isinstance(value, np.ndarray) or value.dtype != dtype or value.ndim != dimensions:
            raise ValueError(f"{where} is no {dtype} array of {dimensions} dimensions")
    elif declared in _SCALAR_TYPES:
        accepted = _SCALAR_TYPES[declared]
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
            raise ValueError(f"{where} is no {declared}")
    elif declared.startswith("tuple[") and not isinstance(value, tuple):
        raise ValueError(f"{where} is no list")
    elif declared == "HostPart | None" and not isinstance(value, HostPart | None):
        raise ValueError(f"{where} is no host part")
    elif declared in _KINDS and type(value).__name__ != declared:
        raise ValueError(f"{where} is no {declared}")


def _check_references(model: QuantizedModel) -> None:
    """Raise ValueError where a node or an output reads a tensor that nothing made, or that has no scale."""
    known = {model.image}
    for node in model.nodes:
        for name in node.inputs:
            if name not in known:
                raise ValueError(f"{node.name} reads {name}, which no earlier node makes")
        known.add(node.name)
    for output in model.outputs:
        if output.tensor not in known:
            raise ValueError(f"output {output.name} reads {output.tensor}, which no node makes")
    for name in known:
        scale = model.scales.get(name)
        if not isinstance(scale, np.ndarray) or scale.dtype != np.float64 or scale.ndim != 1:
            raise ValueError(f"tensor {name} has no scale")
        if not np.all(np.isfinite(scale)) or np.any(scale <= 0):
            raise ValueError(f"tensor {name} has a scale that is not positive")
