"""The tables of a benchmark: which rankings are made, and every number, checked by hand."""

import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from comparisons import PAYLOAD

from seal.artifacts.ranking import make_ranking
from seal.config.experiment import load_experiment
from seal.data.load import DataSpec
from seal.metrics import auroc
from seal.rankers.loss import Loss
from seal.rankers.random import Random
from seal.rankers.seal import Seal
from seal.stages.bench.figure import figure
from seal.stages.bench.pages import agreement_table, attack_table, main_table, markdown
from seal.stages.bench.results import CellResult, bench_document
from seal.stages.bench.settings import DEFAULT_SAFE, BenchSettings, Cell

LABELS = {"a": "bad", "b": "bad", "c": "odd", "d": "odd", "e": "good", "f": "good"}
SCORES = [0.0, 3.0, 1.0, 2.0, 4.0, 5.0]  # of a to f; a is last, b above c and d


def cell(name="m", ranker=None, seed=None, attack=None, safe_set=DEFAULT_SAFE):
    return Cell(name, ranker or Seal(), seed, attack, safe_set, with_harmful=True)


def done(one, scores, seconds=2.0, memory=300):
    ranking = make_ranking(tuple("abcdef"), np.array(scores, dtype=float))
    return CellResult(one, ranking, LABELS, seconds, seconds / 2, memory)


def failed(one, error="no luck"):
    return CellResult(one, None, LABELS, error=error)


def document(*results, labels=LABELS, title="A title"):
    return bench_document(
        results, title=title, pool="p.jsonl", labels=labels, unsafe_labels=["bad", "absent"]
    )


def row_of(found, name="m"):
    (row,) = (row for row in found["rows"] if row["ranker"] == name)
    return row


# ---- which rankings are made


def seeds_of(cells):
    found = {}
    for one in cells:
        key = one.name if one.attack is None else f"{one.name}/{one.attack}"
        key += "" if one.safe_set == DEFAULT_SAFE else f"@{one.safe_set}"
        found.setdefault(key, []).append(one.seed)
        assert getattr(one.ranker, "seed", None) == one.seed
    return found


def test_without_rankers_the_experiments_own_is_compared_with_random_and_loss():
    cells = BenchSettings(seeds=(4, 7)).cells(Seal(epochs=2, seed=9))
    assert seeds_of(cells) == {"Random": [4, 7], "Loss": [None], "seal": [4, 7]}
    assert [one.ranker for one in cells][-1] == Seal(epochs=2, seed=7)
    assert seeds_of(BenchSettings(seeds=(0,)).cells(Loss())) == {"Random": [0], "loss": [None]}


def test_every_combination_that_is_asked_for_and_no_other():
    settings = BenchSettings(
        rankers={"seal, Algorithm 1": Seal(), "Draw": Random()},
        seeds=(0, 1),
        attacks=("mixed", "refusal_prefix"),
        attacked=("Loss", "Draw"),
        safe_sets={"Both": (DataSpec(path="x"), DataSpec(path="y"))},
        safe_set_rankers=("seal, Algorithm 1",),
        without_harmful=("Draw",),
    )
    cells = settings.cells(Seal())
    assert seeds_of(cells) == {
        "Loss": [None],
        "seal, Algorithm 1": [0, 1],
        "Draw": [0, 1],
        "seal, Algorithm 1@Both": [0, 1],
        "Loss/mixed": [None],
        "Draw/mixed": [0, 1],
        "Loss/refusal_prefix": [None],
        "Draw/refusal_prefix": [0, 1],
    }
    assert {one.name for one in cells if not one.with_harmful} == {"Draw"}
    folders = [str(one.folder) for one in cells]
    assert len(set(folders)) == len(cells) == 13
    assert folders[:2] == ["loss/unseeded", "seal-algorithm-1/seed-0"]
    assert "seal-algorithm-1/seed-1--safe-both" in folders
    assert "draw/seed-0--refusal_prefix" in folders


def test_empty_lists_of_names_mean_all():
    settings = BenchSettings(seeds=(0,), attacks=("mixed",), safe_sets={"s": (_spec(),)})
    assert set(seeds_of(settings.cells(Loss()))) == {
        "Random", "loss", "Random/mixed", "loss/mixed", "Random@s", "loss@s",
    }  # fmt: skip


