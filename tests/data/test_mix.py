"""Mixing: how many, which, and in what order."""

from collections import Counter

import numpy as np
import pytest

from seal.data.mix import mix_in
from seal.data.tokenize import Encoded


def rows(prefix: str, num: int) -> list[Encoded]:
    ids, mask = np.arange(3, dtype=np.int32), np.array([False, True, True])
    return [Encoded(f"{prefix}{place}", ids, mask, False) for place in range(num)]


def names(mixed: list[Encoded]) -> list[str]:
    return [row.id for row in mixed]


@pytest.mark.parametrize(
    ("num", "share", "expected"),
    [
        (90, 0.1, 10),  # 90 / (90 + 10)
        (97, 0.03, 3),
        (4, 0.5, 4),
        (2, 0.75, 6),
        (10, 0.2, 2),  # 2.5 rounds to the even number
        (1, 0.1, 0),
    ],
)
def test_share_worked_by_hand(num, share, expected):
    mixed = mix_in(rows("a", num), rows("b", 20), share, seed=0)
    count = Counter(name[0] for name in names(mixed))
    assert (count["a"], count["b"]) == (num, expected)


def test_every_training_sample_stays_and_none_is_drawn_twice():
    mixed = names(mix_in(rows("a", 30), rows("b", 100), 0.5, seed=3))
    assert len(set(mixed)) == 60
    assert {name for name in mixed if name[0] == "a"} == {f"a{place}" for place in range(30)}


def test_a_short_second_set_is_taken_in_whole_rounds():
    count = Counter(names(mix_in(rows("a", 8), rows("b", 3), 0.5, seed=1)))
    taken = sorted(count[f"b{place}"] for place in range(3))
    assert taken == [2, 3, 3]


def test_input_order_does_not_matter():
    first, second = rows("a", 12), rows("b", 9)
    expected = names(mix_in(first, second, 0.3, seed=5))
    assert names(mix_in(first[::-1], second, 0.3, seed=5)) == expected
    assert names(mix_in(first, second[::-1], 0.3, seed=5)) == expected


def test_the_seed_decides_which_and_where():
    first, second = rows("a", 40), rows("b", 400)
    drawn = [
        {name for name in names(mix_in(first, second, 0.5, seed)) if name[0] == "b"}
        for seed in (0, 1)
    ]
    assert drawn[0] != drawn[1]


def test_mixed_samples_are_spread_over_the_result():
    mixed = names(mix_in(rows("a", 100), rows("b", 100), 0.5, seed=0))
    in_first_half = sum(name[0] == "b" for name in mixed[:100])
    assert 30 < in_first_half < 70


def test_the_rows_are_passed_on_untouched():
    first, second = rows("a", 2), rows("b", 2)
    assert {id(row) for row in mix_in(first, second, 0.5, 0)} == {id(r) for r in first + second}


def test_nothing_to_mix_in():
    with pytest.raises(ValueError, match=r"train\.mix: share=0\.2 .*no usable samples.*remove"):
        mix_in(rows("a", 2), [], 0.2, seed=0)
