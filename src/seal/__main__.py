"""`python -m seal`, and the entry point of the `seal` command."""

from __future__ import annotations

import sys

from seal.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
