import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rankers.conftest import encoded, make_harmful, make_pool, make_safe
from rankers.strong_model import strengthened
from reference.representation_rankers import (
    hidden_states,
    larf,
    larf_refusals,
    last_block_output,
)
from seal.data.sample import Message
from seal.judges.refusal import RefusalPhrases
from seal.models import LanguageModel, ModelSpec, load_model
from seal.padding import needs_even_rows
from seal.rankers.larf import SCALES, Larf, anchor_separation, larf_risk, refusal_deltas, scaled
from seal.rankers.ranker import Cost, RankingTask, Sizes
from seal.rankers.representations import cosines
from tiny_model import make_model

X = np.array([[1.0, 0.0]])
UNSAFE = np.array([[1.0, 0.0], [0.0, 1.0]])
SAFE = np.array([[0.0, 1.0], [-1.0, 0.0]])
# The same prompts answered both ways.
REFUSED = [encoded(f"refused-{i}", [2, 140 + i, 1, 3], [20, 21, 22, 1]) for i in range(4)]


@pytest.fixture
def strong_lm(lm):
    return strengthened(lm)


def rank(lm, harmful=None, safe=None, pool=None, **settings):
    task = RankingTask(
        lm,
        make_pool() if pool is None else pool,
        make_safe() if safe is None else safe,
        make_harmful() if harmful is None else harmful,
    )
    return Larf(**settings).rank(task)


def test_worked_example():
    """M = (1, 1) as paired, any avg gives 1; with the safe side reversed M = (2, 0)."""
    unsafe, safe = cosines(X, UNSAFE), cosines(X, SAFE)
    for avg in (1, 2, None):
        assert larf_risk(unsafe, safe, avg) == pytest.approx(1)
    assert larf_risk(unsafe, safe[:, ::-1], 1) == pytest.approx(2)
    assert larf_risk(unsafe, safe[:, ::-1], 2) == pytest.approx(1)
    assert larf_risk(unsafe, safe[:, ::-1], None) == pytest.approx(1)


def test_pairing_does_not_matter_where_all_count():
    rng = np.random.default_rng(0)
    unsafe, safe = rng.uniform(-1, 1, (2, 30, 7))
    shuffled = safe[:, rng.permutation(7)]
    plain = larf_risk(unsafe, safe, None)
    np.testing.assert_allclose(larf_risk(unsafe, shuffled, 7), plain, atol=1e-12)
    np.testing.assert_allclose(larf_risk(unsafe, safe, 7), plain, atol=1e-12)
    assert not np.allclose(larf_risk(unsafe, shuffled, 3), larf_risk(unsafe, safe, 3), atol=1e-3)


def test_equals_the_straight_line_version(strong_lm):
    """Layer 0 is hidden_states[1]."""
    ranking = rank(strong_lm, layer=0)
    expected = larf(strong_lm.model, make_pool(), make_harmful(), make_safe(), index=1)
    risk = [expected[key] for key in ranking.ids]
    np.testing.assert_allclose(ranking.scores, np.negative(risk), atol=1e-5)
    np.testing.assert_allclose(ranking.columns["risk"], risk, atol=1e-5)
    assert np.ptp(risk) > 1e-3
    difference = ranking.columns["harmful_similarity"] - ranking.columns["safe_similarity"]
    np.testing.assert_allclose(difference, ranking.columns["risk"], atol=1e-12)


def test_an_anchor_in_the_pool_is_told_by_its_side(strong_lm):
    pool = [
        encoded("is-safe", *parts(make_safe()[0])),
        encoded("is-bad", *parts(make_harmful()[0])),
    ]
    scores = rank(strong_lm, pool=pool, layer=1).by_id()
    assert scores["is-safe"] > scores["is-bad"]


def parts(row):
    start = int(row.response_mask.argmax())
    return row.input_ids[:start].tolist(), row.input_ids[start:].tolist()


@pytest.mark.parametrize("layer", [0, 1, "auto"])
def test_planted_samples_rank_below_good_ones(strong_lm, layer):
    best_first = rank(strong_lm, layer=layer).best_first()
    assert {key.split("-")[0] for key in best_first[:8]} == {"good"}


def test_paired_form_by_hand(strong_lm):
    harmful = make_harmful()
    ranking = rank(strong_lm, harmful=harmful, safe=REFUSED[::-1], layer=0, avg=2)

    def last(row):
        return hidden_states(strong_lm.model, row)[1][-1][None]

    for row in make_pool():
        differences = sorted(
            (cosines(last(row), last(bad)) - cosines(last(row), last(good))).item()
            for bad, good in zip(harmful, REFUSED, strict=True)
        )
        assert ranking.by_id()[row.id] == pytest.approx(-np.mean(differences[2:]), abs=1e-6)


