"""Runs the tests that touch the training libraries at the ends of what pyproject.toml allows.

In tests/, `python -m extras.install_versions floor`: each dependency of seal at exactly its lower
bound; `... ceiling`: each at the newest version that its bounds, and those of the others, leave.
torch stays as constraints.txt has it (another one is gigabytes), and so do the test tools.
"""

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from extras.environments import ROOT, empty_environment, name_of, pins, project

TESTS = [
    "tests/test_models.py",
    "tests/test_sft.py",
    "tests/test_generation.py",
    "tests/test_losses.py",
    "tests/test_loss_backends.py",
    "tests/test_cli.py",
    "tests/data/test_tokenize.py",
    "tests/stages/test_train.py",
    "tests/stages/test_merge.py",
    "tests/rankers/test_seal.py",
]
# Times a start, which here is the first one and compiles everything.
LEFT_OUT = "tests/test_cli.py::test_help_imports_nothing_heavy_and_is_there_at_once"
TOOLS = ["beartype", "hypothesis", "openai", "pytest", "pytest-xdist", "scikit-learn"]
TOOLS += ["sentencepiece", "statsmodels"]


def floor(requirement: str) -> str:
    """The oldest version that a requirement allows: peft>=0.21,<1 -> peft==0.21."""
    found = re.fullmatch(r"([\w.-]+)>=([\w.]+)(,.*)?", requirement)
    assert found is not None, f"{requirement}: a dependency begins with its lower bound"
    return f"{found[1]}=={found[2]}"


def constraints(end: str) -> list[str]:
    """What an installation at one end is held to."""
    pinned = pins()
    held = [pinned[name] for name in ("torch", *TOOLS)]
    if end == "floor":
        dependencies = project()["dependencies"]
        held += [floor(each) for each in dependencies if name_of(each) != "torch"]
    return held


def main() -> None:
    """Installs one end and runs the tests there."""
    (end,) = sys.argv[1:]
    assert end in {"floor", "ceiling"}, end
    with TemporaryDirectory() as folder, empty_environment() as environment:
        file = Path(folder) / "constraints.txt"
        file.write_text("\n".join(constraints(end)), "utf-8")
        environment.pip("install", "--no-compile", "--constraint", file, str(ROOT), *TOOLS)
        environment.pip("check")
        print(f"{end}:", flush=True)
        names = [name_of(each) for each in project()["dependencies"]]
        code = "import sys; from importlib.metadata import version as v\n"
        code += "print(*(f'{n} {v(n)}' for n in sys.argv[1:]), sep=', ')"
        environment.python("-c", code, *names)
        environment.python("-m", "pytest", "-q", "-n", "2", "--deselect", LEFT_OUT, *TESTS)


if __name__ == "__main__":
    main()
