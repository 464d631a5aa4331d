"""The explorer as a browser shows it; skipped where Playwright or Chromium is missing."""

import re

import numpy as np
import pytest
from comparisons import PAYLOAD
from explorer_pages import large_data, make_data, make_sample, page_of

from seal.artifacts.ranking import make_ranking
from seal.stages.report_page.findings import Anchor, Duplicates, Evidence, Heat, Piece
from seal.stages.report_page.visible import visible


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Sixty samples, ten of them without a text; the address of their page."""
    data = make_data(60, texts=50)
    return page_of(data, tmp_path_factory.mktemp("plain")).as_uri()


def ranks(page):
    return [
        int(text) for text in page.locator(".explorer-row > span:first-child").all_inner_texts()
    ]


def count(page):
    return page.locator(".explorer-count").inner_text()


def detail(page):
    return page.locator(".explorer-detail")


# --- the list ------------------------------------------------------------------------------------


def test_the_worst_come_first_and_the_page_asks_for_nothing(plain, visit):
    page, events = visit(plain)
    assert count(page) == "60 of 60 samples"
    assert ranks(page)[:3] == [60, 59, 58]
    assert "question 0 about the sea" in page.locator("#explorer-row-0").inner_text()
    page.get_by_text("highest first").or_(page.get_by_text("lowest first")).click()
    assert ranks(page)[:3] == [1, 2, 3]
    assert events == [("request", plain)]


def test_only_the_rows_in_view_are_in_the_document(plain, visit):
    page, _ = visit(plain)
    assert page.locator(".explorer-row").count() < 40
    page.evaluate("document.querySelector('.explorer-scroll').scrollTop = 1e6")
    page.locator("#explorer-row-59").wait_for()
    assert ranks(page)[-1] == 1
    assert page.locator("#explorer-row-0").count() == 0


def test_sorting_by_a_column(plain, visit):
    page, _ = visit(plain)
    page.locator(".explorer-sort").select_option("loss")
    shown = page.locator(".explorer-row .explorer-extra").all_inner_texts()
    assert shown[:9] == ["0.5"] * 9
    page.locator(".explorer-way").click()
    assert page.locator(".explorer-row .explorer-extra").first.inner_text() == "6.5"
    assert page.locator(".explorer-head .explorer-extra").inner_text() == "loss"


def test_filters(plain, visit):
    page, _ = visit(plain)
    page.locator(".explorer-kept").select_option(label="Dropped")
    assert count(page) == "12 of 60 samples"
    assert ranks(page) == list(range(60, 48, -1))
    page.locator(".explorer-source").select_option(label="web")
    assert count(page) == "4 of 60 samples"
    page.locator(".explorer-source").select_option(label="(no source)")
    assert count(page) == "4 of 60 samples"
    page.locator(".explorer-reset").click()
    assert count(page) == "60 of 60 samples"
    page.locator(".explorer-label").select_option(label="good")
    assert count(page) == "48 of 60 samples"
    page.locator(".explorer-low").fill("2")
    page.locator(".explorer-high").fill("3.05")
    assert count(page) == "11 of 60 samples"
    assert ranks(page) == list(range(30, 19, -1))
    page.locator(".explorer-carried").select_option(label="With text")
    assert 0 < int(count(page).split()[0]) < 11


def test_search_finds_texts_and_ids(plain, visit):
    page, _ = visit(plain)
    search = page.locator(".explorer-search")
    search.fill("ANSWER 3:")
    assert count(page) == "1 of 60 samples"
    page.locator(".explorer-row").click()
    key = detail(page).locator(".id").first.inner_text()
    for query in (key, key[:5], key[:8]):
        search.fill(query)
        assert ranks(page) == [57]
    search.fill("no such words")
    assert count(page) == "0 of 60 samples"
    assert page.locator(".explorer-row").count() == 0


def test_what_has_no_text_says_how_to_see_it(plain, visit):
    page, _ = visit(plain)
    page.locator(".explorer-list").focus()
    for _ in range(60):
        page.keyboard.press("j")
        if page.locator("[aria-selected=true] .id").count():
            break
    page.keyboard.press("Enter")
    text = detail(page).inner_text()
    assert "not carried in this file; seal report --serve RUN shows it" in text
    assert re.search(r"loss\s+\d", text)
    assert "Prompt" not in text


# --- the keyboard --------------------------------------------------------------------------------


def test_keyboard_alone(plain, visit):
    page, _ = visit(plain)
    page.keyboard.press("/")
    page.keyboard.type("sea")
    page.keyboard.press("ArrowDown")
    for key in ("j", "j", "ArrowDown", "k"):
        page.keyboard.press(key)
    selected = page.locator("[aria-selected=true]")
    assert selected.get_attribute("id") == "explorer-row-2"
    active = page.locator(".explorer-list").get_attribute("aria-activedescendant")
    assert active == "explorer-row-2"
    page.keyboard.press("Enter")
    assert detail(page).locator(".rank").inner_text() == "Rank 58"
    page.keyboard.press("j")
    assert detail(page).locator(".rank").inner_text() == "Rank 57"
    page.keyboard.press("Escape")
    assert detail(page).is_hidden()
    assert page.evaluate("document.activeElement.className") == "explorer-list"
    page.keyboard.press("Escape")
    assert page.locator(".explorer-search").input_value() == ""
    page.keyboard.press("End")
    assert ranks(page)[-1] == 1
    page.keyboard.press("Home")
    assert selected.get_attribute("id") == "explorer-row-0"
    page.keyboard.press("?")
    assert page.locator(".explorer-help").is_visible()
    assert page.locator(".explorer-help-button").get_attribute("aria-expanded") == "true"


def test_keys_typed_into_a_field_stay_there(plain, visit):
    page, _ = visit(plain)
    page.locator(".explorer-search").fill("")
    page.locator(".explorer-search").press_sequentially("j?/")
    assert page.locator(".explorer-search").input_value() == "j?/"
    assert page.locator(".explorer-help").is_hidden()


def test_names_and_roles(plain, visit):
    page, _ = visit(plain)
    assert page.get_by_role("grid", name="Samples").get_attribute("aria-rowcount") == "61"
    assert page.get_by_role("columnheader").count() == 6
    for control in page.locator(".explorer-tools input, .explorer-tools select").all():
        assert control.get_attribute("aria-label")
    page.locator(".explorer-list").focus()
    page.keyboard.press("j")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


# --- an open sample ------------------------------------------------------------------------------


def rich(key, text="The sea"):
    heat = Heat(
        "what the colours mean", (Piece(text, 3.2), Piece(" is", -1.0), Piece(".", None)), 7
    )
    anchors = (Anchor("safe", "ab", 0.91, 0.5, text), Anchor("harmful", "cd", 0.4, 0.3, text))
    alike = Duplicates((f"{key}-1",), 3, {"near one": 0.83}, 1, 1234, 0.7)
    return Evidence((heat,), anchors, f"guard: harmful {text}", alike)


def test_an_open_sample_shows_all_that_is_known(tmp_path, visit):
    ids = make_data(6).ranking.best_first()
    columns = {"first_loss": np.arange(6.0), "last_loss": np.arange(6.0) / 2}
    ranking = make_ranking(tuple(ids), np.arange(6.0)[::-1], columns)
    data = make_data(6, ranker="seal", ranking=ranking, evidence={ids[-1]: rich(ids[-1])})
    page, _ = visit(page_of(data, tmp_path).as_uri())
    page.locator("#explorer-row-0").click()
    text = detail(page).inner_text()
    for words in (
        "Rank 6", "Rank 6 of 6: 5 samples come before it.", "not a proof of harm",
        "question 0 about the sea", "what the colours mean", "7 more tokens", "The sea +3.20",
        "5 at its first visit, 2.5 at the final parameters (nats per token)",
        "cosine 0.910 (median of its kind 0.500)", "harmful", f"{ids[-1]}-1 and 2 more",
        "near one (83\u00a0%)", "1,234 samples compared", "guard: harmful The sea",
    ):  # fmt: skip
        assert words in text, words
    assert page.locator(".explorer-heat .heat-more-5").inner_text() == "The sea"
    assert page.locator(".explorer-heat .heat-less-2").inner_text() == " is"
    assert page.locator(".explorer-heat .heat-less-2").get_attribute("title") == "\u22121.00 nats"
    page.locator("#explorer-row-1").click()
    text = detail(page).inner_text()
    assert "Not looked up for this sample: losses of its tokens, nearest anchors" in text
    assert "answer 1: the sea is blue" in text


def test_text_from_data_stays_text(tmp_path, visit):
    samples = [make_sample(f"prompt{PAYLOAD}", f"response{n}{PAYLOAD}") for n in range(3)]
    samples = [type(one)(one.id, one.prompt, one.completion, f"source{PAYLOAD}") for one in samples]
    ids = tuple(one.id for one in samples)
    data = make_data(
        3,
        ranker=f"ranker{PAYLOAD}",
        ranking=make_ranking(ids, np.arange(3.0), {f"column{PAYLOAD}": np.arange(3.0)}),
        samples={one.id: one for one in samples},
        kept=frozenset(ids[1:]),
        labels=dict.fromkeys(ids, f"label{PAYLOAD}"),
        unsafe_labels=frozenset({f"label{PAYLOAD}"}),
        evidence={key: rich(key, f"evidence{PAYLOAD}") for key in ids[:2]},
        table=f"table{PAYLOAD}",
    )
    path = page_of(data, tmp_path)
    page, events = visit(path.as_uri())
    seen = page.locator("main").inner_text()
    for place in range(3):
        page.locator(f"#explorer-row-{place}").click()
        page.mouse.move(300, 300 + place)
        seen += detail(page).inner_text()
    page.locator(".explorer-sort").select_option(index=1)
    page.locator(".explorer-search").fill(visible(PAYLOAD))
    seen += page.locator("main").inner_text()
    page.wait_for_timeout(100)
    assert page.evaluate("window.pwned === undefined")
    assert events == [("request", path.as_uri())]
    assert (
        page.evaluate("document.images.length + document.querySelectorAll('[onerror]').length") == 0
    )
    for field in ["source", "prompt", "response2", "label", "column", "evidence", "ranker"]:
        # The beginning: long names are cut, and rows show one line.
        assert f"{field}{visible(PAYLOAD)[:60]}" in seen, field
    assert not {"\u202e", "\x1b", "\x00"} & set(seen)
    assert "evidence" + visible(PAYLOAD) in seen


def test_no_text_can_be_fetched_from_a_file(plain, visit):
    page, events = visit(plain)
    answer = page.evaluate("fetch('text?id=1').then(() => 'fetched', () => 'refused')")
    assert answer == "refused"
    assert [event for event in events if event[0] == "request"] == [("request", plain)]


# --- how it looks --------------------------------------------------------------------------------


def test_light_and_dark(plain, visit):
    found = {}
    for scheme in ("light", "dark"):
        page, events = visit(plain, scheme)
        page.locator("#explorer-row-0").click()
        found[scheme] = page.evaluate(
            "['.explorer-list', '.explorer-detail', '.explorer-search'].map(name =>"
            " getComputedStyle(document.querySelector(name)).backgroundColor)"
        )
        assert len(events) == 1
    assert set(found["light"]) == {"rgb(255, 255, 255)"}
    assert set(found["dark"]) == {"rgb(26, 30, 34)"}


@pytest.mark.parametrize("width", [390, 1200])
def test_it_never_scrolls_sideways(tmp_path, visit, width):
    samples = [make_sample("p" * 900 + str(n), "\ufdfa" * 900, n) for n in range(3)]
    ids = tuple(one.id for one in samples)
    data = make_data(
        3,
        ranking=make_ranking(ids, np.arange(3.0), {"c" * 300: np.arange(3.0) * 1e9 + 0.5}),
        samples={one.id: one for one in samples},
        labels=dict.fromkeys(ids, "l" * 300),
        evidence={key: rich(key, "x" * 900) for key in ids},
    )
    page, _ = visit(page_of(data, tmp_path).as_uri(), width=width)
    page.locator("#explorer-row-0").click()
    page.keyboard.press("?")
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_without_javascript_it_says_so(plain, visit):
    page, _ = visit(plain, java_script_enabled=False)
    assert "needs JavaScript, which is off here" in page.locator("noscript").inner_text()
    assert page.locator(".explorer-app").is_hidden()


def test_a_browser_that_cannot_unpack_is_told(plain, browser):
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto(plain)
    assert "cannot unpack the samples" in page.locator(".explorer-problem").inner_text()
    context.close()


# --- a hundred thousand --------------------------------------------------------------------------


def test_a_large_pool_is_filtered_sorted_and_scrolled_at_once(tmp_path, visit):
    page, _ = visit(page_of(large_data(100_000), tmp_path).as_uri())
    assert count(page) == "100,000 of 100,000 samples"
    timed = """async (step) => {
        const set = (name, value) => {
            const control = document.querySelector(name);
            control.value = value;
            control.dispatchEvent(new Event('input'));
        };
        const list = document.querySelector('.explorer-scroll');
        const steps = {
            label: () => set('.explorer-label', '1'),
            low: () => set('.explorer-low', '0.5'),
            search: () => set('.explorer-search', 'a3'),
            scroll: () => { list.scrollTop += 30000; list.dispatchEvent(new Event('scroll')); },
            sort: () => set('.explorer-sort', 'c3'),
        };
        const start = performance.now();
        steps[step]();
        list.getBoundingClientRect();
        return performance.now() - start;
    }"""
    for step, limit in {
        "label": 250,
        "low": 250,
        "scroll": 250,
        "search": 250,
        "sort": 2000,
    }.items():
        assert page.evaluate(timed, step) < limit, step  # 5 to 20 ms on an idle machine; sort 80
    assert page.locator(".explorer-row").count() < 60
    assert 0 < int(count(page).split()[0].replace(",", "")) < 1000
