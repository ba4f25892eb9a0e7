"""The user's cache folder, and folders that are made once and appear only when complete.

What is expensive to make and can be made again (simulator builds, the patched Verilator, quantized workloads) lives here. Every
entry is keyed by a digest of what it is made from, so that an entry is never wrong, only unused.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

CACHE_VARIABLE = "HWATTN_CACHE_DIR"
"""Environment variable that moves the cache folder."""


def cache_folder() -> Path:
    """Return the user's cache folder of hwattn, which may not exist yet.

    Returns
    -------
    Path
        ``$HWATTN_CACHE_DIR`` if set, else the platform's own place (``~/.cache/hwattn`` on Linux). Absolute.
    """
    moved = os.environ.get(CACHE_VARIABLE)
    return Path(moved).expanduser().resolve() if moved else user_cache_path("hwattn")


def digest(*parts: str) -> str:
    """Return a short digest of texts, each kept apart from its neighbours.

    Parameters
    ----------
    *parts : str
        What the cached thing is made from, in a fixed order.

    Returns
    -------
    str
        20 hexadecimal digits (80 bits) of SHA-256.
    """
    state = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        state.update(len(encoded).to_bytes(8, "little"))
        state.update(encoded)
    return state.hexdigest()[:20]


def made_once(target: Path, fill: Callable[[Path], None]) -> Path:
    """Return a folder, filling it first if it does not exist.

    The folder is filled under a temporary name beside ``target`` and renamed when complete, so that an interrupted run leaves no
    half-made entry; a lock makes a second process wait for the first one's folder instead of making it again.

    Parameters
    ----------
    target : Path
        The folder to return.
    fill : Callable[[Path], None]
        Called with an empty folder to put the contents into. What it raises is passed on, and nothing is kept.

    Returns
    -------
    Path
        ``target``.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{target.name}.lock")):
        if target.is_dir():
            return target
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            scratch.chmod(0o755)
            fill(scratch)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target
