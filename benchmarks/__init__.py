"""Speed and memory of seal beside the alternatives: `python -m benchmarks` (docs/benchmarks.md)."""

import sys
from pathlib import Path

# What is measured is the code beside this folder, wherever else a seal is installed.
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
