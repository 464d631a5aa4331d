from rankers.conftest import encoded
from seal.rankers.draws import draw_rows, drawn_share

ROWS = [encoded(f"id-{i:02d}", [2], [1]) for i in range(40)]


def drawn(rows, count, **draw) -> list[str]:
    return [row.id for row in draw_rows(rows, count, **draw)]


def test_a_draw_depends_on_seed_stream_and_ids_alone():
    first = drawn(ROWS, 10, seed=0)
    assert first == sorted(first)
    assert len(set(first)) == 10
    assert drawn(ROWS[::-1], 10, seed=0) == first
    assert first != [row.id for row in ROWS[:10]]
    others = [drawn(ROWS, 10, seed=1), drawn(ROWS, 10, seed=0, stream="targets")]
    others.append(drawn(ROWS, 10, seed=0, stream="probes"))
    assert len({tuple(ids) for ids in (first, *others)}) == 4


def test_a_row_that_is_drawn_stays_drawn_when_others_go():
    first = drawn(ROWS, 10, seed=0, stream="targets")
    fewer = [row for row in ROWS if row.id in first or int(row.id[3:]) % 2]
    assert drawn(fewer, 10, seed=0, stream="targets") == first
    assert set(drawn(ROWS, 5, seed=0, stream="targets")) < set(first)


def test_of_a_small_set_all_are_drawn():
    assert drawn(ROWS, 100, seed=0) == [row.id for row in ROWS]


def test_share_of_the_rows_that_is_drawn():
    assert drawn_share(100, 400) == 0.25
    assert drawn_share(100, 40) == 1
    assert drawn_share(100, 0) == 0
