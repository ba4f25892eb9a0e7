"""Make the helpers beside the tests and the random instructions of the model's tests importable (there are no packages under tests/)."""

import shutil
import sys
from pathlib import Path

import pytest

from hwattn.hls.compilation import ap_types_folder
from hwattn.spec.errors import RefusedError

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "sim" / "model"), str(HERE.parent / "compiler")]


def pytest_collection_modifyitems(items):
    try:
        ap_types_folder()
        reason = None if shutil.which("g++") else "g++ is not on the PATH"
    except RefusedError as error:
        reason = str(error)
    for item in items:
        if reason and HERE in item.path.parents and not item.get_closest_marker("no_compiler"):
            item.add_marker(pytest.mark.skip(reason=reason))
