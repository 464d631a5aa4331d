"""The report over loopback: what it gives, to whom, and what it refuses."""

import http.client
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse
from contextlib import contextmanager

import pytest
from comparisons import make
from explorer_pages import make_data, page_of

from seal.stages import report as stage
from seal.stages.report_page.explorer import ExplorerData, SampleTexts
from seal.stages.report_page.serve import PageServer, serve


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report's folder and its data: sixty samples, three with a text."""
    data = make_data(60, texts=3)
    folder = tmp_path_factory.mktemp("run") / "report"
    folder.mkdir()
    page_of(data, folder)
    return folder, data


@contextmanager
def running(folder, texts):
    with PageServer(folder, texts) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(report):
    folder, data = report
    with running(folder, SampleTexts(data)) as one:
        yield one


def ask(server, path, method="GET", host=None):
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    if host != "":
        connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_the_page_may_ask_its_own_server_and_no_other(server, report):
    status, headers, body = ask(server, f"/{server.token}/")
    assert status == 200
    text = body.decode()
    assert "content=\"default-src 'none'; connect-src 'self'; script-src 'sha256-" in text
    assert '<meta name="seal-texts" content="served">' in text
    offline = (report[0] / "index.html").read_text("utf-8")
    added = '<meta name="seal-texts" content="served">\n'
    assert text.replace(added, "").replace(" connect-src 'self';", "") == offline
    assert "connect-src" not in offline
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert "Python" not in str(headers)


def test_a_policy_that_was_escaped_is_widened_all_the_same(report, tmp_path):
    text = (report[0] / "index.html").read_text("utf-8").replace("'none'", "&#39;none&#39;")
    (tmp_path / "index.html").write_text(text, encoding="utf-8")
    with running(tmp_path, SampleTexts(report[1])) as server:
        page = ask(server, f"/{server.token}/")[2].decode()
    assert "default-src &#39;none&#39;; connect-src 'self'; script-src" in page


def test_every_text_is_given(server, report):
    for place, key in enumerate(report[1].samples):
        status, headers, body = ask(server, f"/{server.token}/text?id={key}")
        assert status == 200
        assert headers["Content-Type"] == "application/json"
        assert json.loads(body)["prompt"]["text"] == f"question {place} about the sea"
    assert ask(server, f"/{server.token}/text?id=nobody")[0] == 404


def test_texts_are_searched(server, report):
    query = urllib.parse.quote("QUESTION 7 ")
    status, _, body = ask(server, f"/{server.token}/search?q={query}")
    assert (status, json.loads(body)) == (200, [list(report[1].samples)[7]])


def test_the_page_of_a_whole_report_can_be_served(tmp_path, visit):
    comparison = make()
    stage.report(comparison, tmp_path)
    samples = {sample.id: sample for sample in comparison.samples}
    kept = frozenset(comparison.selection.ids)
    texts = SampleTexts(ExplorerData(comparison.ranker, comparison.ranking, kept, samples))
    with running(tmp_path, texts) as server:
        page, events = visit(server.url)
        page.locator(".explorer-search").fill("an answer")
        page.get_by_text("10 of 10 samples").wait_for()
        page.locator("#explorer-row-0").click()
        assert "an answer" in page.locator(".explorer-detail").inner_text()
    assert [event for event in events if event[0] != "request"] == []


@pytest.mark.parametrize("query", ["", "?", "?id=", "?id=a&id=b", "?q=a", "?id=a&x=b", "?id"])
def test_a_question_that_is_none_is_refused(server, query):
    assert ask(server, f"/{server.token}/text{query}")[0] == 400
    assert ask(server, f"/{server.token}/search?q={'a' * 2000}")[0] == 400


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}", ""]
)
def test_a_request_that_names_another_host_is_refused(server, host):
    named = host.format(port=server.server_port)
    for path in ("/", f"/{server.token}/", f"/{server.token}/text?id=a"):
        status, _, body = ask(server, path, host=named)
        assert (status, body) == (403, b"Forbidden")


