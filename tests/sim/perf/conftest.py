"""Make the compiler tests' model builder and the simulator's test modules importable (there are no packages under tests/)."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "compiler")]
