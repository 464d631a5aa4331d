from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rankers.conftest import encoded, make_pool, make_task
from seal.data.sample import Message, Sample
from seal.data.tokenize import FALLBACK_TEMPLATE, ChatEncoder, Encoded, Tokenization
from seal.rankers.ifd import Ifd, alone, assistant_header, measure_ifd, ratio
from seal.rankers.loss import Loss
from seal.rankers.ranker import RankingTask
from seal.tables import Tables
from tiny_model import make_tokenizer

HEADER = [1, 3]  # <|end|><|assistant|>
NO_HEADER = np.array([], dtype=np.int32)


def token_losses(model, context: list[int], response: list[int]) -> list[float]:
    """The loss of each response token that something stands before, one forward pass per row."""
    ids = torch.tensor([[*context, *response]])
    with torch.no_grad():
        logs = model(input_ids=ids).logits[0].double().log_softmax(dim=-1)
    first = len(context)
    return [-logs[p - 1, ids[0, p]].item() for p in range(max(1, first), ids.shape[1])]


def by_id(ranking, column: str) -> dict[str, float]:
    return dict(zip(ranking.ids, ranking.columns[column].tolist(), strict=True))


def ranked(lm, rows, form="loss"):
    return Ifd(form=form).rank(make_task(lm, rows, [], []))


# --- the ratio ----------------------------------------------------------------------------------


def test_the_worked_example():
    given, bare = np.array([1, 2, 0.5]), np.array([4, 2, 1])

    def of(bare, form):
        return ratio(given.mean(keepdims=True), bare.mean(keepdims=True), form).item()

    assert of(bare, "loss") == pytest.approx(0.5)
    assert of(bare, "ppl") == pytest.approx(0.3114, abs=1e-4)
    assert of(bare[1:], "ppl") == pytest.approx(0.7165, abs=1e-4)  # without a BOS


def test_a_hopeless_response_has_a_finite_ratio():
    assert np.isfinite(ratio(np.array([5000.0]), np.array([1.0]), "ppl")).all()


# --- the response alone -------------------------------------------------------------------------


def test_header_takes_the_place_of_the_prompt():
    row = Encoded(
        "x", np.array([2, 60, 61, 1, 3, 20, 21, 1]), np.array([0] * 5 + [1] * 3, bool), True
    )
    bare = alone(row, np.array(HEADER), None)
    assert bare.id == "x"
    assert bare.is_truncated
    assert bare.input_ids.tolist() == [1, 3, 20, 21, 1]
    assert bare.response_mask.tolist() == [False] * 2 + [True] * 3


def test_without_anything_before_it_the_first_token_does_not_count():
    bare = alone(encoded("x", [2, 60, 3], [20, 21, 1]), NO_HEADER, None)
    assert bare.input_ids.tolist() == [20, 21, 1]
    assert bare.response_mask.tolist() == [False, True, True]
    assert alone(encoded("x", [2, 60, 3], [20]), NO_HEADER, None) is None


def test_a_bos_stays():
    row = encoded("x", [7, 60, 3], [20])
    for header in (NO_HEADER, np.array(HEADER)):
        bare = alone(row, header, 7)
        assert bare.input_ids.tolist() == [7, *header, 20]
        assert bare.response_mask.tolist() == [False] * (1 + len(header)) + [True]
    # A tokenizer may have one that its template does not write.
    assert alone(row, np.array(HEADER), 8).input_ids.tolist() == [*HEADER, 20]


def test_a_bos_inside_the_response_is_not_written_twice():
    row = encoded("x", [], [7, 20, 1])
    assert alone(row, NO_HEADER, 7).input_ids.tolist() == [7, 20, 1]


def test_turns_inside_the_completion_stay():
    row = encoded("x", [2, 60, 1, 3], [20, 1, 2, 62, 1, 3, 21, 1])
    row.response_mask[[6, 7, 8, 9]] = False  # a user turn between two responses
    bare = alone(row, np.array(HEADER), None)
    assert bare.input_ids.tolist() == [*HEADER, 20, 1, 2, 62, 1, 3, 21, 1]
    assert bare.response_mask.tolist() == [False, False, *row.response_mask[4:].tolist()]