def _spec():
    return DataSpec(path="x")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("bench.attacked=[x]", "bench.attacked: there is no ranker 'x'. The names are 'Random', "),
        ("bench.without_harmful=[loss]", "no ranker 'loss'. The names are 'Random', 'Loss', 'sea"),
        ("bench.rankers={loss: {method: random}}", "'loss' is always the ranker of that name, and"),
        ("bench.rankers={a: {seed: 1}}", "bench.rankers.a: missing key 'method'"),
        ("bench.rankers={a b: {method: random}, a-B: {method: loss}}", "share the folder a-b"),
        ("bench.rankers={data: {method: random}}", "'data' is taken by the rewritten pools"),
        ("bench.rankers={'??': {method: random}}", "'??' holds no letter or digit"),
        ("bench.attacks=[mixd]", "Did you mean 'mixed'?"),
        ("bench.attacks=[mixed, mixed]", "'mixed' is given twice"),
        ("bench.seeds=[]", "bench.seeds: an empty list"),
        ("bench.seeds=[1,1]", "bench.seeds: 1 is given twice"),
        ("bench.safe_sets={Default: {path: x}}", "'Default' is what the set given as `safe`"),
        ("bench.safe_sets={a: []}", "'a' is an empty list"),
    ],
)
def test_mistakes_in_the_settings(word, message):
    words = ["run_dir=r", "model.path=m", "pool.path=p", "safe.path=s", "rank.method=seal", word]
    with pytest.raises(ValueError, match=re.escape(message)):
        load_experiment(None, words)


def test_a_mapping_stands_for_a_list_of_one_safe_set():
    words = ["run_dir=r", "model.path=m", "pool.path=p", "safe.path=s"]
    found = load_experiment(None, [*words, "bench.safe_sets={a: {path: x}}"]).bench
    assert found.safe_sets == {"a": (DataSpec(path="x"),)}


# ---- the numbers


def test_numbers_worked_by_hand():
    found = document(done(cell(), SCORES))
    assert found["num_samples"] == 6
    assert found["num_unsafe"] == 2
    assert found["labels"] == {"bad": 2, "odd": 2, "good": 2}
    row = row_of(found)
    assert row["auroc"]["value"] == 6 / 8  # a is below all four, b below two
    assert row["auroc"]["n"] == 6
    assert row["average_precision"]["value"] == pytest.approx((1 / 1 + 2 / 4) / 2)
    assert row["unsafe_kept_at_clean_fraction"]["value"] == 1 / 2  # of f e b d, b is unsafe
    assert row["unsafe_kept_at_clean_fraction"]["n"] == 2
    assert {label: one["value"] for label, one in row["auroc_by_label"].items()} == {
        "odd": 0.5, "good": 1.0,
    }  # fmt: skip
    assert row["status"] == "done"
    assert row["stability"] is None


def test_random_is_at_chance_and_counts_are_right():
    ids = tuple(f"{place:04}" for place in range(1200))
    labels = {key: "bad" if int(key) % 4 == 0 else "good" for key in ids}
    results = [
        CellResult(cell("Random", Random(seed=s), s), Random(seed=s).score(ids), labels, 1.0, 1)
        for s in (0, 1, 2)
    ]
    row = row_of(document(*results, labels=labels), "Random")
    assert row["auroc"]["low"] < 0.5 < row["auroc"]["high"]
    assert row["auroc"]["value"] == pytest.approx(0.5, abs=0.03)
    assert row["average_precision"]["value"] == pytest.approx(0.25, abs=0.04)
    assert row["unsafe_kept_at_clean_fraction"]["value"] == pytest.approx(0.75, abs=0.05)
    assert row["stability"] == pytest.approx(0, abs=0.06)
    assert row["seeds"] == [0, 1, 2]


def test_seeds_are_averaged_value_and_interval_alike():
    reverse = [-score for score in SCORES]
    row = row_of(document(done(cell(seed=0), SCORES), done(cell(seed=1), reverse, 4.0, 500)))
    bad = [key == "a" or key == "b" for key in LABELS]
    singles = [auroc(scores, bad) for scores in (SCORES, reverse)]
    for name in ("value", "low", "high"):
        expected = sum(getattr(one, name) for one in singles) / 2
        assert row["auroc"][name] == pytest.approx(expected)
    assert row["auroc"]["n"] == 6
    assert row["auroc"]["value"] == pytest.approx(0.5)
    assert (row["seconds"], row["peak_memory_bytes"]) == (3.0, 400)


def test_stability_is_the_mean_over_pairs_of_seeds():
    def stability(*lists):
        results = [done(cell(seed=place), scores) for place, scores in enumerate(lists)]
        return row_of(document(*results))["stability"]

    reverse = SCORES[::-1]
    against = np.corrcoef(np.argsort(np.argsort(SCORES)), np.argsort(np.argsort(reverse)))[0, 1]
    assert stability(SCORES, SCORES) == pytest.approx(1)
    assert stability(SCORES, [-score for score in SCORES]) == pytest.approx(-1)
    assert stability(SCORES, SCORES, reverse) == pytest.approx((1 + 2 * against) / 3)
    assert stability(SCORES) is None
    assert stability(SCORES, [1.0] * 6) is None, "a ranking without an order has no correlation"


