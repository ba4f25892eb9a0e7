"""Arguments that several verbs share: model, configuration, images and task."""

from __future__ import annotations

import argparse
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwattn.spec.config import AcceleratorConfig, load_preset, preset_memory, preset_names
from hwattn.spec.errors import RefusedError
from hwattn.spec.external import ExternalMemory
from hwattn.spec.program import Program

TEST_PREFIX = "test_"
"""Prefix of the arrays of the test set in a workload's ``data.npz``."""


def positive(text: str) -> int:
    """Return an integer of 1 or more; the `type` of an argument that counts."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return value


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument `model`, the bundled workload by default."""
    parser.add_argument(
        "model",
        nargs="?",
        default="digits",
        metavar="MODEL",
        help="an .hwq or .onnx file, or the name of a workload (default: %(default)s)",
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and ``--set``, read by :func:`accelerator_config`."""
    parser.add_argument(
        "--config", metavar="NAME", help=f"preset of the accelerator: {', '.join(preset_names())}"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the preset, such as rows=43; may be given several times",
    )


def add_memory(parser: argparse.ArgumentParser) -> None:
    """Add ``--memory``."""
    parser.add_argument(
        "--memory",
        metavar="latency=N,beats=N,cycles=N",
        help="external memory, in cycles of the machine: latency of a burst, at most `beats` words in `cycles` cycles (default: the preset's)",
    )


def external_memory(args: argparse.Namespace, preset: str) -> ExternalMemory:
    """Return how fast external memory is: as ``--memory`` says, else as the preset does.

    Raises
    ------
    RefusedError
        It cannot be read.
    """
    if args.memory is not None:
        return ExternalMemory.parse(args.memory)
    return preset_memory(args.config or preset)


def accelerator_config(args: argparse.Namespace, default_preset: str) -> AcceleratorConfig:
    """Return the configuration that ``--config`` and ``--set`` ask for.

    Parameters
    ----------
    args : Namespace
        With `config` and `set` of :func:`add_config`.
    default_preset : str
        Preset to start from when ``--config`` is not given.

    Raises
    ------
    RefusedError
        Unknown preset or field, a value that is not an integer, or fields that do not go together.
    """
    changes: dict[str, int] = {}
    for text in args.set:
        name, equals, value = text.partition("=")
        try:
            changes[name.strip()] = int(value)
        except ValueError:
            found = f"--set {text}" if equals else f"--set {text} without a value"
            raise RefusedError(found, "FIELD=VALUE with an integer", "write it as --set rows=8") from None
    return load_preset(args.config or default_preset).replace(**changes)


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add ``--input`` (read with :func:`load_images`) and ``--images``."""
    parser.add_argument(
        "--input",
        type=Path,
        metavar="X.npy|X.npz",
        help="images, normalized float32 (N, channels, height, width); default: the workload's test images",
    )
    parser.add_argument("--images", type=positive, metavar="N", help="how many images to take")


def load_arrays(path: Path) -> dict[str, NDArray[Any]] | NDArray[Any]:
    """Read a NumPy file that may come from anywhere.

    Parameters
    ----------
    path : Path
        ``.npy`` or ``.npz``; the contents decide, not the name.

    Returns
    -------
    dict of str to ndarray, or ndarray
        All arrays of an ``.npz``; the one of an ``.npy``.

    Raises
    ------
    RefusedError
        The file is missing or unreadable, is neither, is cut short, or holds pickled objects (which are never loaded).
    """
    expected, remedy = "an .npy or .npz file of numbers", "write one with numpy.save or numpy.savez"
    try:
        with path.open("rb") as file:
            magic = file.read(6)
        if magic == b"\x93NUMPY":
            # a mapped array checks the file's length before any memory is taken
            return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
        loaded = np.load(path, allow_pickle=False)
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except OSError as error:
        if error.strerror is None:
            raise RefusedError(f"{path} is cut short or damaged", expected, remedy) from error
        raise RefusedError(
            f"{path} cannot be read ({error.strerror})", expected, "correct the path"
        ) from error
    except MemoryError as error:
        raise RefusedError(f"{path} claims to be larger than memory", expected, remedy) from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        reason = "holds pickled objects" if "allow_pickle" in str(error) else "is not a whole NumPy file"
        raise RefusedError(f"{path} {reason}", expected, remedy) from error
    other = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if other:
        raise RefusedError(f"{path} holds {', '.join(other)}, which is no array", expected, remedy)
    return arrays


def load_images(path: Path, image_name: str, image_shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Read the images to run a model on.

    Parameters
    ----------
    path : Path
        ``.npy``: the images. ``.npz``: an array named `image_name`, or ``test_`` and `image_name` (a workload's data).
    image_name : str
        Name of the image input in the ONNX model.
    image_shape : tuple of int
        (channels, height, width) that the model expects.

    Returns
    -------
    ndarray of float32, shape (N, channels, height, width)
        N is at least 1; all values are finite.

    Raises
    ------
    RefusedError
        As :func:`load_arrays`; the array is missing, or its type, shape or values are not those.
    """
    arrays = load_arrays(path)
    if isinstance(arrays, dict):
        name = next((key for key in (image_name, TEST_PREFIX + image_name) if key in arrays), None)
        if name is None:
            raise RefusedError(
                f"{path} holds the arrays {', '.join(sorted(arrays)) or '(none)'}",
                f"one named {image_name} or {TEST_PREFIX}{image_name}",
                f"save the images as numpy.savez(..., {image_name}=images)",
            )
        return check_images(arrays[name], f"{name} of {path}", image_shape)
    return check_images(arrays, str(path), image_shape)


def check_images(images: NDArray[Any], where: str, image_shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Return images as native float32 (N, channels, height, width), or refuse them; `where` names them."""
    if images.dtype.newbyteorder("=") != np.float32:
        raise RefusedError(
            f"{where} is of type {images.dtype}",
            "float32, normalized as for the ONNX model",
            "normalize the images as in training, then .astype(numpy.float32)",
        )
    wanted = f"(N, {', '.join(map(str, image_shape))})"
    if images.shape[1:] != image_shape:
        missing_axis = images.shape == image_shape
        raise RefusedError(
            f"{where} has shape {images.shape}",
            wanted,
            "add the first axis with images[None]"
            if missing_axis
            else "resize the images to the model's size",
        )
    if not len(images):
        raise RefusedError(
            f"{where} holds no image", f"{wanted} with N of 1 or more", "give at least one image"
        )
    if not np.isfinite(images).all():
        raise RefusedError(
            f"{where} holds values that are not finite",
            "finite numbers",
            "look for NaN and infinity in the images",
        )
    return images.astype(np.float32)


def parse_task(text: str | None, names: Sequence[str]) -> list[int]:
    """Return the indexes of the tasks that ``--task`` asks for.

    Parameters
    ----------
    text : str or None
        Name of a model output, or an index; None for all tasks.
    names : sequence of str
        Names of the outputs, in the order of the tasks.

    Raises
    ------
    RefusedError
        There is no such task.
    """
    if text is None:
        return list(range(len(names)))
    if text in names:
        return [list(names).index(text)]
    if text.isdecimal() and int(text) < len(names):
        return [int(text)]
    raise RefusedError(
        f"no task {text}",
        f"{', '.join(names)}, or an index from 0 to {len(names) - 1}",
        "correct --task, or leave it out for all tasks",
    )


def program_tasks(text: str | None, program: Program) -> list[int]:
    """Return the tasks of a program that ``--task`` asks for: the one that makes an output, or the one of that index; None for all.

    Raises
    ------
    RefusedError
        There is no such task.
    """
    for port in program.outputs:
        if port.name == text:
            return [port.task]
    return parse_task(text, program.task_names)
