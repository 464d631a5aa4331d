"""From YAML and KEY=VALUE to an experiment, and every message on the way."""

import json
import math
import random
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field, model_validator

from seal.artifacts.settings import Settings
from seal.config.arms import arms_of_words
from seal.config.experiment import (
    Experiment,
    dump_experiment,
    json_schema,
    load_experiment,
    starter_config,
)
from seal.config.parse import parse_config
from seal.config.positions import dump_yaml, parse_yaml

REQUIRED = "run_dir: runs/x\nmodel: {path: m}\npool: {path: p.jsonl}\nsafe: {path: s.jsonl}\n"


class Lora(Settings):
    r: int = 16
    modules: tuple[str, ...] | Literal["all-linear"] | None = None


class Slow(Settings):
    method: Literal["slow"] = "slow"
    epochs: int = Field(default=3, ge=1)
    learning_rate: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.95)
    lora: Lora = Lora(r=4)
    slow: str = ""

    @model_validator(mode="after")
    def _check(self) -> "Slow":
        if self.epochs > 100:
            raise ValueError(f"epochs={self.epochs} takes for ever. Lower it.")
        return self


class Quick(Settings):
    method: Literal["quick"] = "quick"
    options: dict[str, Any] = {}
    shares: dict[str, float] = {}


class Source(Settings):
    path: str
    kind: Literal["jsonl", "csv"] = "jsonl"
    checked: bool = False


class Config(Settings):
    """A stand-in for the experiment, with one of each kind of field."""

    out: Path
    title: str = ""
    rank: Annotated[Slow | Quick, Field(discriminator="method")] = Slow()
    sources: tuple[Source, ...] = ()
    model: Source = Source(path="default")
    extra: Source | None = None


def parse(text: str, *overrides: str) -> Config:
    return parse_config(text, "c.yaml", Config, overrides)


def failure(text: str, *overrides: str) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        parse(text, *overrides)
    assert type(caught.value) is ValueError  # not pydantic's own, with its own text
    return str(caught.value)


# ---- YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("1.0e5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.inf", -math.inf),
        ("0123", 123),
        ("0o17", 15),
        ("0xff", 255),
        ("+3", 3),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("Off", "Off"),
        ("true", True),
        ("False", False),
        ("3:30", "3:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("null", None),
        ("", None),
        ("'1e-5'", "1e-5"),
        ("!!str 12", "12"),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = parse_yaml(f"key: {text}", "c.yaml").value["key"]
    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_number() -> None:
    assert math.isnan(parse_yaml(".nan", "c.yaml").value)


def test_keys_are_always_text() -> None:
    assert list(parse_yaml("{0: a, yes: b, null: c, 1.0: d}", "").value) == [
        "0",
        "yes",
        "null",
        "1.0",
    ]


def test_anchors_and_merges() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: [*b, {z: 4, y: 9}]}\nd: *a\n"
    value = parse_yaml(text, "c.yaml").value
    assert value["b"] == {"x": 1, "y": 3}
    assert value["c"] == {"x": 1, "y": 3, "z": 4}
    assert value["d"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: 1\nb: 2\na: 3",
            "c.yaml:3: the key 'a' is given twice (first on line 1). Remove one of them.",
        ),
        ("x:\n  a: 1\n  a: 3", "c.yaml:3: the key 'a' is given twice (first on line 2)"),
        ("a:\n\tb: 1", "c.yaml:2: not valid YAML: a tab. Use spaces to indent."),
        ("a: [1\nb: 2", "c.yaml:2: not valid YAML: expected ',' or ']'"),
        ("a: b: c", "c.yaml:1: not valid YAML: mapping values are not allowed here. Put text"),
        ("a: @b", "Put text with ': ', or that begins with @ or `, in quotes."),
        ("a: 1\n---\nb: 2", "c.yaml:2: not valid YAML: a second document begins here (---)"),
        ("a: 1\nb: \x1b[31m", r"c.yaml:2: not valid YAML: the control character '\x1b'. Remove"),
        ("a: &a [*a]", "c.yaml:1: not valid YAML: an anchor contains itself."),
        ("a: *b", "c.yaml:1: not valid YAML: found undefined alias 'b'."),
        ("a: !!python/name:os.system x", "the tag !!python/name:os.system is not supported here."),
        ("a: !mine x", "c.yaml:1: not valid YAML: the tag !mine is not supported here."),
        ("a: !!int x", "c.yaml:1: not valid YAML: 'x' is no valid int."),
        ("a: " + "9" * 5000, "is no valid int."),
        ("? [a]\n: 1", "c.yaml:1: not valid YAML: a key must be plain text."),
        ("<<: 3", "c.yaml:1: not valid YAML: << takes a mapping, or a list of mappings."),
        ("[" * 5000, "c.yaml: not valid YAML: nested too deeply."),
        ("- a", "c.yaml:1: expected a mapping (key: value) at the top, got a list of 1."),
        ("word", "c.yaml:1: expected a mapping (key: value) at the top, got 'word'."),
    ],
)
def test_what_is_not_yaml_is_one_line_with_its_place(text: str, message: str) -> None:
    found = failure(text)
    assert message in found
    assert "\n" not in found


