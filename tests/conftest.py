"""What every room's tests share: Hypothesis settings, and what to skip where an optional tool is missing."""

import importlib.util
import shutil

import hypothesis
import pytest

# the machines that run the tests differ in speed by more than any deadline
hypothesis.settings.register_profile("hwattn", deadline=None)
hypothesis.settings.load_profile("hwattn")

MISSING = {
    "icarus": (lambda: shutil.which("iverilog") is None, "Icarus Verilog (iverilog) is not on the PATH"),
    "train": (
        lambda: importlib.util.find_spec("torch") is None,
        "torch (the extra `train`) is not installed",
    ),
}
"""For each marker of an optional tool: whether the tool is missing, and what to say then."""


def pytest_collection_modifyitems(items):
    for marker, (is_missing, reason) in MISSING.items():
        if is_missing():
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=reason))
