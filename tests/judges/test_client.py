"""Asking an endpoint: against a real server on loopback that fails in every way there is."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from fake_endpoint import Reply, fails, says
from pydantic import ValidationError

from seal.judges import client
from seal.judges.client import EndpointSettings, Question, ask_each

SCHEMA = {"type": "object"}


def questions(num):
    return [Question(f"q{place}", "judge it", f"text {place}") for place in range(num)]


def settings(endpoint, **more):
    return EndpointSettings(
        **{"base_url": endpoint.url, "model": "m", "max_retries": 2, "concurrency": 1, **more}
    )


def ask(endpoint, num=1, **more):
    return list(ask_each(settings(endpoint, **more), questions(num), SCHEMA))


def until_it_stops(judge, num):
    """The ids that were handed on, and the message after them."""
    had = []
    answers = ask_each(judge, questions(num), SCHEMA)
    while True:
        try:
            had.append(next(answers).id)
        except ValueError as error:
            return had, str(error)


def test_every_question_gets_its_own_answer(endpoint):
    endpoint.answer = lambda request, _: says(request["messages"][-1]["content"].upper())
    found = {each.id: each.text for each in ask(endpoint, 9, concurrency=4)}
    assert found == {f"q{place}": f"TEXT {place}" for place in range(9)}


def test_the_request_holds_what_was_set(endpoint):
    ask(endpoint, temperature=0.5)
    (request,) = endpoint.requests
    assert request["model"] == "m"
    assert request["temperature"] == 0.5
    assert [turn["role"] for turn in request["messages"]] == ["system", "user"]
    assert request["response_format"]["json_schema"]["schema"] == SCHEMA
    assert request["response_format"]["json_schema"]["strict"] is True


def test_temperature_none_is_left_out(endpoint):
    ask(endpoint, temperature=None)
    assert "temperature" not in endpoint.requests[0]


def test_no_question_needs_no_server():
    absent = EndpointSettings(base_url="http://127.0.0.1:9/v1", model="m")
    assert list(ask_each(absent, [], SCHEMA)) == []


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_without_schemas_is_asked_for_an_object_then_for_text(endpoint, status):
    def answer(request, _):
        form = request.get("response_format", {}).get("type")
        return fails(status, "what is response_format?") if form else says("plain")

    endpoint.answer = answer
    assert [each.text for each in ask(endpoint, 3)] == ["plain"] * 3
    forms = [request.get("response_format", {}).get("type") for request in endpoint.requests]
    # it is found out once, not for each question
    assert forms == ["json_schema", "json_object", None, None, None]


def test_too_many_requests_waits_as_long_as_the_server_says(endpoint):
    endpoint.answer = lambda _, number: says("yes") if number else fails(429, retry_after="0.4")
    start = time.monotonic()
    assert [each.text for each in ask(endpoint)] == ["yes"]
    assert time.monotonic() - start >= 0.4
    assert len(endpoint.requests) == 2


def test_retry_after_may_be_a_date():
    from seal.judges.chat import _retry_after

    later = datetime.now(UTC) + timedelta(seconds=30)
    assert 25 < _retry_after({"retry-after": format_datetime(later, usegmt=True)}) <= 30
    assert _retry_after({"retry-after": format_datetime(later - timedelta(hours=1))}) == 0
    assert _retry_after({"retry-after": "soon"}) == 0
    assert _retry_after({"retry-after": "nan"}) == 0
    assert _retry_after({}) == 0


def test_a_server_that_wants_a_day_stops_the_run(endpoint):
    endpoint.answer = lambda *_: fails(429, "quota", retry_after="86400")
    with pytest.raises(ValueError, match=r"wants to be left alone for 86400 s.*0 of 1 answers"):
        ask(endpoint)
    assert len(endpoint.requests) == 1


BROKEN = {
    "500": fails(500, "boom"),
    "503": fails(503, "overloaded"),
    "408": fails(408, "slow"),
    "truncated json": Reply(body=b'{"choices": [{"mess'),
    "wrong json": Reply(body=b'{"detail": "hello"}'),
    "a list": Reply(body=b"[]"),
    "html": Reply(body=b"<html>gateway</html>"),
    "not utf-8": Reply(body=b"\xff\xfe\xfd"),
    "connection lost": Reply(body=b'{"choices"', missing=50),
    "timeout": Reply(body=says("too late").body, delay=1.6),
    # over two seconds, but never one without a byte
    "slow stream": Reply(body=says("too late").body, drip=0.02),
}
# Long enough for a busy machine, but where the time is what runs out.
PATIENCE = {"timeout": 1.0, "slow stream": 1.0}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_can_pass_is_tried_again(endpoint, kind):
    endpoint.answer = lambda _, number: says("at last") if number == 2 else BROKEN[kind]
    assert [each.text for each in ask(endpoint, timeout_seconds=PATIENCE.get(kind, 20.0))] == [
        "at last"
    ]
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize("kind", ["500", "truncated json", "slow stream"])
def test_what_does_not_pass_stops_the_run_and_keeps_what_was_had(endpoint, kind):
    endpoint.answer = lambda _, number: BROKEN[kind] if number >= 2 else says("paid for")
    had, message = until_it_stops(settings(endpoint, timeout_seconds=PATIENCE.get(kind, 20.0)), 9)
    assert "3 times in a row. 2 of 9 answers were had" in message
    assert had == ["q0", "q1"]
    assert len(endpoint.requests) == 2 + 3  # the other six were not asked
    assert "\n" not in message


def test_an_outage_waits_for_the_answers_in_the_air(endpoint):
    def answer(request, _):
        if request["messages"][-1]["content"] == "text 0":
            return fails(500)
        late = says("late")
        late.delay = 0.4
        return late

    endpoint.answer = answer
    had, message = until_it_stops(settings(endpoint, concurrency=4), 50)
    assert "3 of 50 answers" in message
    assert sorted(had) == ["q1", "q2", "q3"]


def test_a_question_that_waits_for_its_next_try_is_let_go(endpoint):
    def answer(request, _):
        is_first = request["messages"][-1]["content"] == "text 0"
        return fails(500) if is_first else fails(429, retry_after="0.3")

    endpoint.answer = answer
    had, message = until_it_stops(settings(endpoint, concurrency=2), 2)
    assert had == []
    assert "HTTP 500" in message
    assert len(endpoint.requests) == 3 + 1


def test_nobody_listening_is_an_outage(endpoint):
    silent = settings(endpoint, base_url="http://127.0.0.1:9/v1")
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9/v1.*connection failed"):
        list(ask_each(silent, questions(1), SCHEMA))


def test_as_many_at_a_time_as_was_set(endpoint):
    reply = says("x")
    reply.delay = 0.1
    endpoint.answer = lambda *_: reply
    ask(endpoint, 12, concurrency=4)
    assert endpoint.busiest == 4


def test_one_refused_question_is_not_an_outage(endpoint):
    def answer(request, _):
        is_bad = request["messages"][-1]["content"] == "text 1"
        return fails(400, "content filter") if is_bad else says("fine")

    endpoint.answer = answer
    first, second, third = ask(endpoint, 3)
    assert (first.text, third.text) == ("fine", "fine")
    assert second.problem == "no answer: HTTP 400: content filter"
    # the refusal says nothing about the format: the third was asked for the schema again
    assert endpoint.requests[-1]["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize(("num", "named"), [(2, "every question"), (9, "the first 3 questions")])
def test_a_server_that_refuses_all_stops_the_run(endpoint, num, named):
    endpoint.answer = lambda *_: fails(400, "unknown field temperature")
    with pytest.raises(ValueError, match=rf"refused {named} .*unknown field temperature"):
        ask(endpoint, num)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_address_is_not_tried_again(endpoint, status, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    endpoint.answer = lambda *_: fails(status, "Incorrect API key provided: sk-secret-123")
    with pytest.raises(ValueError, match=rf"HTTP {status}.*the key in MY_KEY") as caught:
        ask(endpoint, 5, api_key_env="MY_KEY")
    assert len(endpoint.requests) == 1
    assert "sk-secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_key_is_sent_and_shown_nowhere(endpoint, monkeypatch):
    monkeypatch.setenv("MY_KEY", " sk-secret-123\n")
    endpoint.answer = lambda *_: says("you sent sk-secret-123")
    (answer,) = ask(endpoint, api_key_env="MY_KEY")
    assert endpoint.headers[0]["authorization"] == "Bearer sk-secret-123"
    assert answer.text == "you sent ***"
    assert "sk-secret" not in settings(endpoint, api_key_env="MY_KEY").model_dump_json()


def test_an_unset_key_is_named(endpoint, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ValueError, match="api_key_env: the environment variable MY_KEY is not set"):
        ask(endpoint, api_key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", "sk-söcret")
    with pytest.raises(ValueError, match="characters that a header cannot hold") as caught:
        ask(endpoint, api_key_env="MY_KEY")
    assert "söcret" not in str(caught.value)
    assert endpoint.requests == []


@pytest.mark.parametrize(
    "change",
    [
        {"base_url": "127.0.0.1:8000"},
        {"base_url": "http://user:password@host/v1"},
        {"base_url": "http://host/v1?key=secret"},
        {"api_key_env": "sk-secret-123"},  # the key where its name belongs
        {"temperature": -1},
        {"concurrency": 0},
        {"timeout_seconds": 0},
    ],
)
def test_settings_are_checked(change):
    with pytest.raises(ValidationError):
        EndpointSettings(**{"base_url": "http://host/v1", "model": "m", **change})


def test_a_cut_answer_and_a_refusal_are_said_to_be_so(endpoint):
    replies = [
        says('{"score": 1}', finish_reason="length"),
        says(None, refusal="I will not read this"),
        says("", finish_reason="content_filter"),
    ]
    endpoint.answer = lambda _, number: replies[number]
    cut, refused, filtered = ask(endpoint, 3)
    assert cut.problem == "unparsable: the judge's answer was cut off at its length"
    assert cut.text == '{"score": 1}'
    assert refused.problem == "unparsable: the judge does not judge it ('I will not read this')"
    assert filtered.problem == "unparsable: the judge does not judge it ('content_filter')"


def test_leaving_early_asks_nothing_more(endpoint):
    reply = says("x")
    reply.delay = 0.05
    endpoint.answer = lambda *_: reply
    answers = ask_each(settings(endpoint), questions(200), SCHEMA)
    next(answers)
    answers.close()
    asked = len(endpoint.requests)
    time.sleep(0.2)
    assert len(endpoint.requests) == asked < 10


def test_it_works_inside_an_event_loop(endpoint):
    async def notebook():
        return ask(endpoint)

    assert len(asyncio.run(notebook())) == 1


def test_a_missing_package_is_named(endpoint, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(ValueError, match=r"pip install 'seal\[judge\]'"):
        ask(endpoint)


def test_waits_grow(endpoint, monkeypatch):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr(client.asyncio, "sleep", sleep)
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 20.0)
    endpoint.answer = lambda *_: fails(500)
    with pytest.raises(ValueError, match="4 times in a row"):
        ask(endpoint, max_retries=3)
    assert waits == [20.0, 40.0, 60.0]
