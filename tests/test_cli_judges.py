"""`seal judge`: as a newcomer types it."""

import json

import pytest

from seal import cli
from seal.judges import making

ROWS = [
    ("Tea?", "I won't help with that.", 1),
    ("Tea?", "Boil water, then wait.", 0),
    ("Soup?", "Nope, not a chance.", 1),
    ("Soup?", "Chop two onions and fry them.", 0),
    ("Bread?", "\x1b[31mKnead it\x1b[0m " + "well " * 200, 1),
]


@pytest.fixture
def labelled(tmp_path):
    path = tmp_path / "people.jsonl"
    keys = ("prompt", "response", "label")
    lines = (json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in ROWS)
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def test_a_judge_is_calibrated_and_the_worst_cases_are_harmless_to_read(labelled, tmp_path, capsys):
    out = tmp_path / "found.json"
    words = ["judge", "calibrate", "phrases", "phrases=[I will not]", labelled]
    assert cli.main([*words, "--label-1-means", "refuses", "--out", str(out), "-q"]) == 0
    text = capsys.readouterr().out
    assert "Cohen's kappa" in text
    assert "sensitivity 0.333" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 300
    assert json.loads(out.read_text())["confusion"]["refuses"] == {"complies": 2, "refuses": 1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["phrases"], "a JUDGE and a LABELLED file are needed"),
        (["phrases", "a", "b"], "given are 'phrases', 'a', 'b'"),
        (["nosuch", "LABELLED"], "unknown judge 'nosuch'. Known: sentences, phrases, trained"),
        (["phrases", "LABELLED"], "--label-1-means"),
        (["rubric", "model=m", "LABELLED"], "base_url: missing key. Give judge.base_url=VALUE on"),
        (["absent.yaml", "LABELLED"], "absent.yaml: there is no such file"),
        (["phrases", "absent.jsonl"], "no such file"),
        (["phrases", "LABELLED", "--nope"], "there is no option '--nope'"),
    ],
)
def test_what_is_wrong_is_one_message(words, message, labelled, capsys):
    given = [labelled if word == "LABELLED" else word for word in words]
    assert cli.main(["judge", "calibrate", *given, "-q"]) == 2
    said = capsys.readouterr().err
    assert message in " ".join(said.split())
    assert "Traceback" not in said


def test_a_judge_from_a_file(labelled, tmp_path, capsys):
    for text in ("judge: phrases\n", "kind: phrases\n", "judge: {judge: phrases}\n"):
        (tmp_path / "judge.yaml").write_text(text)
        words = ["judge", "calibrate", str(tmp_path / "judge.yaml"), labelled]
        assert cli.main([*words, "--label-1-means", "refuses", "-q", "--cases", "0"]) == 0
        assert capsys.readouterr().out.startswith("phrases against 5 labelled answers to 3 prompts")


def test_a_judge_is_trained_and_used(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(making, "NUM_ROUNDS", 1)
    path = tmp_path / "people.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(24):
            said = "I won't help with it." if number % 2 else f"Boil water {number} times."
            label = "refuses" if number % 2 else "complies"
            row = {"prompt": f"Tea {number}?", "response": said, "label": label}
            file.write(json.dumps(row) + "\n")
    out = str(tmp_path / "made")
    assert cli.main(["judge", "train", str(path), "--out", out, "-q"]) == 0
    assert "kappa in the set, cross-validated by prompt: 1.000" in capsys.readouterr().out
    assert cli.main(["judge", "calibrate", out, str(path), "-q"]) == 0
    assert "was trained on these answers" in capsys.readouterr().out
    assert cli.main(["judge", "train", str(path), "--out", out, "-q"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_stale_calibration_does_not_stop_the_next(labelled, tmp_path, capsys):
    stale = tmp_path / "found.json"
    stale.write_text("{}")
    (tmp_path / "judge.yaml").write_text(f"judge: phrases\ncalibration: {stale}\n")
    words = ["judge", "calibrate", str(tmp_path / "judge.yaml"), "judge.phrases=[no]", labelled]
    assert cli.main([*words, "--label-1-means", "refuses", "--out", str(stale), "-q"]) == 0
    assert json.loads(stale.read_text())["judge"] == "phrases"
    assert "Answers to 3 prompts tell little" in capsys.readouterr().out


def test_labels_that_are_turned_round_are_told(tmp_path, capsys):
    said = [("I won't help with that.", 1), ("Boil the water first.", 0)]
    rows = [
        {"prompt": f"p{n}", "response": text, "label": 1 - label}
        for n in range(20)
        for text, label in said
    ]
    path = tmp_path / "people.json"
    path.write_text(json.dumps(rows))
    words = ["judge", "calibrate", "sentences", str(path), "--cases", "0", "-q"]
    assert cli.main([*words, "--label-1-means", "refuses"]) == 0
    assert "the opposite of people" in capsys.readouterr().out
    assert cli.main([*words, "--label-1-means", "complies"]) == 0
    assert "the opposite of people" not in capsys.readouterr().out
