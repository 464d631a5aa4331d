"""The page as a browser shows it; skipped where Playwright or Chromium is missing."""

from __future__ import annotations

import itertools
import json
import time

import numpy as np
import pytest
from comparisons import PAYLOAD, fail, hostile, make, make_sample

from seal.artifacts.ranking import make_ranking
from seal.artifacts.selection import Selection
from seal.stages.report import report
from seal.stages.report_page.visible import visible


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The page of 100 000 samples with long texts, and the seconds it took."""
    ids = tuple(f"{place:06}" for place in range(100_000))
    text = "<&'\"\u202e" * 400
    folder = tmp_path_factory.mktemp("large")
    comparison = make(
        ranking=make_ranking(ids, np.random.default_rng(0).normal(size=len(ids))),
        selection=Selection(ids[20_000:], len(ids)),
        samples=tuple(make_sample(key, f"{int(key) % 5000}{text}", text, text) for key in ids),
        labels={key: "bad" if int(key) % 7 == 0 else "good" for key in ids},
        excluded=tuple(
            {"where": f"pool.jsonl:{n}", "reason": f"{text}{n}", "stage": "read"}
            for n in range(10_000)
        ),
    )
    start = time.process_time()
    page = report(comparison, folder)
    return page, time.process_time() - start


def test_a_large_pool_makes_a_small_page_quickly(large):
    page, seconds = large
    assert page.stat().st_size < 3_000_000
    assert (page.parent / "report.json").stat().st_size < 3_000_000
    assert seconds < 10


@pytest.fixture
def visit(visit):
    """Open a page of a report, every folded part of it unfolded."""

    def open_page(path, width=1200, scheme="light"):
        page, events = visit(path.as_uri(), scheme, width)
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        return page, events

    return open_page


def test_text_from_data_stays_text(tmp_path, visit):
    path = report(hostile(), tmp_path)
    page, events = visit(path)
    page.mouse.move(200, 200)
    page.keyboard.press("Tab")
    assert page.evaluate("window.pwned === undefined")
    assert events == [("request", path.as_uri())]
    run = "[...document.scripts].filter(s => !s.type).length + document.images.length"
    assert page.evaluate(run) == 1  # the explorer's own script, which the policy names by its hash
    assert page.evaluate("window.pwned === undefined")
    assert page.title() == visible(f"title{PAYLOAD}")
    seen = page.locator("main").inner_text()
    fields = (
        "title ranker arm source prompt response label where reason stage key value stable replay"
    )
    for field in fields.split():
        assert visible(f"{field}{PAYLOAD}") in seen, field
    policy = page.locator("meta[http-equiv]").get_attribute("content")
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "; script-src 'sha256-" in policy
    assert "unsafe" not in policy
    assert "49" not in page.locator("h1").inner_text()


def test_the_files_of_hostile_data_are_clean(tmp_path):
    path = report(hostile(), tmp_path)
    for file in (path, tmp_path / "report.json", tmp_path / "DATA_CARD.md"):
        text = file.read_bytes().decode("utf-8")
        assert not {"\u202e", "\u200b", "\x1b", "\x00"} & set(text)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=fail)
    assert "http" not in path.read_text(encoding="utf-8").replace("http-equiv", "")


@pytest.mark.parametrize("make_comparison", [make, hostile])
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_never_scrolls_sideways(tmp_path, visit, make_comparison, width):
    long = tuple(make_sample(s.id, "s" * 300, "p" * 900, "ﷺ" * 900) for s in make().samples)
    comparison = make_comparison()
    for shown in (comparison, make(title="t" * 400, samples=long)):
        page, events = visit(report(shown, tmp_path), width)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert len(events) == 1


def test_an_injected_script_would_not_run(tmp_path, visit):
    """The policy's word, not the escaping's: what got into the page all the same stays dead."""
    path = report(make(), tmp_path)
    text = path.read_text(encoding="utf-8")
    injected = "<script>window.pwned=1</script><img src=x onerror=window.pwned=1></main>"
    assert text.count("</main>") == 1
    path.write_text(text.replace("</main>", injected), encoding="utf-8")
    page, _ = visit(path)
    assert page.locator("img").count() == 1
    assert page.evaluate("window.pwned === undefined")


def test_the_page_answers_which_arm_and_how_sure_without_scrolling_far(tmp_path, visit):
    page, _ = visit(report(make(), tmp_path))
    verdict = page.locator(".verdict")
    assert verdict.inner_text().startswith(
        "Prefer “selected”: it is safer than training on all data"
    )
    assert page.locator(".sure").inner_text().split("\n")[0].startswith("thin evidence")
    box = page.locator(".rests").bounding_box()
    assert box["y"] < 500
    first = page.locator(".rests tbody tr").first.inner_text()
    assert "85.0\u00a0%" in first
    assert "+25.0\u00a0points" in first
    assert "One training seed." in page.locator(".reservations").last.inner_text()


def test_light_and_dark(tmp_path, visit):
    path = report(make(), tmp_path)
    papers = {}
    for scheme in ("light", "dark"):
        page, events = visit(path, scheme=scheme)
        papers[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert len(events) == 1
    assert papers == {"light": "rgb(251, 251, 249)", "dark": "rgb(20, 23, 26)"}


def test_colours_of_text_contrast_with_the_paper(tmp_path, visit):
    measure = """() => {
        const style = getComputedStyle(document.documentElement);
        const names = ['--ink', '--muted', '--blue', '--orange'];
        const light = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16) / 255)
            .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
        const value = name => light(style.getPropertyValue(name).trim());
        const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        return Math.min(
            ...names.flatMap(n => ['--paper', '--panel'].map(p => ratio(value(n), value(p)))),
            ...['--orange', '--blue'].map(n => ratio(value(n), value(n + '-soft'))));
    }"""
    path = report(make(), tmp_path)
    for scheme in ("light", "dark"):
        page, _ = visit(path, scheme=scheme)
        assert page.evaluate(measure) >= 4.5


def test_the_page_can_be_read_without_seeing_it(tmp_path, visit):
    page, _ = visit(report(make(), tmp_path))
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("svg[role=img]").count() > 4
    assert page.locator("svg[role=img]:not(:has(> title))").count() == 0
    assert page.locator("main svg:not([role=img], [aria-hidden], [role=img] svg)").count() == 0
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    links = page.evaluate("[...document.links].map(a => a.getAttribute('href'))")
    assert {link[1:] for link in links} <= set(ids)


def test_print_shows_the_folded_parts(tmp_path, visit):
    path = report(make(), tmp_path)
    page, _ = visit(path)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = false })")
    page.emulate_media(media="print")
    assert "pool.jsonl:12" in page.locator("#excluded ~ details").inner_text()


def test_a_large_page_opens(large, visit):
    page, events = visit(large[0], 390)
    assert page.locator("li .facts").count() == 30
    assert len(events) == 1
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_print_is_as_wide_as_the_paper(tmp_path, visit):
    page, _ = visit(report(make(), tmp_path), width=690)  # A4 less its margins, in CSS pixels
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") == 690
    assert not page.locator("nav").is_visible()
