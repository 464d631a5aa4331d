"""Rules of the repository that no linter holds."""

import ast
import importlib
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Annotated, get_args

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import Field, TypeAdapter

import seal
from extras.check_extra import NEED_THEIR_EXTRA, USES
from extras.install_versions import TESTS, floor
from rankers.conftest import encoded, make_safe
from seal.config.experiment import load_experiment
from seal.rankers.random import Random
from seal.rankers.ranker import Ranker, RankingTask
from seal.rankers.union import AnyRanker

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
RANKERS = get_args(get_args(AnyRanker)[0])
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
OUTSIDE = {".git", "runs", "build", "dist", "site"}  # never in the repository, nor is .venv*
PICKLE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_files() -> list[Path]:
    """Every file of the repository that is UTF-8 text, caches left out."""
    found = []
    for top in sorted(ROOT.iterdir()):
        is_cache = top.name.endswith("_cache") or top.name == ".hypothesis"
        if top.name in OUTSIDE or top.name.startswith(".venv") or is_cache:
            continue
        files = [top] if top.is_file() else sorted(top.rglob("*"))
        found += [path for path in files if path.is_file() and "__pycache__" not in path.parts]
    return [path for path in found if is_text(path)]


def is_text(path: Path) -> bool:
    try:
        return "\0" not in path.read_text("utf-8")
    except UnicodeDecodeError:
        return False


def test_there_is_something_to_look_at():
    assert len(SOURCES) > 50
    assert len(RANKERS) >= 3
    assert {"README.md", "src/seal/cli/stages.py", "tests/test_repository.py"} <= set(
        map(short, text_files())
    )


def test_no_source_file_over_400_lines():
    lengths = {short(path): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_no_module_whose_name_says_nothing():
    vague = re.compile(r"_?(utils?|commons?|helpers?|misc|base)(_.*)?")
    parts = {short(path): path.relative_to(ROOT / "src").with_suffix("").parts for path in SOURCES}
    assert [path for path, names in parts.items() if any(map(vague.fullmatch, names))] == []


def unsafe_calls(tree: ast.AST) -> list[str]:
    """What reads or writes pickles, by way of an import or of torch."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in PICKLE]
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")[0]
            names = {alias.name for alias in node.names}
            found += [module] if module in PICKLE else []
            found += sorted(names & {"load", "save"}) if module == "torch" else []
        elif isinstance(node, ast.Attribute) and node.attr in {"load", "save"}:
            value = node.value
            found += ["torch." + node.attr] if ast.unparse(value) == "torch" else []
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found.append("allow_pickle")
    return found


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import pickle", ["pickle"]),
        ("from pickle import load", ["pickle"]),
        ("from torch import load", ["load"]),
        ("torch.load(f)", ["torch.load"]),
        ("x = torch.save", ["torch.save"]),
        ("np.load(f, allow_pickle=True)", ["allow_pickle"]),
        ("from safetensors.torch import load_file\njson.load(f)", []),
    ],
)
def test_the_search_for_pickles_finds_them(code, found):
    assert unsafe_calls(ast.parse(code)) == found


def test_no_pickle():
    found = {short(path): unsafe_calls(ast.parse(path.read_text("utf-8"))) for path in SOURCES}
    assert {path: calls for path, calls in found.items() if calls} == {}


def test_no_weights_but_safetensors():
    suffixes = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy"}
    assert [short(path) for path in (ROOT / "src").rglob("*") if path.suffix in suffixes] == []


MACHINE = re.compile(r"(?<![\w.])/(?:work|root|opt|mnt|Users|home)/(?!me\b)")


def test_the_search_for_paths_finds_them():
    for top in ("work", "root", "opt", "home"):
        assert MACHINE.search(f'path: "/{top}/x"')
    for text in ("../work/x", "a/opt/x", "https://x.org/root/", "work/x"):
        assert not MACHINE.search(text)


def test_no_path_of_a_machine():
    found = [
        f"{short(path)}:{number}: {line.strip()[:80]}"
        for path in text_files()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if MACHINE.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("ranker", RANKERS, ids=lambda ranker: ranker.__name__)
def test_every_ranker_has_a_page_that_names_its_file(ranker):
    method = ranker.model_fields["method"].default
    page = ROOT / "docs" / "methods" / f"{method}.md"
    text = page.read_text("utf-8")
    source = f"src/{ranker.__module__.replace('.', '/')}.py"
    assert (ROOT / source).is_file()
    assert f"`{source}`" in text
    assert f"methods/{method}.md" in (ROOT / "mkdocs.yml").read_text("utf-8")


def test_every_public_name_resolves():
    assert len(set(seal.__all__)) == len(seal.__all__)
    for name in seal.__all__:
        assert getattr(seal, name) is not None, name
        assert name in dir(seal)
    with pytest.raises(AttributeError, match="module 'seal' has no attribute 'no_such_name'"):
        seal.no_such_name  # noqa: B018


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_every_experiment_loads(path):
    experiment = load_experiment(path)
    assert not experiment.run_dir.is_absolute()


def test_every_yaml_and_json_of_the_package_is_valid():
    data = sorted(path for path in (ROOT / "src").rglob("*") if path.suffix in {".yaml", ".json"})
    assert len(data) >= 4
    for path in data:
        text = path.read_text("utf-8")
        value = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
        assert isinstance(value, dict), short(path)


# --- docs/write-your-own.md ---------------------------------------------------------------------


@pytest.fixture
def documented(tmp_path, monkeypatch):
    """The ranker that docs/write-your-own.md shows, imported from a file of its own."""
    text = (ROOT / "docs" / "write-your-own.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "documented_ranker.py").write_text(code, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("documented_ranker").Length
    del sys.modules["documented_ranker"]


def test_the_documented_ranker_ranks(documented):
    assert issubclass(documented, Ranker)
    pool = [
        encoded(key, [2, 3], [20] * length) for key, length in zip("cab", (1, 3, 9), strict=True)
    ]
    ranking = documented(cap=5).rank(RankingTask(None, pool, make_safe()))
    assert ranking.by_id() == {"c": 1.0, "a": 3.0, "b": 5.0}
    assert ranking.best_first() == ["b", "a", "c"]
    assert ranking.columns["num_tokens"].tolist() == [3, 5, 1]


def test_the_documented_ranker_is_one_word_in_a_union(documented):
    union = TypeAdapter(Annotated[Random | documented, Field(discriminator="method")])
    assert union.validate_python({"method": "length", "cap": 7}) == documented(cap=7)
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        union.validate_python({"method": "length", "caps": 7})


# --- packages -----------------------------------------------------------------------------------

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKS = {"core": [], "ci": ["dev"], "ci-eval": ["dev", "eval"]}  # and the extras that each covers
TORCH = ["torch-cpu", "torch-pypi"]


def locked(name: str) -> dict[str, str]:
    """A lock file: package -> version; each with at least one hash."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8")
    one = r"^([a-z0-9-]+)==([^ ]+)[^\n]*\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+"
    found = re.findall(one, text, re.MULTILINE)
    assert len(found) == len(re.findall(r"^[^ #\n]", text, re.MULTILINE)), f"{name}.txt"
    assert len(found) == len(dict(found))
    return dict(found)


