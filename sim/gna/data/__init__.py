"""Facts and figures of ``hwattn.sim.gna``, each with its source beside it; read through :func:`load`."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any


@cache
def load(name: str) -> Any:
    """Parsed JSON document ``name`` of this folder; shared, so treat it as read-only."""
    return json.loads((resources.files(__name__) / name).read_text(encoding="utf-8"))