def test_anchors_that_multiply_beyond_memory_are_refused() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    assert parse_yaml("\n".join(lines[:5]), "c.yaml").value["a1"] == [["x"], ["x"]]
    message = "c.yaml:14: not valid YAML: more than 20000 values, all anchors written out."
    assert failure("\n".join(lines)) == message


def test_dumped_text_survives_both_yaml_versions() -> None:
    draw = random.Random(0)
    alphabet = "aE1-+.:# \n\t'\"{}[]&*!|>%@`,?~\x85\u2028\x1b0x_oényt\\<"
    words = ["yes", "1e-5", "0123", "3:30", "2024-01-01", "~", "", "null", "<<", "=", "1_0", ".inf"]
    words += ["".join(draw.choices(alphabet, k=draw.randint(0, 8))) for _ in range(300)]
    for word in words:
        value = {"key": word, word: [word, {"x": [1, 1e-7, True, None]}]}
        assert parse_yaml(dump_yaml(value), "c.yaml").value == value
        assert yaml.safe_load(dump_yaml(value)) == value


# ---- values and overrides


def test_a_config_is_read() -> None:
    text = "out: o\nrank:\n  method: slow\n  learning_rate: 1e-4\nsources:\n- {path: a}\n"
    config = parse(text)
    assert config.rank == Slow(learning_rate=1e-4)
    assert config.sources == (Source(path="a"),)


def test_numbers_in_open_dictionaries_are_numbers() -> None:
    config = parse("out: o\nrank: {method: quick, options: {lr: 1e-5, flag: no}}")
    assert config.rank == Quick(options={"lr": 1e-5, "flag": "no"})


def test_text_is_kept_as_it_was_written() -> None:
    config = parse("out: 2024\ntitle: 0123456\nmodel: {path: 12e4567}", "sources=[{path: 1e5}]")
    assert (config.out, config.title, config.model.path) == (Path("2024"), "0123456", "12e4567")
    assert config.sources[0].path == "1e5"
    assert parse("out: o", "title=true").title == "true"


def test_the_words_yes_and_no_work_for_switches() -> None:
    assert parse("out: o\nmodel: {path: x, checked: yes}").model.checked
    assert parse("out: o", "title=no").title == "no"


def test_an_empty_section_is_as_good_as_none() -> None:
    assert parse("out: o\nmodel:\nextra:\n").model == Source(path="default")
    assert parse("out: o\nrank: {method: slow, lora: }").rank == Slow()  # with its r of 4


def test_an_override_beats_the_file_and_a_later_one_an_earlier() -> None:
    text = "out: o\nrank: {method: slow, epochs: 5}\n"
    config = parse(text, "rank.epochs=7", "rank.lora.r=2", "rank.epochs=8", "title='a: b'")
    assert config.rank == Slow(epochs=8, lora=Lora(r=2))
    assert config.title == "a: b"


