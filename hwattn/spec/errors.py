"""The errors that people see: what was found, what was expected, what to do."""

from __future__ import annotations


class HwattnError(Exception):
    """An error whose message is meant for the user of a verb, never a traceback.

    Parameters
    ----------
    found : str
        What is there ("``model.onnx`` is not an ONNX file").
    expected : str
        What was expected instead ("an ONNX model of a transformer encoder").
    remedy : str
        What to do about it ("export it with torch.onnx.export").

    Notes
    -----
    ``exit_code`` is the code that the command line ends with.
    """

    exit_code = 2

    def __init__(self, found: str, expected: str, remedy: str) -> None:
        self.found = found
        self.expected = expected
        self.remedy = remedy
        super().__init__(f"{found}; expected {expected}; {remedy}")


class RefusedError(HwattnError):
    """Bad input, or something that cannot be mapped: refused before any work (exit code 2)."""


class FailedError(HwattnError):
    """The work was done, and a comparison or a build came out wrong (exit code 1)."""

    exit_code = 1
