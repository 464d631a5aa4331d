"""Places of response tokens in the user's own text, with every kind of tokenizer and template."""

import numpy as np
import pytest

from data.test_tokenize import BLANK, CHATML, LLAMA2, PLAIN, TRIMMING, sample
from seal.artifacts.selection import TextSpan
from seal.data import spans as spans_module
from seal.data.encoded import Span, response_mask, tokens_of_each
from seal.data.sample import Message, Sample
from seal.data.spans import mask_rows, response_places, touched
from seal.data.tokenize import ChatEncoder, Encoded, Tokenization

WIDE = Tokenization()


def places(encoder, one: Sample, tokenization=WIDE):
    """The sample as tokens, and turn, start, end of each response token as tuples."""
    (row,) = encoder.encode([one], tokenization)
    (found,) = response_places(encoder, [row], {one.id: one})
    assert len(found) == row.response_mask.sum()
    assert found.dtype == np.int32
    return row, [tuple(place) for place in found.tolist()]


def texts(one: Sample, found) -> list[str]:
    return [one.completion[turn].content[start:end] for turn, start, end in found]


def test_by_hand(byte_level):
    one = sample("red", "Sure, it is red.")
    _, found = places(ChatEncoder(byte_level, template=CHATML), one)
    assert found == [
        (0, 0, 4), (0, 4, 5), (0, 5, 8), (0, 8, 11), (0, 11, 15), (0, 15, 16), (0, 16, 16),
    ]  # fmt: skip
    assert texts(one, found) == ["Sure", ",", " it", " is", " red", ".", ""]


@pytest.mark.parametrize("kind", ["byte_level", "trimmed", "metaspace"])
@pytest.mark.parametrize("template", [CHATML, TRIMMING, BLANK, LLAMA2, PLAIN])
@pytest.mark.parametrize(
    "content", ["Sure, it is red.", " \n Sure, red \n", "\N{SEAL} \u00e9t\u00e9"]
)
def test_every_character_is_in_a_token_and_says_what_the_token_says(
    kind, template, content, request
):
    tokenizer = request.getfixturevalue(kind)
    one = sample("I", content)
    row, found = places(ChatEncoder(tokenizer, template=template), one)
    covered = set()
    for token, (turn, start, end) in zip(row.input_ids[row.response_mask], found, strict=True):
        assert turn == 0
        assert 0 <= start <= end <= len(content)
        covered |= set(range(start, end))
        said = tokenizer.decode([int(token)]).strip()
        if said.isascii() and not said.startswith("<"):
            assert content[start:end].strip() == said
    assert {i for i, char in enumerate(content) if not char.isspace()} <= covered
    if row.input_ids[-1] == tokenizer.eos_token_id:  # what ends the turn stands after its text
        assert found[-1][1] == found[-1][2] >= len(content.rstrip())


def test_blanks_that_the_template_strips_still_count_in_the_users_text(byte_level):
    one = sample("I", "  Sure. ")
    for template in (CHATML, TRIMMING):
        _, found = places(ChatEncoder(byte_level, template=template), one)
        assert "".join(texts(one, found)).strip() == "Sure."
        assert (0, 2, 6) in found or (0, 1, 6) in found


def test_turns_are_places_in_the_completion(byte_level):
    turns = ("I", "Sure.", "red", "No.")
    encoder = ChatEncoder(byte_level, template=CHATML)
    one = sample(*turns)
    _, found = places(encoder, one)
    no = [(2, 0, 1), (2, 1, 2), (2, 2, 3), (2, 3, 3)]
    assert found == [(0, 0, 4), (0, 4, 5), (0, 5, 5), *no]
    later = sample(*turns, num_prompt=3)
    assert places(encoder, later)[1] == [(0, *place[1:]) for place in no]


def test_a_cut_response(byte_level):
    one = sample("red", "Sure, it is red.")
    encoder = ChatEncoder(byte_level, template=CHATML)
    (row,) = encoder.encode([one], Tokenization(max_length=14))
    assert row.is_truncated
    _, found = places(encoder, one, Tokenization(max_length=14))
    assert found == [(0, 0, 4), (0, 4, 5), (0, 5, 8)]


def test_all_tokens_of_one_character(byte_level):
    _, found = places(ChatEncoder(byte_level, template=CHATML), sample("I", "\N{SEAL}"))
    assert found == [(0, 0, 1)] * 4 + [(0, 1, 1)]


def test_many_samples_in_any_order(byte_level):
    encoder = ChatEncoder(byte_level, template=CHATML)
    many = [sample("red", "Sure. " * (i % 7 + 1) + str(i)) for i in range(300)]
    rows = encoder.encode(many, WIDE)
    by_id = {one.id: one for one in many}
    found = list(response_places(encoder, rows[::-1], by_id))
    for row, own in zip(rows[::-1], found, strict=True):
        content = by_id[row.id].completion[0].content
        assert "".join(texts(by_id[row.id], own.tolist())) == content


def test_a_text_that_has_changed_in_between(byte_level):
    encoder = ChatEncoder(byte_level, template=CHATML)
    one = sample("I", "Sure.")
    (row,) = encoder.encode([one], WIDE)
    other = Sample(one.id, (Message("user", "red"),), one.completion)
    with pytest.raises(ValueError, match=rf"^sample {one.id} gives other tokens now .*date_string"):
        list(response_places(encoder, [row], {one.id: other}))