def test_an_override_of_a_section_replaces_it() -> None:
    text = "out: o\nrank: {method: slow, epochs: 5}\n"
    assert parse(text, "rank={method: quick}").rank == Quick()


def test_a_value_may_hold_the_equals_sign() -> None:
    assert parse("out: o", "title=a=b").title == "a=b"


def test_overrides_do_not_leak_through_anchors() -> None:
    text = "out: o\nmodel: &m {path: a}\nextra: *m\n"
    config = parse(text, "model.path=b")
    assert config.model.path == "b"
    assert config.extra == Source(path="a")


def test_overrides_reach_into_lists() -> None:
    text = "out: o\nsources:\n- {path: a}\n- {path: b}\n"
    paths = [source.path for source in parse(text, "sources.1.path=c", "sources.2.path=d").sources]
    assert paths == ["a", "c", "d"]
    assert parse("out: o", "sources.0.path=a").sources == (Source(path="a"),)
    assert parse("out: o\nsources: [{path: a}]", "sources.path=b").sources[0].path == "b"


def test_a_number_is_a_key_where_there_is_no_list() -> None:
    config = parse("out: o", "rank.method=quick", "rank.shares.0=0.5")
    assert config.rank == Quick(shares={"0": 0.5})


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = parse("out: ~/a\nsources: [{path: ~/b}]", "model.path=~/c")
    assert config.out == Path("/home/me/a")
    assert (config.sources[0].path, config.model.path) == ("/home/me/b", "/home/me/c")


# ---- messages