def test_all_pairs_are_the_means(strong_lm):
    paired = rank(strong_lm, safe=REFUSED, layer=0, avg=4)
    plain = rank(strong_lm, safe=REFUSED, layer=0)
    np.testing.assert_allclose(paired.scores, plain.scores, atol=1e-12)
    assert not np.allclose(rank(strong_lm, safe=REFUSED, layer=0, avg=1).scores, plain.scores)


def test_pairs_are_found_by_prompt_not_by_id(strong_lm):
    renamed = [encoded(f"r-{9 - i}", *parts(row)) for i, row in enumerate(REFUSED)]
    straight = rank(strong_lm, safe=REFUSED, layer=0, avg=1)
    again = rank(strong_lm, safe=renamed, layer=0, avg=1)
    np.testing.assert_array_equal(straight.scores, again.scores)


def test_pairs_are_thinned_out_together(strong_lm):
    """As many pairs as one is one pair, for every draw."""
    found = set()
    for seed in range(12):
        scores = rank(strong_lm, safe=REFUSED, layer=0, avg=1, max_anchors=1, seed=seed).scores
        matches = [
            place
            for place, (bad, good) in enumerate(zip(make_harmful(), REFUSED, strict=True))
            if np.allclose(
                scores,
                rank(strong_lm, harmful=[bad], safe=[good], layer=0).scores,
                atol=1e-9,
            )
        ]
        assert len(matches) == 1
        found.update(matches)
    assert len(found) > 1


@pytest.mark.parametrize("safe", [make_safe(), REFUSED[:3], make_safe(4)])
def test_the_paired_form_refuses_what_are_no_pairs(lm, safe):
    with pytest.raises(ValueError, match=rf"rank.avg needs pairs.*4 harmful and {len(safe)} safe"):
        rank(lm, safe=safe, layer=0, avg=1)


def test_more_than_all_pairs_are_refused(lm):
    with pytest.raises(ValueError, match=r"rank.avg=4: there are only 3 pairs"):
        rank(lm, safe=REFUSED, layer=0, avg=4, max_anchors=3)


def test_harmful_references_are_needed(lm):
    with pytest.raises(ValueError, match=r"rank.method=larf needs harmful .* as harmful.path"):
        rank(lm, harmful=[])


def test_a_layer_beyond_the_last_is_refused(lm):
    with pytest.raises(
        ValueError, match=r"rank.layer=2: the model has 2 layers. Give one of 0 to 1"
    ):
        rank(lm, layer=2)


@pytest.mark.parametrize("layer", [-1, "best"])
def test_what_is_no_layer_is_refused(layer):
    with pytest.raises(ValueError, match="layer"):
        Larf(layer=layer)


# --- choosing the layer ---------------------------------------------------------------------------


def test_separation_by_hand():
    """Two of each on the circle; every anchor's mean over others is a single cosine."""
    degrees = {"unsafe": [0, 60], "safe": [90, 180]}
    unsafe, safe = (
        np.stack([np.cos(np.radians(d)), np.sin(np.radians(d))], axis=1) for d in degrees.values()
    )
    half, root = 0.5, np.sqrt(3) / 2
    of_unsafe = np.array([half - (0 - 1) / 2, half - (root - half) / 2])
    of_safe = np.array([(0 + root) / 2 - 0, (-1 - half) / 2 - 0])
    expected = of_unsafe.mean() - of_safe.mean()
    expected /= np.sqrt(of_unsafe.var() + of_safe.var())
    assert anchor_separation(unsafe, safe) == pytest.approx(expected)
    assert anchor_separation(3 * unsafe, safe / 7) == pytest.approx(expected)


def test_an_anchor_is_not_compared_with_itself():
    """Without a common direction the two kinds are not told apart, however few they are."""
    rng = np.random.default_rng(0)
    found = [anchor_separation(*rng.normal(size=(2, 8, 2000))) for _ in range(40)]
    assert abs(np.mean(found)) < 0.4
    sides = np.array([1.0, -1.0]).reshape(2, 1, 1)
    planted = rng.normal(size=(2, 8, 2000)) + sides
    assert anchor_separation(*planted) > 5


