"""The checker, the oracle and the strategies of this folder are modules of their own, importable by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