MESSAGES = [
    (
        "out: o\nrank:\n  method: slow\n  epoch: 1",
        "c.yaml:4: rank.epoch: unknown key. Did you mean 'epochs'?",
    ),
    (
        "out: o\nrank: {method: slow, epochs: many}",
        "c.yaml:2: rank.epochs: expected an integer, got 'many'.",
    ),
    (
        "out: o\nrank: {method: slow, epochs: 1.5}",
        "c.yaml:2: rank.epochs: expected an integer, got 1.5.",
    ),
    (
        "out: o\nrank: {method: slow, epochs: 0}",
        "c.yaml:2: rank.epochs: expected a value >= 1, got 0.",
    ),
    (
        "out: o\nrank: {method: slow, epochs: true}",
        "c.yaml:2: rank.epochs: expected a number, got true.",
    ),
    (
        "out: o\nrank: {method: slow, betas: [0.9, false]}",
        "c.yaml:2: rank.betas.1: expected a number, got false.",
    ),
    (
        "out: o\nrank: {method: slow, learning_rate: [1]}",
        "c.yaml:2: rank.learning_rate: expected a number, got a list of 1.",
    ),
    (
        "out: o\nrank: {method: slow, betas: [0.9]}",
        "c.yaml:2: rank.betas.1: missing: expected at least 2 items, got a list of 1.",
    ),
    (
        "out: o\nrank: {method: slow, betas: [1, 2, 3]}",
        "c.yaml:2: rank.betas: expected a length of at most 2, got a list of 3.",
    ),
    (
        "out: o\nrank: {method: slow, epochs: 200}",
        "c.yaml:2: rank: epochs=200 takes for ever. Lower it.",
    ),
    (
        "out: o\nrank:\n  method: slwo",
        "c.yaml:3: rank.method: unknown method 'slwo'. Did you mean 'slow'? Known: slow, quick.",
    ),
    (
        "out: o\nrank:\n  method: zebra",
        "c.yaml:3: rank.method: unknown method 'zebra'. Known: slow, quick.",
    ),
    (
        "out: o\nrank:\n  options: {}",
        "c.yaml:3: rank.options: unknown key. The keys here with "
        "method slow: method, epochs, learning_rate, betas, lora, slow. options is a key of method "
        "quick: set rank.method.",
    ),
    (
        "out: o\nrank: quick",
        "c.yaml:2: rank: expected a mapping (key: value), got 'quick'. Write {method: quick}.",
    ),
    (
        "out: o\nrank: {method: quick, epochs: 3}",
        "c.yaml:2: rank.epochs: unknown key. The keys here with method quick: method, options, "
        "shares. epochs is a key of method slow: set rank.method.",
    ),
    (
        "out: o\nrank: {method: slow, shares: {web: 1}}",
        "c.yaml:2: rank.shares: unknown key. The keys here with method slow: method, epochs, "
        "learning_rate, betas, lora, slow. shares is a key of method quick: set rank.method.",
    ),
    (
        "out: o\nrank: {method: quick, shares: {web: x}}",
        "c.yaml:2: rank.shares.web: expected a number, got 'x'.",
    ),
    (
        "out: o\nlearning_rate: 1",
        "c.yaml:2: learning_rate: unknown key here. Did you mean 'rank.learning_rate'?",
    ),
    (
        "out: o\nzebra: 1",
        "c.yaml:2: zebra: unknown key. The keys here: out, title, rank, sources, model, extra.",
    ),
    (
        "out: o\nrank: {method: slow, slow: 3, lora: {rr: 1}}",  # a key named like the tag
        "c.yaml:2: rank.lora.rr: unknown key. Did you mean 'r'?",
    ),
    (
        "out: o\nrank:\n  method: slow\n  lora:\n    modules: 5",
        "c.yaml:5: rank.lora.modules: expected a list or 'all-linear', got 5. Write ['5'].",
    ),
    (
        "out: o\nrank: {method: slow, lora: {modules: [a, [b]]}}",
        "c.yaml:2: rank.lora.modules.1: expected text, got a list of 1.",
    ),
    (
        "out: o\nmodel: {path: x, kind: jsnl}",
        "c.yaml:2: model.kind: expected 'jsonl' or 'csv', got 'jsnl'. Did you mean 'jsonl'?",
    ),
    (
        "out: o\nmodel: {path: x, checked: 7}",
        "c.yaml:2: model.checked: expected true or false, got 7.",
    ),
    (
        "out: o\nmodel: 3",
        "c.yaml:2: model: expected a mapping (key: value), got 3. Write {path: FILE}.",
    ),
    ("out: o\nmodel: {path: }", "c.yaml:2: model.path: expected text, got nothing (null)."),
    ("out:", "c.yaml:1: out: expected a path, got nothing (null)."),
    ("out: o\nsources: a", "c.yaml:2: sources: expected a list, got 'a'. Write [{path: a}]."),
    (
        "title: t",
        "c.yaml:1: out: missing key. Add it to c.yaml, or give out=VALUE on the command line.",
    ),
    ("ou: o", "c.yaml:1: ou: unknown key. Did you mean 'out'?"),  # and not: out is missing
    (
        "out: o\nsources:\n- path: a\n-\n  kind: csv",
        "c.yaml:5: sources.1.path: missing key. Add it to c.yaml, or give sources.1.path=VALUE on "
        "the command line.",
    ),
    (
        'out: o\n"\\e[31m": 1',
        r"c.yaml:2: '\x1b[31m': unknown key. The keys here: out, title, rank, sources, model, "
        "extra.",
    ),
]


@pytest.mark.parametrize(("text", "message"), MESSAGES)
def test_a_mistake_in_the_file(text: str, message: str) -> None:
    assert failure(text) == message


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("rank.epoch=1", "command line: rank.epoch: unknown key. Did you mean 'epochs'?"),
        ("rnk.epochs=1", "command line: rnk: unknown key. Did you mean 'rank'?"),
        ("rank.epochs=many", "command line: rank.epochs: expected an integer, got 'many'."),
        (
            "sources=a",
            "command line: sources: expected a list, got 'a'. Write sources='[{path: a}]'.",
        ),
        ("rank.epochs", "command line: 'rank.epochs' is not of the form KEY=VALUE, such as rank."),
        ("=1", "command line: '=1' is not of the form KEY=VALUE"),
        ("rank..epochs=1", "command line: 'rank..epochs=1' is not of the form KEY=VALUE"),
        (
            "title=[draft] one",
            "command line: title: not valid YAML: expected '<document start>', but found "
            "'<scalar>'. For plain text, quote twice: title='\"TEXT\"'.",
        ),
        (
            "title.x=1",
            "command line: title.x: title is 'old', not a mapping. Give title as a whole: "
            "title='{KEY: VALUE}'.",
        ),
        (
            "sources.path=x",
            "command line: sources.path: sources is a list of 2. Say which: sources.0.path=VALUE.",
        ),
        (
            "sources.5.path=x",
            "command line: sources.5.path: sources is a list of 2, counted from 0. The next place "
            "in it is sources.2.",
        ),
        ("sources.1.pth=x", "command line: sources.1.pth: unknown key. Did you mean 'path'?"),
    ],
)
def test_a_mistake_on_the_command_line(word: str, message: str) -> None:
    text = "out: o\ntitle: old\nrank: {method: slow}\nsources: [{path: a}, {path: b}]\n"
    assert failure(text, word).startswith(message)


