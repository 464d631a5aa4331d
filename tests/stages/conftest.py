"""A browser for the tests that look at a page; they are skipped where it is missing."""

import shutil

import pytest

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run"
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=flags.split())
        yield running
        running.close()


@pytest.fixture
def visit(browser):
    """Open a page's address; returns it and a list of everything that it tried to do."""
    contexts = []

    def open_page(address, scheme="light", width=1200, **options):
        size = {"width": width, "height": 1000}
        context = browser.new_context(viewport=size, color_scheme=scheme, **options)
        contexts.append(context)
        page, events = context.new_page(), []
        page.on("console", lambda message: events.append(("console", message.text)))
        page.on("pageerror", lambda error: events.append(("error", str(error))))
        page.on("request", lambda request: events.append(("request", request.url)))
        page.on("dialog", lambda dialog: (events.append(("dialog", "")), dialog.dismiss()))
        page.goto(address)
        if options.get("java_script_enabled", True):
            page.locator(".explorer-app, .explorer-problem").locator("visible=true").wait_for()
        return page, events

    yield open_page
    for context in contexts:
        context.close()
