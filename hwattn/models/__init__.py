"""The workloads, bundled or built: a model, its data, and how to judge it. NumPy only; no torch."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwattn.models.catalogue import BUILT_WORKLOADS
from hwattn.spec.errors import RefusedError

__all__ = [
    "DEFAULT_WORKLOAD",
    "Task",
    "Workload",
    "built_workloads",
    "bundled_workloads",
    "find_workload",
    "read_workload",
]

DEFAULT_WORKLOAD = "digits"
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Task:
    """One task of a workload.

    Parameters
    ----------
    name : str
        Name of the ONNX output that answers it; its labels are ``label_<name>``.
    metric : str
        How often the largest logit (last axis), over all leading axes, is the label's (``"accuracy"``), or that of the
        float model where there are no labels (``"agreement"``).
    classes : tuple of str
        Names of the classes, in the order of the logits.
    float_metric : float
        The metric of the float ONNX model under onnxruntime on all test images, 0..1; 1 for agreement.
    description : str
        What is predicted, in one sentence.
    """

    name: str
    metric: str
    classes: tuple[str, ...]
    float_metric: float
    description: str


@dataclass(frozen=True)
class Workload:
    """A folder that holds ``model.onnx``, ``data.npz`` and ``workload.toml``.

    Parameters
    ----------
    name : str
        The workload's name on the command line.
    folder : Path
        Where its files are.
    tasks : tuple of Task
        In the order of the model's ``task`` input and of its outputs.
    config : str
        Preset of the accelerator configuration to use by default.
    simulation_images : int
        Test images that ``hwattn sim`` runs by default, for each task.
    source, licence : str
        Where the data comes from, and under which terms.
    """

    name: str
    folder: Path
    tasks: tuple[Task, ...]
    config: str
    simulation_images: int
    source: str
    licence: str

    @property
    def model(self) -> Path:
        """The float model, ONNX."""
        return self.folder / "model.onnx"

    @property
    def data(self) -> Path:
        """Calibration and test sets, npz, keys with the prefixes ``calib_`` and ``test_``."""
        return self.folder / "data.npz"

    def calibration_set(self) -> dict[str, NDArray[Any]]:
        """Arrays to calibrate with: model inputs by name, and ``label_<task>``."""
        return self._arrays("calib_")

    def test_set(self) -> dict[str, NDArray[Any]]:
        """Arrays held out from training and calibration: model inputs by name, and ``label_<task>``."""
        return self._arrays("test_")

    def _arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        with np.load(self.data, allow_pickle=False) as arrays:
            return {
                name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)
            }


def bundled_workloads() -> tuple[str, ...]:
    """Names of the workloads that come with the package, sorted."""
    return tuple(sorted(path.parent.name for path in _FOLDER.glob("*/workload.toml")))


def built_workloads() -> tuple[str, ...]:
    """Names of the workloads that have been built on this machine, sorted."""
    return tuple(sorted(name for name, workload in BUILT_WORKLOADS.items() if workload.folder.is_dir()))


def find_workload(name: str) -> Workload:
    """Find a workload, bundled or built.

    Parameters
    ----------
    name : str
        Such as ``"digits"`` or ``"deit-tiny"``.

    Raises
    ------
    RefusedError
        There is no workload of that name, or it has not been built yet.
    """
    if name in bundled_workloads():
        return read_workload(_FOLDER / name)
    if name not in BUILT_WORKLOADS:
        raise RefusedError(
            found=f"no workload is called {name!r}",
            expected="one of " + ", ".join((*bundled_workloads(), *BUILT_WORKLOADS)),
            remedy="name one of these, or give the path of an .onnx or .hwq file",
        )
    folder = BUILT_WORKLOADS[name].folder
    if not folder.is_dir():
        raise RefusedError(
            found=f"the workload {name} has not been built on this machine",
            expected="its model and images in the user's cache folder",
            remedy=f"run `make workloads` (or `python -m hwattn.models.build {name}`, which needs torch)",
        )
    return read_workload(folder)


def read_workload(folder: Path) -> Workload:
    """Read the ``workload.toml`` of `folder`.

    Raises
    ------
    RefusedError
        The file is missing, is not TOML, or lacks a key.
    """
    path = folder / "workload.toml"
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
        tasks = tuple(
            Task(
                name=str(task["name"]),
                metric=str(task["metric"]),
                classes=tuple(str(label) for label in task["classes"]),
                float_metric=float(task["float_metric"]),
                description=str(task["description"]),
            )
            for task in table["tasks"]
        )
        return Workload(
            name=folder.name,
            folder=folder,
            tasks=tasks,
            config=str(table["config"]),
            simulation_images=int(table["simulation"]["images"]),
            source=str(table["data"]["source"]),
            licence=str(table["data"]["licence"]),
        )
    except OSError as error:
        found = f"{path} cannot be read ({error.strerror})"
    except tomllib.TOMLDecodeError as error:
        found = f"{path} is not TOML ({error})"
    except (KeyError, TypeError, ValueError) as error:
        found = f"{path} lacks or misstates a key ({error!r})"
    raise RefusedError(
        found=found,
        expected="a workload.toml with tasks, config, simulation and data",
        remedy="compare it with the bundled hwattn/models/digits/workload.toml",
    )