def test_without_a_file_a_missing_key_is_told_with_all_it_needs() -> None:
    with pytest.raises(ValueError, match=r"command line: out: missing key\. Give out=VALUE, or"):
        parse_config("", "command line", Config)


def test_every_mistake_has_its_line() -> None:
    text = "out: o\nrank:\n  method: slow\n  epoch: 1\n  epochs: many\nmodel: {pth: x}\n"
    assert failure(text, "extra.path=[1]").splitlines() == [
        "c.yaml:5: rank.epochs: expected an integer, got 'many'.",
        "c.yaml:4: rank.epoch: unknown key. Did you mean 'epochs'?",
        "c.yaml:6: model.pth: unknown key. Did you mean 'path'?",
        "command line: extra.path: expected text, got a list of 1.",
    ]
    assert failure(text, "a", "b").count("is not of the form KEY=VALUE") == 2


def test_a_mistake_inside_a_merge_is_told_where_it_was_written() -> None:
    assert failure("out: o\nmodel: &m\n  pth: a\nextra: {<<: *m, path: b}\n").splitlines() == [
        "c.yaml:3: model.pth: unknown key. Did you mean 'path'?",
        "c.yaml:3: extra.pth: unknown key. Did you mean 'path'?",
    ]


# ---- the experiment


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "exp.yaml"
    path.write_text(REQUIRED, encoding="utf-8")
    return path


def test_the_least_experiment(config_file: Path) -> None:
    experiment = load_experiment(config_file)
    assert experiment.rank.method == "two_sided"
    assert experiment.seeds == (0,)
    assert [source.path for source in experiment.safe] == ["s.jsonl"]
    words = ["run_dir=runs/x", "model.path=m", "pool.path=p.jsonl", "safe.path=s.jsonl"]
    assert load_experiment(None, words) == experiment


def test_the_ranker_is_two_sided_unless_named(config_file: Path) -> None:
    assert load_experiment(config_file, ["rank.rounds=7"]).rank.model_dump()["rounds"] == 7
    assert load_experiment(config_file, ["rank="]).rank.method == "two_sided"
    assert load_experiment(config_file, ["rank.method=random"]).rank.method == "random"