# --- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spans", "hit"),
    [
        ([], [0, 0, 0, 0, 0]),
        ([(0, 0, 1)], [1, 0, 0, 0, 0]),
        ([(0, 3, 5)], [1, 1, 0, 0, 0]),  # one character of each is enough
        ([(0, 4, 4)], [0, 0, 0, 0, 0]),
        ([(0, 0, 99)], [1, 1, 0, 0, 0]),  # not what has no characters, nor another turn
        ([(1, 4, 5), (0, 0, 1)], [1, 0, 0, 0, 1]),
    ],
)
def test_which_tokens_share_a_character(spans, hit):
    places = np.array([(0, 0, 4), (0, 4, 8), (0, 8, 8), (0, 2, 2), (1, 4, 8)], dtype=np.int32)
    assert touched(places, [TextSpan(*span) for span in spans]).tolist() == [bool(x) for x in hit]


def masked(tokenizer, one: Sample, *spans, tokenization=WIDE) -> list[str]:
    """The response tokens that still carry loss."""
    encoder = ChatEncoder(tokenizer, template=CHATML)
    rows = encoder.encode([one], tokenization)
    before = rows[0].response_mask.copy()
    result = mask_rows(encoder, rows, {one.id: one}, {one.id: [TextSpan(*span) for span in spans]})
    np.testing.assert_array_equal(rows[0].response_mask, before)
    if not result:
        return []
    (row,) = result
    assert isinstance(row, Encoded)
    np.testing.assert_array_equal(row.input_ids, rows[0].input_ids)
    assert not (row.response_mask & ~before).any()
    return tokenizer.convert_ids_to_tokens(row.input_ids[row.response_mask].tolist())


def test_masked_text_carries_no_loss_and_the_end_does(byte_level):
    one = sample("red", "Sure, it is red.")
    assert masked(byte_level, one, (0, 5, 11)) == ["Sure", ",", "\u0120red", ".", "<|im_end|>"]
    assert masked(byte_level, one, (0, 1, 2), (0, 12, 16)) == [
        ",", "\u0120it", "\u0120is", "<|im_end|>",
    ]  # fmt: skip


def test_a_row_without_any_text_left_is_left_out(byte_level):
    assert masked(byte_level, sample("red", "Sure."), (0, 0, 5)) == []
    assert masked(byte_level, sample("red", "Sure."), (0, 0, 4)) == [".", "<|im_end|>"]
    cut = Tokenization(max_length=13)
    one = sample("red", "Sure, it is red.")
    assert masked(byte_level, one, (0, 5, 16), tokenization=cut) == ["Sure", ","]
    assert masked(byte_level, one, (0, 0, 5), tokenization=cut) == []


def test_rows_without_a_mask_are_the_same_rows(byte_level):
    encoder = ChatEncoder(byte_level, template=CHATML)
    samples = [sample("I", text) for text in ("Sure.", "No.", "red")]
    rows = encoder.encode(samples, WIDE)
    masks = {samples[1].id: (TextSpan(0, 0, 2),)}
    result = mask_rows(encoder, rows, {samples[1].id: samples[1]}, masks)
    assert [row.id for row in result] == [row.id for row in rows]
    assert result[0] is rows[0]
    assert result[2] is rows[2]
    assert byte_level.decode(result[1].input_ids[result[1].response_mask]) == ".<|im_end|>"
    assert mask_rows(encoder, rows, {}, {}) == rows


@pytest.mark.parametrize("num_spans", [1, 3, 40])
def test_the_tokens_of_each_span_are_those_that_share_a_character(num_spans):
    generator = np.random.default_rng(num_spans)
    edges = np.unique(generator.integers(0, 900, size=300))
    offsets = np.stack([edges[:-1], edges[1:]], axis=1)
    offsets[20:60:3, 0] = offsets[20:60:3, 1]  # tokens without characters
    offsets[[100, 103]] = offsets[[103, 100]]  # out of order, as normalizers may leave them
    spans = [Span(*sorted(pair)) for pair in generator.integers(0, 900, size=(num_spans, 2))]
    found = list(tokens_of_each(offsets, spans))
    for span, own in zip(spans, found, strict=True):
        held = [set(range(*span)) & set(range(*offset)) for offset in offsets]
        assert set(np.flatnonzero(list(map(bool, held)))) <= set(own.tolist())
        assert not any(offsets[place][0] >= span.end for place in own)
        both = response_mask(offsets, [span])
        assert np.array_equal(np.flatnonzero(both), own)
    assert set(np.concatenate(found)) == set(np.flatnonzero(response_mask(offsets, spans)))


def test_the_tokens_are_looked_through_once_whatever_the_number_of_turns(byte_level, monkeypatch):
    looked = []
    real = spans_module.tokens_of_each
    monkeypatch.setattr(
        spans_module, "tokens_of_each", lambda *given: looked.append(1) or real(*given)
    )
    turns = tuple(
        Message(role, f"{role} {number}") for number in range(50) for role in ("assistant", "user")
    )
    found = places(
        ChatEncoder(byte_level, template=CHATML),
        Sample("a", (Message("user", "hi"),), turns[:-1], ""),
    )
    assert len(looked) == 1
    assert {turn for turn, *_ in found[1]} == set(range(0, 99, 2))
