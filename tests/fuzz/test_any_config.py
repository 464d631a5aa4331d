"""Any text as a configuration or KEY=VALUE word: an experiment or a ValueError with its place."""

import re
import time
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.outcome import only_when_asked, outcome
from seal.config.experiment import Experiment, dump_experiment, load_experiment
from seal.config.positions import MAX_CHARACTERS, parse_yaml

BASE = """\
run_dir: runs/x
model: {path: m, chat_template_kwargs: {enable_thinking: false}}
pool: {path: p.jsonl, label: label}
safe:
  - path: s.jsonl
    format: alpaca
rank: {method: seal, epochs: 2}
select: {fraction: 0.8}
seeds: [0, 1]
evaluate:
  tasks:
    - {task: harmful_prompts, path: h.jsonl}
"""
PIECES = ["&a ", "*a", "<<: *a", "<<: [*a, *a]", "!!python/object/apply:os.system [x]",
          "!!binary ", "!!set ", "!mine ", "---\n", "...\n",
          "%YAML 9.9\n", "%TAG ! tag:x,2000:\n", "? ", "- ",
          ": ", "{", "}", "[", "]", '"', "'", "|\n", ">\n", "\t", "\x00", "\x1b",
          "\ufeff", "\u2028",
          '"\\ud800"', '"\\UFFFFFFFF"', '"\\x1b[2J"', "0x" + "f" * 5000, "9" * 5000, "1e999",
          ".nan", "-1", "null", "true", "~", "run_dir: y\n",
          "\nseeds: ", "\r\n", "\x85", "[" * 300,
          "rank:", "method: dsir", "#", "path: "]  # fmt: skip
KEYS = ["run_dir", "title", "seeds", "seeds.0", "seeds.9", "model.path", "model", "model.dtype",
        "model.chat_template_kwargs.a.b", "pool.columns", "pool.columns.prompt", "safe", "safe.0",
        "safe.path", "safe.1.path", "rank", "rank.method", "rank.epochs", "select.fraction",
        "train.args", "train.args.learning_rate", "train.peft", "evaluate.tasks.0", "arms",
        "arms.0.name", "bench", "budget.seconds", "", ".", "a", "a..b", "\x1b"]  # fmt: skip

quick = settings(max_examples=150, deadline=timedelta(seconds=3))
deep = settings(max_examples=1_500, deadline=timedelta(seconds=3),
                suppress_health_check=list(HealthCheck))  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A good configuration with something cut out, repeated or put between."""
    text = BASE
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(text)))
        end = draw(st.integers(place, min(len(text), place + 30)))
        what = draw(st.sampled_from([*PIECES, text[place:end] * 2, ""]) | st.text(max_size=4))
        text = text[:place] + what + text[draw(st.sampled_from([place, end])) :]
    return text


words = st.builds(
    "{}={}".format,
    st.sampled_from(KEYS),
    st.lists(st.sampled_from(PIECES), max_size=4).map("".join),
) | st.text(max_size=12).filter(lambda word: "=" in word)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("config") / "c.yaml"


def check(path: Path, content: bytes, overrides: list[str]) -> None:
    path.write_bytes(content)
    experiment, message = outcome(lambda: load_experiment(path, overrides))
    if experiment is None:
        assert message is not None
        assert re.match(re.escape(str(path)) + r"(:\d+)?: |command line: ", message), message
        return
    dumped = dump_experiment(experiment)
    path.write_text(dumped, encoding="utf-8")
    assert load_experiment(path) == experiment, "a run could not be replayed"


@quick
@given(st.binary(max_size=200), st.lists(words, max_size=2))
def test_any_bytes(path, content, overrides):
    check(path, content, overrides)


@quick
@given(damaged(), st.lists(words, max_size=2))
def test_a_damaged_configuration(path, text, overrides):
    check(path, text.encode("utf-8", "surrogatepass"), overrides)


@quick
@given(st.lists(words, min_size=1, max_size=3))
def test_any_words(path, overrides):
    check(path, BASE.encode(), overrides)


@pytest.mark.slow
@only_when_asked
@deep
@given(damaged() | st.text(max_size=300), st.lists(words, max_size=3))
def test_a_damaged_configuration_many_times(path, text, overrides):
    check(path, text.encode("utf-8", "surrogatepass"), overrides)


def bomb(width: int, depth: int) -> str:
    """Lists of lists: a file of `depth` lines that holds `width ** depth` values."""
    first = "    a0: &a0 [" + ", ".join("x" * width) + "]\n"
    return first + "".join(
        f"    a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]\n" for n in range(1, depth)
    )


def merges(width: int, depth: int) -> str:
    """Mappings that merge the last one several times."""
    first = "    a0: &a0 {k: 1}\n"
    return first + "".join(
        f"    a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * width)}]}}\n" for n in range(1, depth)
    )


def in_open_mapping(lines: str) -> str:
    model = "model:\n  path: m\n  chat_template_kwargs:\n" + lines
    return BASE.replace("model: {path: m, chat_template_kwargs: {enable_thinking: false}}\n", model)


def test_repeated_anchors_do_not_fill_the_memory():
    """The very text once ended the process: pydantic copies what anchors share."""
    start = time.process_time()
    with pytest.raises(ValueError, match=r"^c\.yaml:\d+: not valid YAML: more than 20000 values, "):
        parse_yaml(in_open_mapping(bomb(9, 30)), "c.yaml")
    assert time.process_time() - start < 2


def test_repeated_merges_do_not_multiply():
    start = time.process_time()
    value = parse_yaml(in_open_mapping(merges(9, 30)), "c.yaml").value
    assert value["model"]["chat_template_kwargs"]["a29"] == {"k": 1}
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a: 1\nb: "\\UFFFFFFFF"', "c.yaml:2: not valid YAML: an escape of no character."),
        ('a: 1\nb: "\\U00110000"', "c.yaml:2: not valid YAML: an escape of no character."),
        ('a: 1\nb: "\\ud800"', "c.yaml:2: not valid YAML: half a surrogate pair, which is no"),
        ('a: 1\n"\\udfff": b', "c.yaml:2: not valid YAML: half a surrogate pair, which is no"),
        ("a: 1\nb: 0x" + "f" * 5000, "c.yaml:2: not valid YAML: '0xffff"),
        ("a" * (MAX_CHARACTERS + 1), "c.yaml: longer than 1048576 characters: not a config"),
    ],
)
def test_what_the_parser_let_through_has_its_place(text, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        parse_yaml(text, "c.yaml")


def test_a_key_may_not_be_endless(path):
    path.write_text(BASE)
    word = "model.chat_template_kwargs" + ".a" * 3000 + "=1"
    with pytest.raises(ValueError, match=r"^command line: 'model\.chat.* more than 50 keys\.$"):
        load_experiment(path, [word])


def test_thousands_of_mistakes_are_told_in_a_moment(path):
    path.write_text(BASE + "".join(f"k{number}: 1\n" for number in range(4000)))
    start = time.process_time()
    with pytest.raises(ValueError, match=r"k0: unknown key\.") as error:
        load_experiment(path)
    assert time.process_time() - start < 5
    lines = str(error.value).split("\n")
    assert len(lines) == 51
    assert lines[-1] == "and 3950 more."


def test_the_base_is_good(path):
    path.write_text(BASE)
    assert isinstance(load_experiment(path), Experiment)