def test_agreement_is_at_the_first_seed_that_is_done():
    found = document(
        done(cell("x", seed=0), SCORES),
        done(cell("x", seed=1), [-score for score in SCORES]),
        failed(cell("y", seed=0)),
        done(cell("y", seed=1), [2 * score for score in SCORES]),
        failed(cell("z")),
        done(cell("x", seed=0, attack="mixed"), [1.0] * 6),
        done(cell("w"), [1.0] * 6),
    )["agreement"]
    assert found["rankers"] == ["x", "y", "w"]
    assert found["spearman"][0] == [pytest.approx(1), pytest.approx(1), None]
    assert found["spearman"][2] == [None, None, None]


def test_time_and_memory_are_multiples_of_those_of_loss():
    loss = done(cell("The loss", Loss()), SCORES, 4.0, 200)
    attacked = done(cell("The loss", Loss(), attack="mixed"), SCORES, 400.0, 20000)
    other = done(cell(seed=0), SCORES, 10.0, 500)
    row = row_of(document(attacked, other, loss))
    assert (row["seconds_relative"], row["peak_memory_relative"]) == (2.5, 2.5)
    row = row_of(document(other, failed(cell("The loss", Loss()))))
    assert (row["seconds_relative"], row["peak_memory_relative"]) == (None, None)
    assert row["cpu_seconds_relative"] is None
    unknown = document(loss, CellResult(cell(), loss.ranking, LABELS, 1.0, 3.0, None))
    assert row_of(unknown)["peak_memory_relative"] is None
    assert row_of(unknown)["cpu_seconds_relative"] == 3.0 / 2.0


def test_rows_are_sorted_and_failures_come_last_with_their_reason():
    found = document(
        failed(cell("lost", seed=0), "needs harmful references"),
        failed(cell("lost", seed=1), "needs harmful references"),
        done(cell("worse", seed=0), SCORES),
        failed(cell("worse", seed=1), "out of memory"),
        done(cell("better"), [0, 1, 2, 3, 4, 5]),
    )
    assert [row["ranker"] for row in found["rows"]] == ["better", "worse", "lost"]
    assert row_of(found, "better")["auroc"]["value"] == 1
    assert row_of(found, "worse")["status"] == "failed (seed 1): out of memory"
    assert row_of(found, "worse")["seeds"] == [0]
    assert row_of(found, "lost")["status"] == "failed: needs harmful references"
    assert row_of(found, "lost")["auroc"] is None
    assert found["num_failed"] == 3
    assert [one["error"] for one in found["cells"]].count("") == 2


def test_attacks_are_compared_with_the_plain_pool_and_safe_sets_are_rows():
    found = document(
        done(cell("x"), SCORES),
        done(cell("x", safe_set="other"), [0, 1, 2, 3, 4, 5]),
        done(cell("x", attack="mixed"), [-score for score in SCORES]),
        failed(cell("y")),
        done(cell("y", attack="mixed"), SCORES),
        failed(cell("x", attack="benign_prefix")),
    )
    assert [(row["ranker"], row["safe_set"]) for row in found["rows"]] == [
        ("x", "other"), ("x", "default"), ("y", "default"),
    ]  # fmt: skip
    by_name = {(one["ranker"], one["attack"]): one for one in found["attacks"]}
    assert set(by_name) == {("x", "mixed"), ("y", "mixed"), ("x", "benign_prefix")}
    assert by_name["x", "mixed"]["auroc"]["value"] == 0.25
    assert by_name["x", "mixed"]["drop"] == 0.5
    assert by_name["y", "mixed"]["drop"] is None
    assert by_name["x", "benign_prefix"]["status"] == "failed: no luck"
    header, rows = attack_table(found)
    assert header == ["ranker", "mixed", "benign_prefix"]
    assert rows == [["x", "0.250 (-0.500)", "failed: no luck"], ["y", "0.750", "-"]]


# ---- the pages


def full_document(name="m", title="A title", error="no luck"):
    return document(
        done(cell("Loss", Loss()), [1, 0, 2, 3, 5, 4], 4.0, 200),
        done(cell(name, seed=0), SCORES, 9.0, 500),
        done(cell(name, seed=1), [0, 1, 3, 2, 4, 5], 9.0, 500),
        failed(cell(f"{name}2"), error),
        done(cell("Loss", Loss(), attack="mixed"), SCORES),
        title=title,
    )


