"""The program ``hwattn``: finds the verb, runs it, and turns its errors into one sentence and an exit code."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, cast

from hwattn.cli.output import Output
from hwattn.spec.errors import HwattnError, RefusedError

INTERRUPTED = 130
"""Exit code after Ctrl-C (128 + SIGINT)."""

BROKEN_PIPE = 141
"""Exit code when the reader of standard output has gone (128 + SIGPIPE)."""


_JSON = "--json"


@dataclass(frozen=True)
class Verb:
    """A verb: the module that holds it, and its line in ``hwattn --help``, which so needs no import."""

    module: str
    help: str


VERBS: dict[str, Verb] = {
    "check": Verb("check", "doctor: each external tool, found or not, and the command that installs it"),
    "import": Verb("import_", "what each node of an ONNX file becomes, or why it is refused"),
    "quantize": Verb("quantize", "post-training quantization of an ONNX file, with the SQNR of each layer"),
    "run": Verb("run", "integer inference with the bit-accurate NumPy model"),
    "eval": Verb("eval", "metric of every task, integer against float"),
    "export": Verb("export", "a quantized model as standard QDQ ONNX"),
    "sim": Verb("sim", "inference on the simulated RTL, compared bit for bit with the NumPy model"),
    "perf": Verb(
        "perf", "cycles of every layer, predicted, and what bounds them; --validate against co-simulation"
    ),
    "build": Verb(
        "build", "Verilog, netlist, bitstream, report, driver settings and golden vectors for a board"
    ),
    "hls": Verb("hls", "a C++ project for Vitis HLS, with golden vectors and a C simulation without it"),
    "gna": Verb("gna", "Generalized Neighborhood Attention: masks, tile counts, search, GPU projection"),
    "boards": Verb("boards", "the boards: resources, clock, memory, and what each flow needs"),
}


class VerbModule(Protocol):
    """What the module of a verb holds."""

    HELP: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Output], int]


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are refusals."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise RefusedError(message, f"arguments that {self.prog} knows", f"run: {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the program's name; those of this process by default.

    Returns
    -------
    int
        Exit code: 0 done, 1 a comparison or build failed, 2 refused or bad input, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    out = Output(json=_JSON in words)
    # taken out here so that it holds before, after and inside any verb, and for errors in the arguments themselves
    arguments = [word for word in words if word != _JSON]
    verb = next((word for word in arguments if not word.startswith("-")), None)
    try:
        return _answer(arguments, verb, out)
    except KeyboardInterrupt:
        print("hwattn: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # else Python flushes standard output at exit and complains
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _answer(arguments: list[str], verb: str | None, out: Output) -> int:
    """Run a verb; an error is written where the reader expects it."""
    try:
        code = _run(arguments, verb, out)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        raise
    except (HwattnError, ModuleNotFoundError, OSError, MemoryError) as error:
        refusal = _as_refusal(error)
        out.error(refusal, f"hwattn {verb}" if verb in VERBS else "hwattn")
        sys.stdout.flush()
        return refusal.exit_code


def _run(arguments: list[str], verb: str | None, out: Output) -> int:
    parser = _Parser(
        prog="hwattn", description="Vision Transformers as FPGA accelerators, proven bit for bit."
    )
    parser.add_argument(
        "--version", action="version", version=f"hwattn {importlib.metadata.version('hwattn')}"
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    if verb is not None and verb not in VERBS:
        raise RefusedError(f"no verb {verb}", f"one of {', '.join(VERBS)}", "run: hwattn --help")
    module = _load(verb) if verb else None
    for name, entry in VERBS.items():
        chosen = module if name == verb else None
        below = verbs.add_parser(name, help=entry.help, description=chosen.HELP if chosen else None)
        if chosen:
            chosen.configure(below)
            below.add_argument(
                _JSON,
                action="store_true",
                default=argparse.SUPPRESS,
                help="write one JSON document to standard output",
            )
    try:
        args = parser.parse_args(arguments)
    except SystemExit as ended:  # --help and --version
        return int(ended.code or 0)
    assert module is not None
    return module.run(args, out)


def _load(verb: str) -> VerbModule:
    """Import the module of a verb."""
    return cast(VerbModule, importlib.import_module(f"hwattn.cli.{VERBS[verb].module}"))


def _as_refusal(error: HwattnError | ModuleNotFoundError | OSError | MemoryError) -> HwattnError:
    """Return an error of the installation or of the operating system as a refusal."""
    if isinstance(error, HwattnError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return RefusedError(
            f"the Python module {error.name} is not installed",
            "hwattn with its dependencies",
            "run: pip install hwattn",
        )
    if isinstance(error, MemoryError):
        return RefusedError("memory ran out", "an input that fits", "take fewer images or a smaller model")
    subject = f"{error.filename}: " if error.filename is not None else ""
    return RefusedError(
        f"{subject}{error.strerror or error}",
        "files and folders that can be read and written",
        "check the path, its permissions and the space left",
    )


if __name__ == "__main__":
    sys.exit(main())
