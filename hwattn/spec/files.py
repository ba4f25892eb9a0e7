"""Files that appear only when they are complete."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hwattn.spec.errors import RefusedError


def write_complete(target: Path, contents: bytes) -> None:
    """Write a file under a temporary name beside `target`, which it then replaces.

    Raises
    ------
    RefusedError
        If the file cannot be written; nothing is left behind.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
        scratch = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(contents)
            scratch.chmod(0o644)
            scratch.replace(target)
        except BaseException:
            scratch.unlink()
            raise
    except OSError as error:
        raise RefusedError(
            f"{target} cannot be written ({error.strerror})",
            "a file name in a folder that exists and can be written to",
            "name another output file",
        ) from error
