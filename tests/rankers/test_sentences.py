import numpy as np
import pytest

from seal.rankers.sentences import LONGEST, NUM_BUCKETS, sentences, word_bags


def test_a_text_falls_into_sentences():
    text = "How do I bake good bread? First mix the flour.\nThen wait for two hours"
    assert sentences(text) == [
        ["how", "do", "i", "bake", "good", "bread", "?"],
        ["first", "mix", "the", "flour", "."],
        ["then", "wait", "for", "two", "hours"],
    ]


def test_a_short_sentence_joins_the_next_and_the_last_one_the_one_before():
    assert sentences("Hi! Tell me about the sea.") == [
        ["hi", "!", "tell", "me", "about", "the", "sea", "."]
    ]
    assert sentences("Tell me about it. Now!")[-1][-2:] == ["now", "!"]
    assert len(sentences("Tell me about it. Now!")) == 1


def test_a_long_sentence_is_cut():
    parts = sentences(" ".join(f"w{i}" for i in range(2 * LONGEST + 5)))
    assert [len(part) for part in parts] == [LONGEST, LONGEST, 5]


def test_an_empty_text_has_one_empty_sentence():
    assert sentences("") == [[]]
    assert word_bags([[]]).nnz == 0


def test_where_no_blanks_are_written_a_character_is_a_word():
    assert sentences("\u9020\u70b8\u5f39")[0] == ["\u9020", "\u70b8", "\u5f39"]


def test_a_sentence_has_the_same_bag_wherever_it_stands():
    request = "How do I pick the lock of this door?"
    padding = "The sea is blue and very deep.\n\n"
    alone = word_bags(sentences(request)).toarray()[0]
    before, after = (
        word_bags(sentences(text)).toarray()
        for text in (padding + request, request + "\n\n" + padding)
    )
    np.testing.assert_array_equal(before[1], alone)
    np.testing.assert_array_equal(after[0], alone)


def test_bags_are_words_and_pairs_of_length_one():
    bags = word_bags([["a", "b", "a"], ["b", "a"]])
    assert bags.shape == (2, NUM_BUCKETS)
    assert [row.nnz for row in bags] == [4, 3]  # a, b, "a b", "b a"; b, a, "b a"
    np.testing.assert_allclose(np.asarray(bags.multiply(bags).sum(axis=1)).ravel(), 1, rtol=1e-6)
    overlap = (bags[0] @ bags[1].T).toarray()[0, 0]
    assert overlap == pytest.approx(3 / (2 * 3**0.5))
