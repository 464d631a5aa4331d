"""Empty virtual environments, and what pyproject.toml and constraints.txt say; no packages."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def project() -> dict:
    """The table `project` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def name_of(requirement: str) -> str:
    """A package's name as package indexes compare names: PyYAML>=6.0.2 -> pyyaml."""
    name = _NAME.match(requirement)
    assert name is not None, requirement
    return re.sub(r"[._-]+", "-", name[0]).lower()


def pins() -> dict[str, str]:
    """constraints.txt: name -> the line that pins it."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return {name_of(line): line for line in lines if line and not line.startswith("#")}


class Environment:
    """A virtual environment with nothing in it but pip."""

    def __init__(self, folder: Path) -> None:
        self._python = folder / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)

    def python(self, *arguments: str | Path, cwd: Path = ROOT) -> None:
        """Runs Python in it.

        Raises:
            SystemExit: If that fails; its output has said why.
        """
        outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run([self._python, *arguments], check=False, cwd=cwd, env=outside)
        if done.returncode:
            sys.exit(f"failed with {done.returncode}: python {' '.join(map(str, arguments))}")

    def pip(self, *arguments: str | Path) -> None:
        """Runs pip in it."""
        self.python("-m", "pip", "--disable-pip-version-check", "--quiet", *arguments)


@contextmanager
def empty_environment() -> Iterator[Environment]:
    """One that is deleted when it is left."""
    with TemporaryDirectory(prefix="seal-extras-") as folder:
        yield Environment(Path(folder) / "venv")