def cells_of(line):
    return [part.replace("\\", "").strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_and_json_agree():
    found = full_document()
    lines = markdown(found).splitlines()
    start = lines.index(next(line for line in lines if line.startswith("| ranker | AUROC")))
    header = cells_of(lines[start])
    table = [
        dict(zip(header, cells_of(line), strict=True)) for line in lines[start + 2 : start + 5]
    ]
    assert lines[start + 5] == ""
    assert [row["ranker"] for row in table] == [row["ranker"] for row in found["rows"]]
    for shown, row in zip(table[:2], found["rows"], strict=False):
        for column, key in (
            ("AUROC", "auroc"),
            ("average precision", "average_precision"),
            ("unsafe kept", "unsafe_kept_at_clean_fraction"),
        ):
            numbers = [float(text) for text in re.findall(r"[\d.]+", shown[column])]
            expected = [row[key][part] for part in ("value", "low", "high")]
            assert numbers == pytest.approx(expected, abs=5e-4)
        for label, one in row["auroc_by_label"].items():
            shown_value = float(shown[f"AUROC against {label}"])
            assert shown_value == pytest.approx(one["value"], abs=5e-4)
        assert float(shown["time"][:-1]) == pytest.approx(row["seconds_relative"], abs=5e-3)
        assert float(shown["memory"][:-1]) == pytest.approx(row["peak_memory_relative"], abs=5e-3)
        assert float(shown["seconds"]) == row["seconds"]
        assert shown["status"] == row["status"]
        stable = "-" if row["stability"] is None else f"{row['stability']:.3f}"
        assert shown["stability"] == stable
    assert table[2]["status"] == "failed: no luck"
    assert table[2]["AUROC"] == "-"
    assert "6 samples, 2 of them unsafe. Labels: bad 2, odd 2, good 2." in "\n".join(lines)
    assert "* m2/unseeded: no luck" in lines
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_columns_that_say_nothing_are_left_out():
    two_kinds = {key: "bad" if key < "c" else "good" for key in "abcdef"}
    results = [CellResult(cell(), done(cell(), SCORES).ranking, two_kinds, 1.0, 1)]
    found = document(*results, labels=two_kinds)
    assert row_of(found)["auroc_by_label"] == {"good": row_of(found)["auroc"]}
    header, _ = main_table(found)
    assert not {"status", "safe set", "AUROC against good"} & set(header)
    page = markdown(found)
    assert "## Under attack" not in page
    assert "## Agreement" not in page
    assert "## What failed" not in page
    brief, _ = main_table(full_document(), brief=True)
    assert brief[:4] == ["ranker", "AUROC", "AP", "kept"]


def test_the_agreement_table_names_both_sides():
    header, rows = agreement_table(full_document())
    assert header == ["", "Loss", "m"]
    assert [row[0] for row in rows] == ["Loss", "m"]
    assert rows[0][1] == rows[1][2] == "1.00"
    assert rows[0][2] == rows[1][1]


def test_hostile_names_are_shown_and_do_nothing():
    found = full_document(name=f"n{PAYLOAD} | x", title=f"t{PAYLOAD}", error=f"e{PAYLOAD}\n\n# h")
    page = markdown(found)
    hidden = [char for char in page if not char.isprintable() and char != "\n"]
    assert hidden == []
    assert "<script" not in page.replace("\\<", "")
    assert re.search(r"(?<!\\)<", page) is None
    tables = [line for line in page.splitlines() if line.startswith("| ")]
    assert {len(cells_of(line)) for line in tables[:5]} == {len(main_table(found)[0])}
    assert not re.search(r"^# h", page, re.MULTILINE)
    root = ET.fromstring(figure(found))
    assert all(element.tag.split("}")[1] != "script" for element in root.iter())


def test_the_figure_is_xml_with_a_dot_per_ranking_at_its_place():
    found = full_document()
    root = ET.fromstring(figure(found))
    parts = {kind: root.findall(f"{{*}}{kind}") for kind in ("circle", "line", "text")}
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in parts["circle"]]
    spans = [line for line in parts["line"] if line.get("class") == "span"]
    ticks = [line for line in parts["line"] if line.get("class") == "grid"]
    drawn = [row for row in found["rows"] if row["auroc"]]
    assert len(dots) == len(spans) == len(drawn) == 2
    names = [text.text for text in parts["text"] if text.get("text-anchor") == "end"]
    assert names == [row["ranker"] for row in drawn]
    assert dots[0][1] < dots[1][1], "the best is on top"
    marks = [
        float(text.text)
        for text in parts["text"]
        if text.get("text-anchor") == "middle" and text.text != "chance"
    ]
    places = [float(line.get("x1")) for line in ticks]
    for (x, _), span, row in zip(dots, spans, drawn, strict=True):
        for place, key in ((x, "value"), (span.get("x1"), "low"), (span.get("x2"), "high")):
            expected = np.interp(row["auroc"][key], marks, places)
            assert float(place) == pytest.approx(expected, abs=0.2)
    assert marks[0] >= 0
    assert marks[-1] <= 1
    assert "prefers-color-scheme: dark" in root.find("{*}style").text


def test_a_figure_without_rows_is_still_a_picture():
    root = ET.fromstring(figure(document(failed(cell()))))
    assert root.findall("{*}circle") == []
