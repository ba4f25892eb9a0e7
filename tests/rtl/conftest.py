"""Make `bench` importable from the tests beside it (there are no packages under tests/)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