def test_safe_is_one_or_several(config_file: Path) -> None:
    words = ["safe.1.path=t.jsonl", "safe.0.split=test"]
    first, second = load_experiment(config_file, words).safe
    assert (first.path, first.split, second.path) == ("s.jsonl", "test", "t.jsonl")
    with pytest.raises(ValueError, match=r"exp.yaml:4: safe.pth: unknown key. Did you mean 'path'"):
        parse_config(REQUIRED.replace("{path: s", "{pth: s"), "exp.yaml", Experiment)
    with pytest.raises(ValueError, match=r"^command line: safe.0.pth: unknown key"):
        load_experiment(config_file, ["safe.pth=1", "safe.1.path=t"])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seeds=[]", "command line: seeds: an empty list. Give at least one."),
        ("seeds=[1, 1]", "command line: seeds: 1 is given twice. Remove one of them."),
        ("seeds=[-1]", "command line: seeds.0: expected a value >= 0, got -1."),
        ("seeds=3", "command line: seeds: expected a list, got 3. Write seeds='[3]'."),
        ("arms=[]", "command line: arms: an empty list. Give at least one."),
        ("arms=[all, all]", "command line: arms.1: 'all' is given twice. Remove one of them, or"),
        ("safe=[]", "command line: safe: an empty list. Give at least one."),
        (
            "arms=[selectd]",
            "command line: arms.0: expected base, all, random, selected, oracle or a mapping such "
            "as {name: mine, rank: {method: dsir}}, got 'selectd'. Did you mean 'selected'?",
        ),
        (
            "rank.method=sael",
            "command line: rank.method: unknown method 'sael'. Did you mean 'seal'? Known: ",
        ),
    ],
)
def test_mistakes_in_an_experiment(config_file: Path, word: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        load_experiment(config_file, [word])


def test_the_cut_may_be_found(config_file: Path) -> None:
    assert load_experiment(config_file, ["select=auto"]).select.auto
    assert load_experiment(config_file, ["select.auto=true"]).select.auto
    trusted = load_experiment(config_file, ["select.reference=safe", "holdout=0.25"])
    assert (trusted.select.reference, trusted.holdout) == ("safe", 0.25)
    assert trusted.select.error_rate == 0.05
    for words, message in (
        (
            ["select.reference=safe"],
            r"select\.reference: safe needs safe rows .* Set holdout, su",
        ),
        (["select=best"], r"^command line: select: 'best' is no rule\. Give auto, or keys such as"),
        (
            ["rank={method: from_file, path: x}", "holdout=0.25"],
            r"holdout=0\.25 has the ranker score safe rows, which rank\.method=from_file has no",
        ),
        (["holdout=0.6"], r"^command line: holdout: expected a value <= 0\.5, got 0\.6\."),
    ):
        with pytest.raises(ValueError, match=message):
            load_experiment(config_file, words)
    schema = json.loads(json_schema())
    assert {"const": "auto", "type": "string"} in schema["properties"]["select"]["anyOf"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no.yaml: no such file\. Give a YAML file; `seal"):
        load_experiment(tmp_path / "no.yaml")
    with pytest.raises(FileNotFoundError, match="a folder, not a file"):
        load_experiment(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("a: 1\ntitle: caf\xe9".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.yaml:2: not UTF-8 text\. Save the file as UTF-8"):
        load_experiment(tmp_path / "latin.yaml")


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + REQUIRED.encode())
    assert load_experiment(tmp_path / "bom.yaml").run_dir == Path("runs/x")


def test_a_dumped_experiment_loads_as_its_equal(config_file: Path, tmp_path: Path) -> None:
    words = [
        "title='3:30'",
        "model.revision='1e5'",
        "rank.method=seal",
        "rank.learning_rate=1e-7",
        "rank.lora.target_modules=[q_proj, v_proj]",
        "safe.1.path=t.jsonl",
        "select.quotas={yes: 0.5, '0': 1}",
        "model.chat_template_kwargs={enable_thinking: false, x: 1e-5, y: 'no'}",
    ]
    experiment = load_experiment(config_file, words)
    text = dump_experiment(experiment)
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_experiment(path) == experiment
    assert dump_experiment(load_experiment(path)) == text
    assert text.startswith("# Resolved by seal")


def test_the_starter_is_valid_once_its_paths_are_filled_in() -> None:
    text = starter_config()
    filled = parse_config(text.replace("path:\n", "path: x\n"), "starter", Experiment)
    assert filled == parse_config(
        "{run_dir: runs/first, model: {path: x}, pool: {path: x}, safe: {path: x}}", "", Experiment
    )
    with pytest.raises(ValueError, match=r"starter:\d+: model.path: expected text, got nothing"):
        parse_config(text, "starter", Experiment)
    for name in Experiment.model_fields:
        assert re.search(rf"^#?{name}:", text, re.MULTILINE), name
    assert max(map(len, text.splitlines())) <= 100


def test_the_starter_shows_the_defaults_and_what_they_mean() -> None:
    text = starter_config()
    assert "  # Rounds of" in text
    uncommented = re.sub(
        r"^( *)#(?=\w+: )", r"\1", text.replace("path:\n", "path: x\n"), flags=re.M
    )
    defaults = parse_config(uncommented, "starter", Experiment)
    assert defaults.rank == Experiment.model_fields["rank"].default
    assert defaults.arms == Experiment.model_fields["arms"].default


def test_the_schema_is_for_editors() -> None:
    schema = json.loads(json_schema())
    assert {"run_dir", "model", "pool", "safe"} == set(schema["required"])
    assert schema["additionalProperties"] is False
    assert {"$ref": "#/$defs/DataSpec"} in schema["properties"]["safe"]["anyOf"]
    assert "method" in schema["$defs"]["Random"]["required"]


# --- arms ----------------------------------------------------------------------------------------

ARMS = """\
arms:
- base
- all
- {name: dsir, rank: {method: dsir, num_buckets: 64}, select: auto}
- name: selected+safe
  mix: {data: {path: x.jsonl}, share: 0.1}
- {name: halfway, merge: {method: interpolate, of: all, weight: 0.5}}
"""


def test_arms_are_words_and_mappings() -> None:
    experiment = parse_config(REQUIRED + ARMS, "exp.yaml", Experiment)
    base, everything, dsir, safe, halfway = experiment.arms
    assert (base, everything) == arms_of_words("base", "all")
    assert (dsir.train_on, dsir.rank.method, dsir.select.auto) == ("selected", "dsir", True)
    assert (safe.train_on, safe.rank, safe.mix.share) == ("selected", None, 0.1)
    assert (halfway.merge.of, halfway.merge.weight) == ("all", 0.5)
    assert [arm.is_trained for arm in experiment.arms] == [False, True, True, True, False]
    assert [arm.is_base for arm in experiment.arms] == [True, False, False, False, False]
    assert [experiment.seeds_of(arm) for arm in (base, halfway)] == [(0,), (0,)]
    assert experiment.trains_with(everything).mix is None
    assert experiment.trains_with(safe).mix.share == 0.1
    mixed = parse_config(
        REQUIRED + ARMS + "train: {mix: {data: {path: y}, share: 0.5}}", "", Experiment
    )
    shares = [mixed.trains_with(mixed.arm(name)).mix.share for name in ("all", "selected+safe")]
    assert shares == [0.5, 0.1]


def test_arms_are_written_as_they_are_read() -> None:
    """Words as words; a mapping with all that its parts stand for, and nothing that is not said."""
    experiment = parse_config(REQUIRED + ARMS, "exp.yaml", Experiment)
    text = dump_experiment(experiment)
    assert "\narms:\n- base\n- all\n- name: dsir\n  train_on: selected\n  rank:\n" in text
    assert "- name: halfway\n  merge:\n    of: all\n    method: interpolate\n" in text
    again = parse_config(text, "config.yaml", Experiment)
    assert again == experiment
    assert dump_experiment(again) == text
    words = parse_config(f"{REQUIRED}arms: [base, oracle]", "", Experiment)
    assert "\narms: [base, oracle]\n" in dump_experiment(words)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ("- ../x", "6: arms.0: expected base, all, random, selected, oracle or a mapping such as"),
        ("- all\n- 3", "7: arms.1: expected a mapping (key: value), got 3. Write {name: mine}."),
        ("- {name: ../x}", "6: arms.0.name: '../x' cannot be the name of a folder. Give up to 100"),
        ("- {name: .x}", "6: arms.0.name: '.x' cannot be the name of a folder."),
        ("- {name: x.}", "6: arms.0.name: 'x.' cannot be the name of a folder."),
        ("- {name: '" + 101 * "x" + "'}", "6: arms.0.name: 'xxx"),
        (
            "- {name: sft, train_on: all}",
            "6: arms.0: the arm 'sft' is nothing but train_on: all, which is called 'all' every",
        ),
        ("- {name: x, train_on: base}", "6: arms.0: the arm 'x' is nothing but train_on: base, "),
        ("- {nam: x}", "6: arms.0.nam: unknown key. Did you mean 'name'?"),
        (
            "- {name: x, train_on: al}",
            "6: arms.0.train_on: expected 'base', 'all', 'random', 'selected' or 'oracle', got "
            "'al'. Did you mean 'all'?",
        ),
        (
            "- {name: all, mix: {data: {path: x}, share: 0.5}}",
            "6: arms.0: the name 'all' stands for train_on: all and nothing else. Give this arm "
            "another name, such as all-2.",
        ),
        (
            "- all\n- name: x\n  train_on: base\n  mix: {data: {path: x}, share: 0.5}",
            "7: arms.1: train_on: base trains nothing, so mix would be ignored. Remove mix.",
        ),
        (
            "- {name: x, train_on: all, rank: {method: dsir}, select: auto}",
            "6: arms.0: train_on: all does not look at a selection, so rank and select would be "
            "ignored. Remove rank and select.",
        ),
        (
            "- all\n- {name: x, merge: {of: all, weight: 1}, train_on: selected}",
            "7: arms.1: merge takes the training of all as it is, so train_on would be ignored. "
            "Remove train_on.",
        ),
        (
            "- {name: x}\n- base\n- {name: X}",
            "8: arms.2: 'X' is given twice. Remove one of them, or give it another name.",
        ),
        (
            "- all\n- {name: x, merge: {of: al, weight: 1}}",
            "7: arms.1.merge: of='al' names no arm that is trained. Those are: all. Did you mean "
            "'all'?",
        ),
        (
            "- base\n- {name: x, merge: {of: base, weight: 1}}",
            "7: arms.1.merge: of='base' names no arm that is trained. There is none: add one to",
        ),
        (
            "- all\n- {name: x, merge: {of: all, weight: 1}}\n"
            "- {name: y, merge: {of: x, weight: 1}}",
            "8: arms.2.merge: of='x' names no arm that is trained. Those are: all.",
        ),
        (
            "- all\n- {name: x, merge: {of: all, weight: 2}}",
            "7: arms.1.merge.weight: expected a value <= 1.0, got 2.",
        ),
        (
            "- {name: x,\n   rank: {method: toss}}",
            "7: arms.0.rank: method=toss needs harmful references, and there are none. Give some "
            "as harmful.path, or choose a ranker that needs none (docs/how-to-choose.md).",
        ),
        (
            "- {name: x,\n   select: {reference: safe}}",
            "7: arms.0.select: reference: safe needs safe rows that the ranker did not measure "
            "against. Set holdout, such as holdout=0.2.",
        ),
        (
            "- {name: x,\n   rank: {method: from_file, path: y}}\nholdout: 0.2",
            "7: arms.0.rank: holdout=0.2 has the ranker score safe rows, which "
            "method=from_file has no scores for. Set holdout=0, or another ranker.",
        ),
    ],
)
def test_mistakes_in_arms(arms: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(f"exp.yaml:{message}")) as caught:
        parse_config(f"{REQUIRED}arms:\n{arms}\n", "exp.yaml", Experiment)
    assert len(str(caught.value).splitlines()) == 1


def test_an_arm_may_have_what_the_experiment_provides() -> None:
    arms = "arms: [{name: x, rank: {method: toss}, select: {reference: safe}}]\n"
    words = ["harmful.path=h.jsonl", "holdout=0.2"]
    experiment = parse_config(REQUIRED + arms, "", Experiment, words)
    assert experiment.arms[0].rank.method == "toss"


def test_the_schema_takes_words_and_mappings_for_arms() -> None:
    schema = json.loads(json_schema())
    arm, word = schema["properties"]["arms"]["items"]["anyOf"]
    assert arm == {"$ref": "#/$defs/ArmSettings"}
    assert word["enum"] == ["base", "all", "random", "selected", "oracle"]
    assert schema["properties"]["arms"]["default"] == ["base", "all", "random", "selected"]
    select = schema["$defs"]["ArmSettings"]["properties"]["select"]["anyOf"]
    assert {"const": "auto", "type": "string"} in select
    assert "\n#arms: [base, all, random, selected]\n" in starter_config()
