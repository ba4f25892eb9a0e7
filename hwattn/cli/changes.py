"""``--axis`` and ``--fix``: what the user fixes in an ONNX model before it is imported."""

from __future__ import annotations

import argparse

from hwattn.quant.onnx_file import Changes
from hwattn.spec.errors import RefusedError


def add_changes(parser: argparse.ArgumentParser) -> None:
    """Add the arguments, read by :func:`changes_of`."""
    parser.add_argument(
        "--axis",
        action="append",
        default=[],
        metavar="NAME=LENGTH",
        help="give a dynamic axis of the ONNX model its length, such as sequence_length=32",
    )
    parser.add_argument(
        "--fix",
        action="append",
        default=[],
        metavar="INPUT=VALUE",
        help="make an input constant, such as attention_mask=1 for texts without padding",
    )


def changes_of(args: argparse.Namespace) -> Changes:
    """Return what the arguments ask for.

    Raises
    ------
    RefusedError
        One is not written as NAME=NUMBER.
    """
    axes, fixed = {}, {}
    for text in args.axis:
        name, _, value = text.partition("=")
        if not name or not value.isdecimal() or int(value) < 1:
            raise RefusedError(f"--axis {text}", "NAME=LENGTH", "write it as --axis sequence_length=32")
        axes[name] = int(value)
    for text in args.fix:
        name, _, value = text.partition("=")
        try:
            fixed[name] = float(value)
        except ValueError:
            raise RefusedError(
                f"--fix {text}", "INPUT=NUMBER", "write it as --fix attention_mask=1"
            ) from None
    return Changes(axes, fixed)
