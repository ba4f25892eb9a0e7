"""Runs the parts of a model that stay on the host, and whole ONNX models, with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hwattn.spec.errors import FailedError, RefusedError
from hwattn.spec.graph import Float, Graph
from hwattn.spec.host import HostPart, token_image, token_scale
from hwattn.spec.quantized import QuantizedModel

Arrays = Mapping[str, NDArray[Any]]

CHUNK = 64
"""Images that onnxruntime gets at once."""


def open_session(onnx: Path | bytes, what: str = "") -> onnxruntime.InferenceSession:
    """Open a model given by its path, or by its bytes and what it is for messages.

    Raises
    ------
    RefusedError
        If onnxruntime does not load it.
    """
    name = "the model" if isinstance(onnx, bytes) else str(onnx)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # without it the int8 products of a quantized model saturate in 16 bits on x86 processors without VNNI
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        source = onnx if isinstance(onnx, bytes) else str(onnx)
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        reason = " ".join(str(error).split())[:200]
        raise RefusedError(
            f"onnxruntime does not load {what or name} ({reason})",
            "an intact ONNX model",
            "export it again",
        ) from error


def run_session(
    session: onnxruntime.InferenceSession, names: Sequence[str], feeds: Arrays, constants: Arrays
) -> dict[str, NDArray[Any]]:
    """Run a model on any number of images.

    Parameters
    ----------
    names : sequence of str
        Outputs wanted.
    feeds : mapping of str to ndarray, first axis N
    constants : mapping of str to ndarray
        Inputs without a batch axis.
    """
    count = len(next(iter(feeds.values())))
    lengths = {entry.name: entry.shape[0] for entry in session.get_inputs() if entry.shape}
    fixed = [lengths[name] for name in feeds if isinstance(lengths.get(name), int)]
    batch = fixed[0] if fixed else CHUNK
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for start in range(0, count, batch):
        chunk = {name: array[start : start + batch] for name, array in feeds.items()}
        size = min(batch, count - start)
        if fixed:
            # a model of fixed batch size gets its last batch filled up
            chunk = {
                name: np.concatenate([array, np.repeat(array[-1:], batch - size, axis=0)])
                for name, array in chunk.items()
            }
        try:
            results = session.run(list(names), {**chunk, **constants})
        except Exception as error:  # onnxruntime's errors share no base class
            reason = " ".join(str(error).split())[:200]
            raise FailedError(
                f"onnxruntime cannot run it ({reason})",
                "inputs of the types and shapes of the ONNX model",
                "check the arrays, and the model under onnxruntime alone",
            ) from error
        for name, value in zip(names, results, strict=True):
            parts[name].append(np.asarray(value)[:size])
    return {name: np.concatenate(values) for name, values in parts.items()}


class HostRunner:
    """The host parts of a model, ready to run; does nothing for a model that has none.

    Parameters
    ----------
    model : Graph or QuantizedModel
    """

    def __init__(self, model: Graph | QuantizedModel) -> None:
        self.model = model
        self._front = _session(model.front, "the front part of the model")
        self._back = _session(model.back, "the back part of the model")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the arrays that the model reads."""
        given = {output.name for output in self.model.outputs}
        first = (self.model.image,) if self.model.front is None else self.model.front.inputs
        last = () if self.model.back is None else self.model.back.inputs
        return tuple(dict.fromkeys([*first, *(name for name in last if name not in given)]))

    def images(self, arrays: Arrays) -> Float:
        """What the accelerator reads, (N, channels, height, width): the image, or tokens that the host makes.

        Raises
        ------
        RefusedError
            An array is missing, or does not fit.
        """
        self._check(arrays)
        if self._front is None or self.model.front is None:
            return np.asarray(arrays[self.model.image], np.float32)
        feeds = {name: arrays[name] for name in self.model.front.inputs}
        tokens = run_session(self._front, self.model.front.outputs, feeds, {})[self.model.image]
        if isinstance(self.model, QuantizedModel):
            scale = float(self.model.scales[self.model.image][0])
        else:
            scale = token_scale(tokens)
        return token_image(tokens, scale)

    def outputs(self, given: Mapping[str, Float], arrays: Arrays) -> dict[str, NDArray[Any]]:
        """The model's outputs, from those of the accelerator."""
        if self._back is None or self.model.back is None:
            return dict(given)
        part = self.model.back
        feeds = {name: given[name] if name in given else arrays[name] for name in part.inputs}
        made = run_session(self._back, part.outputs, feeds, {})
        inner = set(part.inputs) - set(part.outputs)
        return {name: value for name, value in given.items() if name not in inner} | made

    def _check(self, arrays: Arrays) -> None:
        missing = [name for name in self.inputs if name not in arrays]
        if missing:
            raise RefusedError(
                f"no array named {', '.join(missing)} among {', '.join(sorted(arrays)) or '(none)'}",
                f"an array for each of {', '.join(self.inputs)}",
                "save them with numpy.savez, named as the inputs of the ONNX model",
            )
        counts = {len(arrays[name]) if arrays[name].ndim else 0 for name in self.inputs}
        if len(counts) > 1 or 0 in counts:
            raise RefusedError(
                f"arrays of {' and '.join(map(str, sorted(counts)))} images",
                "as many of one input as of the other, at least one",
                "give every input its batch axis",
            )


def _session(part: HostPart | None, what: str) -> onnxruntime.InferenceSession | None:
    return None if part is None else open_session(part.onnx.tobytes(), what)
