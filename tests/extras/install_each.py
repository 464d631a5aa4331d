"""Installs seal alone, then with each extra alone, each time into an empty environment.

`make test-extras`; in tests/, `python -m extras.install_each judge track` tries only these.
"""

import sys
import time
from pathlib import Path

from extras.check_extra import USES
from extras.environments import ROOT, empty_environment, project

CONSTRAINTS = ("--constraint", ROOT / "constraints.txt")


def try_out(name: str) -> str:
    """Installs one, checks it and imports what it is for; returns what was done.

    Raises:
        SystemExit: If any of it fails.
    """
    what = f"{ROOT}[{name}]" if name != "core" else str(ROOT)
    with empty_environment() as environment:
        if name in USES and USES[name].is_resolved_only:
            environment.pip("install", "--dry-run", *CONSTRAINTS, what)
            return "can be had (too large for this check: not installed, not imported)"
        environment.pip("install", "--no-compile", *CONSTRAINTS, what)
        environment.pip("check")
        # -I: neither the folder of the script nor PYTHONPATH; from elsewhere than the checkout.
        script = Path(__file__).with_name("check_extra.py")
        environment.python("-I", script, name, cwd=Path(script.anchor))
        return "installed, consistent, imported"


def main() -> None:
    """One after the other, so that no more than one of them takes room."""
    # `dev` is no extra for users: `make check` and `make test` use it.
    extras = ["core", *(name for name in project()["optional-dependencies"] if name != "dev")]
    for name in sys.argv[1:] or extras:
        if name not in extras:
            sys.exit(f"{name!r} is no extra of pyproject.toml: {', '.join(extras)}")
        begun = time.monotonic()
        print(f"extra {name}: {try_out(name)} ({time.monotonic() - begun:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