def unmet(asked: list[str], packages: dict[str, str]) -> list[str]:
    """What is asked for and not there, or not in the versions allowed."""
    requirements = [Requirement(each) for each in asked]
    return [
        str(requirement)
        for requirement in requirements
        if not requirement.specifier.contains(
            packages.get(canonicalize_name(requirement.name), "0"), prereleases=True
        )
    ]


def test_what_a_lock_does_not_meet_is_found():
    packages = {"pyyaml": "6.0.3", "peft": "1.0", "torch": "2.13.0+cpu"}
    asked = ["PyYAML>=6.0.2", "peft>=0.21,<1", "trl>=1.16", "torch==2.13.0"]
    assert unmet(asked, packages) == ["peft<1,>=0.21", "trl>=1.16"]


@pytest.mark.parametrize("torch", TORCH)
@pytest.mark.parametrize("name", LOCKS)
def test_each_lock_has_what_pyproject_asks_for(name, torch):
    asked = PROJECT["dependencies"] + [one for extra in LOCKS[name] for one in EXTRAS[extra]]
    assert "torch" not in locked(name)
    assert unmet(asked, {**locked(name), **locked(torch)}) == []


def test_the_locks_have_the_versions_of_the_constraints():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    for name in LOCKS:
        packages = {**locked(name), **locked("torch-pypi")}
        assert unmet([line for line in pinned if name_in(line, packages)], packages) == []
    assert unmet(pinned, {**locked("ci"), **locked("torch-cpu")}) == []


def name_in(requirement: str, packages: dict[str, str]) -> bool:
    return canonicalize_name(Requirement(requirement).name) in packages


def test_ci_installs_no_cuda_beside_the_cpu_build_of_torch():
    cuda = {name for name in locked("torch-pypi") if name.startswith(("cuda", "nvidia", "triton"))}
    assert len(cuda) > 10
    for name in LOCKS:
        assert not cuda & set(locked(name))


def test_every_extra_is_tried_alone():
    assert set(USES) == set(EXTRAS) - {"dev"}
    for use in USES.values():
        assert use.packages
        assert use.modules
    ours = {name for use in USES.values() for name in use.modules} | NEED_THEIR_EXTRA
    sources = {path.relative_to(ROOT / "src").with_suffix("") for path in SOURCES}
    assert ours <= {".".join(path.parts) for path in sources}


def test_the_versions_are_tried_at_both_ends():
    assert floor("peft>=0.21,<1") == "peft==0.21"
    with pytest.raises(AssertionError, match="peft<1: a dependency begins with its lower bound"):
        floor("peft<1")
    for each in PROJECT["dependencies"]:
        Requirement(floor(each))
    assert [path for path in TESTS if not (ROOT / path).is_file()] == []


def test_every_dependency_says_what_it_is_for():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    listed = [*PROJECT["dependencies"], *(one for extra in EXTRAS.values() for one in extra)]
    lines = re.findall(r'^  "([^"]+)",(.*)$', text, re.MULTILINE)
    comments = [comment for requirement, comment in lines if requirement in listed]
    assert len(comments) >= len(listed)
    assert [r for r, comment in lines if r in listed and not re.search(r"# .*\w{2}", comment)] == []


def test_every_test_that_a_promise_names_is_there():
    """And every row of docs/promises.md names something that holds it."""
    defined = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"^ *def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    rows = [
        line
        for line in (ROOT / "docs" / "promises.md").read_text("utf-8").splitlines()
        if line.startswith("| ") and not line.startswith(("| **", "| promise"))
    ]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`(test_\w+|make [^`]+|python -m [^`]+)`", row.split("|")[2])
        assert named, row
        assert {name for name in named if name.startswith("test_")} <= defined, row


def test_no_two_test_files_have_one_name():
    """pytest imports them by that name alone, and runs only one of the two."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))