# --- the header ---------------------------------------------------------------------------------

TURN = "{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
SYSTEM = "<|system|>Be kind.<|end|>"
INST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}<|end|>{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "header"),
    [
        (None, "<|end|><|assistant|>"),
        (FALLBACK_TEMPLATE, "\n\nAssistant:"),  # the blank belongs to the response
        (SYSTEM + "{% for m in messages %}<|user|>" + TURN, "<|end|>\n<|user|>assistant\n"),
        (INST, " [/INST]"),
    ],
)
def test_the_response_alone_follows_how_its_own_turn_starts(template, header):
    tokenizer = make_tokenizer()
    encoder = ChatEncoder(tokenizer, template=template)
    turns = [Message("user", "Hi!"), Message("assistant", "Yes?"), Message("user", "Why?")]
    sample = Sample("x", tuple(turns), (Message("assistant", "Answer"),))
    (row,) = encoder.encode([sample], Tokenization())
    bare = alone(row, assistant_header(encoder), None)
    first = int(bare.response_mask.argmax())
    assert tokenizer.decode(bare.input_ids[:first].tolist()) == header
    np.testing.assert_array_equal(
        bare.input_ids[bare.response_mask], row.input_ids[row.response_mask]
    )


def test_an_empty_thought_after_the_header_stays():
    row = encoded("x", [2, 60, *HEADER, 70, 71], [20, 1])
    assert alone(row, np.array(HEADER), None).input_ids.tolist() == [*HEADER, 70, 71, 20, 1]


def test_a_header_in_the_middle_of_the_conversation_is_not_the_last_one():
    row = encoded("x", [2, 60, *HEADER, 80, 2, 61, *HEADER], [20, 1])
    assert alone(row, np.array(HEADER), None).input_ids.tolist() == [*HEADER, 20, 1]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "puts nothing between"),
        ("{{ raise_exception('no') }}", "the chat template refuses"),
    ],
)
def test_a_template_without_a_header_is_refused(template, reason):
    with pytest.raises(ValueError, match=rf"rank\.form=loss: .*{reason}.*rank\.form=ppl"):
        assistant_header(ChatEncoder(make_tokenizer(), template=template))


def test_another_templates_header_changes_the_value(lm):
    rows = make_pool(4)
    other = SimpleNamespace(
        model=lm.model,
        device=lm.device,
        pad_id=lm.pad_id,
        identity=None,
        tokenizer=lm.tokenizer,
        encoder=ChatEncoder(lm.tokenizer, template=FALLBACK_TEMPLATE),
    )
    one, two = (measure_ifd(Tables(), m, rows, "loss") for m in (lm, other))
    np.testing.assert_array_equal(one.conditional, two.conditional)
    assert np.abs(one.unconditional - two.unconditional).min() > 1e-4


# --- IFD of a pool ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["loss", "ppl"])
def test_ifd_is_that_of_the_straight_line(lm, form):
    pool = [
        encoded(f"{i:02d}", [2, *range(60, 61 + i), 1, 3], [20 + i, *range(30, 32 + i % 5), 1])
        for i in range(20)
    ]
    expected = {}
    for row in pool:
        ids = row.input_ids.tolist()
        first = int(row.response_mask.argmax())
        given = np.mean(token_losses(lm.model, ids[:first], ids[first:]))
        bare = np.mean(token_losses(lm.model, HEADER if form == "loss" else [], ids[first:]))
        expected[row.id] = given / bare if form == "loss" else np.exp(given - bare)
    ranking = ranked(lm, pool, form)
    assert by_id(ranking, "ifd") == pytest.approx(expected, abs=1e-5)
    assert all(ranking.columns["is_measured"])


def test_what_the_papers_drop_ranks_below_all_others_the_worst_last(lm):
    draw = np.random.default_rng(0)
    pool = [
        encoded(f"{i:02d}", [2, *draw.integers(5, 300, 6), 1, 3], [*draw.integers(5, 300, 4), 1])
        for i in range(40)
    ]
    ranking = ranked(lm, pool)
    ifd = by_id(ranking, "ifd")
    kept = sorted((key for key in ifd if ifd[key] < 1), key=lambda key: -ifd[key])
    dropped = sorted((key for key in ifd if ifd[key] >= 1), key=lambda key: ifd[key])
    assert len(kept) > 5
    assert len(dropped) > 5
    assert ranking.best_first() == kept + dropped


