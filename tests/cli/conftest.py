"""Make the compiler tests' model builder importable (there are no packages under tests/)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "compiler"))