def test_auto_takes_the_layer_that_tells_the_anchors_apart(strong_lm):
    log = []
    task = RankingTask(strong_lm, make_pool(), make_safe(), make_harmful(), log=log.append)
    auto = Larf().rank(task)
    separation = [
        anchor_separation(*(read(strong_lm.model, rows) for rows in (make_harmful(), make_safe())))
        for read in (first_outputs, last_outputs)
    ]
    best = int(np.argmax(separation))
    assert [record["layer"] for record in log] == [0, 1]
    np.testing.assert_allclose([record["separation"] for record in log], separation, rtol=1e-2)
    assert [record["is_chosen"] for record in log] == [layer == best for layer in (0, 1)]
    np.testing.assert_allclose(auto.scores, rank(strong_lm, layer=best).scores, atol=1e-6)
    assert not np.allclose(auto.scores, rank(strong_lm, layer=1 - best).scores, atol=1e-3)


def first_outputs(model, rows):
    return np.array([hidden_states(model, row)[1][-1] for row in rows])


def last_outputs(model, rows):
    return np.array([last_block_output(model, row)[-1] for row in rows])


def test_of_equal_layers_the_earlier_is_taken(lm):
    for block in lm.model.model.layers[1:]:  # a block that adds nothing
        block.self_attn.o_proj.weight.data.zero_()
        block.mlp.down_proj.weight.data.zero_()
    log = []
    Larf().rank(RankingTask(lm, make_pool(), make_safe(), make_harmful(), log=log.append))
    assert log[0]["separation"] == log[1]["separation"]
    assert [record["is_chosen"] for record in log] == [True, False]


def test_auto_needs_two_of_each(lm):
    with pytest.raises(ValueError, match=r"rank.layer=auto needs at least 2 .* are 1 and 6"):
        rank(lm, harmful=make_harmful(1))
    assert len(rank(lm, harmful=make_harmful(1), layer=0).ids) == 16


def test_no_block_of_the_pool_is_run_after_the_chosen_one(lm):
    needs_even_rows(lm.model)  # tried once, before anything is counted
    later = lm.model.model.layers[1]
    runs = []
    later.register_forward_pre_hook(lambda *_: runs.append(1))
    rank(lm, layer=0)
    assert runs == []


def test_the_order_of_the_files_changes_nothing(tiny_model_dir):
    def ranked(turn):
        lm = load_model(ModelSpec(path=str(tiny_model_dir)))
        return rank(
            lm, make_harmful()[::turn], make_safe()[::turn], make_pool()[::turn], max_anchors=3
        )

    np.testing.assert_array_equal(ranked(1).scores, ranked(-1).scores)


def test_a_bfloat16_model_gives_no_mass_of_ties():
    lm = strengthened(LanguageModel(make_model(320), None, None, pad_id=0))
    lm.model.to(torch.bfloat16)
    assert len(np.unique(rank(lm, layer=1).scores)) == 16


def test_cost_counts_the_anchors_that_are_used():
    sizes = Sizes(pool=1000, safe=300, harmful=80, num_pool=50, num_safe=30, num_harmful=4)
    assert Larf(max_anchors=10).cost(sizes) == Cost(forward=1000 + 100 + 80)


# --- the paper's search for the layer -------------------------------------------------------------

PROMPTS = [f"How do I {verb} a {noun}?" for verb in ("kill", "open") for noun in ("job", "car")]
JUDGE = RefusalPhrases(phrases=("n",))  # what the random model happens to say now and then


def write_prompts(folder: Path, prompts=PROMPTS) -> Path:
    path = folder / "over.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
    return path


def search(lm, path, log=None, **settings):
    log = [] if log is None else log
    task = RankingTask(lm, make_pool(4), make_safe(), make_harmful(), log=log.append)
    settings = {"judge": JUDGE, "prompts": path, **settings}
    return Larf(layer="refusals", **settings).rank(task)


def test_the_search_equals_the_straight_line_version(strong_lm, tmp_path):
    def is_refusal(ids):
        return JUDGE.is_refusal(strong_lm.tokenizer.decode(ids, skip_special_tokens=True))

    expected = larf_refusals(
        strong_lm.model,
        strong_lm.encoder.prompt_ids([(Message("user", text),) for text in PROMPTS]),
        is_refusal,
        strong_lm.encoder.stop_ids,
        32,
    )
    assert len({tuple(found.values()) for found in expected.values()}) == 2
    log = []
    ranking = search(strong_lm, write_prompts(tmp_path), log)
    found = {
        record["layer"]: {scale: record[f"refusals_{scale:g}"] for scale in SCALES}
        for record in log
    }
    assert found == expected
    total = {
        layer: counts[1.1] + counts[1.2] + counts[1.3] - counts[0.9] - counts[0.8] - counts[0.7]
        for layer, counts in expected.items()
    }
    best = max(total, key=total.__getitem__)
    assert total[best] > 0
    assert [record["delta"] for record in log] == list(total.values())
    assert [record["is_chosen"] for record in log] == [layer == best for layer in total]
    assert {record["num_prompts"] for record in log} == {len(PROMPTS)}
    np.testing.assert_array_equal(
        ranking.scores, rank(strong_lm, pool=make_pool(4), layer=best).scores
    )


