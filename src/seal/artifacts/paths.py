"""What a function takes where it takes a path."""

from __future__ import annotations

import os

StrPath = str | os.PathLike[str]
"""Text, a `pathlib.Path`, or whatever else says of itself which path it stands for."""