def test_localhost_is_this_host(server):
    assert ask(server, f"/{server.token}/", host=f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/", "/index.html", "/text?id=a", "/search?q=a", "/x/", "/{token}", "/{token}/index.html",
        "/{token}/report.json", "/{token}/../", "/{token}//", "/{token}/text/", "/{token}x/",
        "/{token}/%2e%2e/%2e%2e/etc/passwd", "/%7Btoken%7D/",
    ],
)  # fmt: skip
def test_nothing_else_is_there(server, path):
    status, headers, body = ask(server, path.format(token=server.token))
    assert (status, body) == (404, b"Not Found")
    assert headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT"])
def test_only_get_is_answered(server, method):
    status, headers, _ = ask(server, f"/{server.token}/", method)
    assert status == 501
    assert "Access-Control-Allow-Origin" not in headers


def test_it_listens_on_loopback_only_and_never_twice_under_one_address(server, report):
    assert server.server_address[0] == "127.0.0.1"
    with PageServer(report[0], SampleTexts(report[1])) as other:
        assert other.token != server.token
        assert len(other.token) >= 32
        assert other.url == f"http://127.0.0.1:{other.server_port}/{other.token}/"


def test_a_port_that_is_taken_is_told(report):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} cannot be listened on"):
            PageServer(report[0], SampleTexts(report[1]), port)
    with pytest.raises(ValueError, match="port 99999 cannot"):
        PageServer(report[0], SampleTexts(report[1]), 99_999)


def test_a_report_without_an_explorer_is_told(report, tmp_path):
    texts = SampleTexts(report[1])
    with pytest.raises(ValueError, match=r"index\.html is missing. Make it with: seal report"):
        PageServer(tmp_path, texts)
    (tmp_path / "index.html").write_text("<p>an old report</p>")
    with pytest.raises(ValueError, match="has no sample explorer"):
        PageServer(tmp_path, texts)


def test_a_failure_behind_it_is_logged_and_the_next_request_answered(report, caplog):
    class Broken:
        def text(self, name):
            raise OSError(f"no disk for {name}")

        def search(self, query):
            return [query]

    with caplog.at_level(logging.WARNING), running(report[0], Broken()) as server:
        with pytest.raises(http.client.RemoteDisconnected):
            ask(server, f"/{server.token}/text?id=a")
        assert ask(server, f"/{server.token}/search?q=a")[2] == b'["a"]'
    assert "no disk for a" in caplog.text


def test_ctrl_c_ends_it_cleanly(report):
    code = (
        "import signal, sys; from pathlib import Path\n"
        "from seal.stages.report_page.serve import serve\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Texts:\n"
        "    def text(self, name): return None\n"
        "    def search(self, query): return []\n"
        "serve(Path(sys.argv[1]), Texts(), announce=lambda url: print(url, flush=True))\n"
        "print('ended')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(report[0])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().startswith("http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "ended\n", "")


def test_serve_announces_its_address(report):
    told = []

    def announce(url):
        told.append(url)
        raise KeyboardInterrupt  # Ctrl-C before it serves

    serve(report[0], SampleTexts(report[1]), announce=announce)
    assert told[0].startswith("http://127.0.0.1:")


# --- in a browser --------------------------------------------------------------------------------


def test_the_page_shows_texts_that_it_does_not_carry(server, visit):
    page, events = visit(server.url)
    assert page.locator(".explorer-search").get_attribute("placeholder") == "Search texts and ids"
    page.locator(".explorer-search").fill("question 31 ")
    page.get_by_text("1 of 60 samples").wait_for()
    page.locator("#explorer-row-0").click()
    page.get_by_text("answer 31: the sea is blue").wait_for()
    text = page.locator(".explorer-detail").inner_text()
    assert "Rank 29 of 60" in text
    assert "not carried" not in text
    assert "question 31" in page.locator("#explorer-row-0").inner_text()
    asked = [address for kind, address in events if kind == "request"]
    assert all(address.startswith(server.url) for address in asked)
    assert any("/text?id=" in address for address in asked)
    assert any("/search?q=question%2031" in address for address in asked)
    assert [event for event in events if event[0] != "request"] == []


def test_a_server_that_has_gone_is_told(report, visit):
    with running(report[0], SampleTexts(report[1])) as server:
        page, _ = visit(server.url)
    page.locator("#explorer-row-20").click()
    page.get_by_text("The text cannot be had").wait_for()
