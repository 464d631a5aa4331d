"""How much memory this process has held at most."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_memory_bytes() -> int | None:
    """The most resident memory of this process since it began; memory of a GPU does not count.

    None where the system does not say (Windows).
    """
    if _STATUS.is_file():
        # Not getrusage, which on Linux counts what the parent held before this program was loaded.
        found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text("utf-8"), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 (absent on Windows)

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