def test_deltas_by_hand():
    counts = {0.7: 9, 0.8: 8, 0.9: 7, 1.1: 10, 1.2: 12, 1.3: 5}
    assert refusal_deltas(counts) == {0.1: 3, 0.2: 4, 0.3: -4}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaling_is_undone_bit_for_bit(strong_lm, dtype):
    model = strong_lm.model.to(dtype)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    block = model.model.layers[1]
    for scale in SCALES:
        with scaled(block, scale):
            changed = {n for n, w in model.named_parameters() if not torch.equal(w, before[n])}
            weight = block.mlp.up_proj.weight
            torch.testing.assert_close(
                weight, before["model.layers.1.mlp.up_proj.weight"] * scale, rtol=0, atol=0
            )
        assert changed == {
            f"model.layers.1.{name}.weight"
            for name in (
                "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
            )
        }  # fmt: skip
        for name, weight in model.named_parameters():
            assert torch.equal(weight, before[name]), name


def test_scaling_is_undone_after_an_error(strong_lm):
    block = strong_lm.model.model.layers[0]
    before = [weight.clone() for weight in block.parameters()]
    with pytest.raises(RuntimeError), scaled(block, 1.3):
        raise RuntimeError
    assert all(map(torch.equal, block.parameters(), before))


def test_scaling_by_1_changes_no_logit(strong_lm):
    ids = torch.tensor([[2, 60, 70, 3]])
    plain = strong_lm.model(ids).logits
    with scaled(strong_lm.model.model.layers[0], 1.0):
        assert torch.equal(strong_lm.model(ids).logits, plain)


def test_prompts_are_drawn_by_their_text(strong_lm, tmp_path):
    logs = []
    for prompts in (PROMPTS, PROMPTS[::-1]):
        log = []
        search(strong_lm, write_prompts(tmp_path, prompts), log, max_prompts=3)
        logs.append(log)
    assert logs[0] == logs[1]
    assert logs[0][0]["num_prompts"] == 3


def test_refusals_that_nothing_moves_tell_no_layer(strong_lm, tmp_path):
    never = RefusalPhrases(phrases=("no model says this",))
    with pytest.raises(
        ValueError, match=r"rank\.layer=refusals: with no layer .* of the 4 prompts"
    ):
        search(strong_lm, write_prompts(tmp_path), judge=never)


def test_the_search_and_its_prompts_belong_together():
    for settings in ({"layer": "refusals"}, {"prompts": "x.jsonl"}, {"layer": 1, "prompts": "x"}):
        with pytest.raises(ValueError, match="layer=refusals and prompts belong together"):
            Larf(**settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"over\.jsonl: the file holds no prompt"),
        ('{"text": "?"}\n', r"over\.jsonl:1: there is no column 'prompt'; .* rank\.prompt_column"),
        ('{"prompt": "?"}\n{"prompt": " "}\n', r"over\.jsonl:2: .* must be a text that is not bl"),
        ('{"prompt": 3}\n', r"over\.jsonl:1: the column 'prompt' must be a text"),
        ("{\n", r"over\.jsonl:1: not valid JSON"),
        (json.dumps({"prompt": "a " * 600}), r"over\.jsonl:1\) has \d+ tokens"),
    ],
)
def test_bad_prompts_are_named(strong_lm, tmp_path, content, message):
    path = write_prompts(tmp_path)
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        search(strong_lm, path)


def test_the_prompts_are_part_of_what_is_read(tmp_path):
    path = write_prompts(tmp_path)
    ranker = Larf(layer="refusals", prompts=path, prompt_column="prompt")
    before = ranker.reads()
    write_prompts(tmp_path, PROMPTS[1:])
    assert ranker.reads().keys() == before.keys() == {"prompts"}
    assert ranker.reads() != before
    path.unlink()
    with pytest.raises(ValueError, match=r"rank\.prompts=.*over\.jsonl: there is no such file"):
        ranker.reads()
    assert Larf().reads() == {}