def test_a_prompt_that_is_no_more_than_the_header_does_not_matter(lm):
    table = measure_ifd(Tables(), lm, [encoded("x", HEADER, [20, 21, 1])], "loss")
    assert table.ifd == pytest.approx([1.0], abs=1e-6)


def test_a_response_that_the_prompt_gives_away_has_an_ifd_near_0(lm):
    """Trained on answers that repeat the question's token, and on answers that ignore it."""
    copied = [encoded(f"copied-{i}", [2, 60 + i, 4, 1, 3], [60 + i, 90 + i, 1]) for i in range(8)]
    fixed = [encoded(f"fixed-{i}", [2, 60 + i, 2, 1, 3], [150, 151, 1]) for i in range(8)]
    rows = copied + fixed
    bare = [[1, 3, *row.input_ids[5:].tolist()] for row in rows]
    ids = torch.tensor([row.input_ids.tolist() for row in rows])
    bare_ids = torch.tensor(bare)
    optimizer = torch.optim.Adam(lm.model.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        total = 0
        for part in (ids, bare_ids):
            logits = lm.model(input_ids=part).logits[:, -4:-1]
            total = total + F.cross_entropy(logits.flatten(0, 1), part[:, -3:].flatten())
        total.backward()
        optimizer.step()
    table = measure_ifd(Tables(), lm, rows, "loss")
    assert table.ifd[:8].max() < 0.2
    assert table.unconditional[:8].min() > 0.5


def test_a_truncated_response_is_the_same_tokens_without_its_prompt(lm):
    sample = Sample(
        "x", (Message("user", "What colour is the sea?"),), (Message("assistant", "blue " * 30),)
    )
    (row,) = lm.encoder.encode([sample], Tokenization(max_length=16))
    assert row.is_truncated
    bare = alone(row, assistant_header(lm.encoder), lm.tokenizer.bos_token_id)
    np.testing.assert_array_equal(
        bare.input_ids[bare.response_mask], row.input_ids[row.response_mask]
    )


# --- what cannot be measured --------------------------------------------------------------------


def test_a_response_of_one_token_is_flagged_and_below_what_is_kept(lm):
    short = encoded("short", [2, 60, 1, 3], [20])
    ranking = ranked(lm, [*make_pool(8), short], "ppl")
    assert ranking.by_id()["short"] == -1
    assert [key for key, fine in by_id(ranking, "is_measured").items() if not fine] == ["short"]
    assert by_id(ranking, "ifd")["short"] == 1
    # After a header it has a prediction.
    assert all(ranked(lm, [short], "loss").columns["is_measured"])


def test_a_pool_of_nothing_but_such_responses_is_ranked(lm):
    rows = [encoded(key, [2, 60, 1, 3], [20]) for key in "ab"]
    assert ranked(lm, rows, "ppl").by_id() == {"a": -1, "b": -1}


@pytest.mark.parametrize("form", ["loss", "ppl"])
def test_no_loss_at_all_is_nothing_to_compare_with(lm, form):
    means = iter([np.array([0.0, 0.3]), np.array([0.0, 0.6])])
    tables = SimpleNamespace(losses=lambda *_, **__: SimpleNamespace(mean=next(means)))
    table = measure_ifd(tables, lm, make_pool(2), form)
    assert table.is_measured.tolist() == [False, True]
    assert table.ifd == pytest.approx([1, 0.5 if form == "loss" else np.exp(-0.3)])


# --- passes -------------------------------------------------------------------------------------


def test_the_pass_with_the_prompts_is_the_one_of_the_plain_loss(lm, tmp_path):
    task = RankingTask(lm, make_pool(), [], tables=Tables(tmp_path))
    losses = Loss().rank(task)
    (first,) = tmp_path.iterdir()
    ranking = Ifd().rank(task)
    assert len(list(tmp_path.iterdir())) == 2
    assert first.exists()
    np.testing.assert_array_equal(ranking.columns["conditional_loss"], losses.columns["loss"])
