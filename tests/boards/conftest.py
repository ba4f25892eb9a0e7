"""Make the helpers beside the tests, and the compiler's small models, importable (there are no packages under tests/)."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "compiler")]
