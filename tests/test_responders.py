"""Responders: what is answered is kept, whatever happens, and no answer is another's."""

import json
import logging
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from pydantic import ValidationError
from transformers import AddedToken, LlamaForCausalLM

from seal import generation, responders, server
from seal.artifacts.responses import Answer, ResponseStore
from seal.data.sample import Message
from seal.data.tokenize import ChatEncoder
from seal.generation import Decoding, generate
from seal.models import ModelSpec, load_model
from seal.responders import LocalResponder, ServerResponder, local_header
from seal.server import ServerSettings
from tiny_model import CHAT_TEMPLATE, make_tokenizer

TEXTS = [f"Question {i}: {'really ' * (i % 4)}why?" for i in range(9)]
PROMPTS = [(Message("user", text),) for text in TEXTS]
DECODING = Decoding(max_new_tokens=8, batch_size=2)


# ---------------------------------------------------------------- the model in memory


@pytest.fixture(scope="module")
def lm(lively_dir):
    return load_model(ModelSpec(path=str(lively_dir), device="cpu"))


@pytest.fixture(scope="module")
def expected(lm):
    found = generate(lm, PROMPTS, DECODING)
    assert len(set(found)) > 5  # answers that are mixed up would show
    return found


@pytest.fixture
def store(tmp_path):
    return ResponseStore(tmp_path / "responses")


@pytest.fixture
def generated(monkeypatch):
    """The prompts that the model is really asked, batch by batch, as token ids."""
    batches = []
    real = generation._generate_batch

    def spy(lm, prompt_ids, decoding):
        batches.append(prompt_ids)
        return real(lm, prompt_ids, decoding)

    monkeypatch.setattr(generation, "_generate_batch", spy)
    return batches


def kept(store):
    return {path.name: path.read_bytes() for path in store.root.iterdir()}


def test_with_and_without_a_store_the_answers_are_the_same(lm, expected, store):
    assert LocalResponder(lm, DECODING).respond(PROMPTS) == expected
    assert LocalResponder(lm, DECODING, store).respond(PROMPTS) == expected
    assert LocalResponder(lm, DECODING, store).respond([]) == []


def test_what_is_there_is_not_generated_again_in_any_order(lm, expected, store, generated):
    LocalResponder(lm, DECODING, store).respond(PROMPTS[:5])
    del generated[:]
    backwards = LocalResponder(lm, DECODING, store).respond(PROMPTS[::-1])
    assert backwards == expected[::-1]
    assert sum(map(len, generated)) == 4
    del generated[:]
    assert LocalResponder(lm, DECODING, store).respond(PROMPTS) == expected
    assert generated == []


def test_equal_prompts_are_answered_once(lm, expected, store, generated):
    twice = LocalResponder(lm, DECODING, store).respond([*PROMPTS, *PROMPTS])
    assert twice == [*expected, *expected]
    assert sum(map(len, generated)) == len(PROMPTS)


INTERRUPTED = """
import json, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from seal.artifacts.responses import ResponseStore
from seal.data.sample import Message
from seal.generation import Decoding
from seal.models import ModelSpec, load_model
from seal.responders import LocalResponder
model, root, texts = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])

def progress(what, done, total):
    if done >= 4:
        print(what, done, total, flush=True)
        time.sleep(600)

lm = load_model(ModelSpec(path=model, device="cpu"))
decoding = Decoding(max_new_tokens=8, batch_size=2)
prompts = [(Message("user", text),) for text in texts]
LocalResponder(lm, decoding, ResponseStore(root), progress).respond(prompts)
"""


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(
    lm, lively_dir, expected, store, tmp_path, generated
):
    command = [sys.executable, "-c", INTERRUPTED, str(lively_dir), str(store.root)]
    child = subprocess.Popen([*command, json.dumps(TEXTS)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "responses 4 9\n"
    finally:
        child.kill()
        child.communicate()
    # Or else the machine fell while a line was on its way to the disk.
    torn = ResponseStore(shutil.copytree(store.root, tmp_path / "torn"))
    [path] = torn.root.iterdir()
    path.write_bytes(path.read_bytes()[:-5])

    assert LocalResponder(lm, DECODING, store).respond(PROMPTS) == expected
    assert sum(map(len, generated)) == 5
    del generated[:]
    assert LocalResponder(lm, DECODING, torn).respond(PROMPTS) == expected
    assert sum(map(len, generated)) == 6

    whole = ResponseStore(tmp_path / "uninterrupted")
    LocalResponder(lm, DECODING, whole).respond(PROMPTS)
    assert kept(store) == kept(whole)
    header = local_header(lm, DECODING)
    assert torn.open(header).read() == whole.open(header).read()


def test_what_remains_is_generated_in_the_batches_of_an_uninterrupted_run(lm, store, generated):
    LocalResponder(lm, DECODING).respond(PROMPTS)
    uninterrupted = generated[:]

    def stop(_what, done, _total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalResponder(lm, DECODING, store, stop).respond(PROMPTS)
    del generated[:]
    LocalResponder(lm, DECODING, store).respond(PROMPTS)
    assert generated == uninterrupted[2:]


def test_where_another_process_was_faster_its_answer_counts_here_too(lm, expected, store):
    file = store.open(local_header(lm, DECODING))
    [ids] = lm.encoder.prompt_ids(PROMPTS[:1])

    def overtake(_what, done, _total):
        if done == 2:  # the first prompt is short: its turn comes later
            file.append({responders._hash(ids): Answer("theirs")})

    found = LocalResponder(lm, DECODING, store, overtake).respond(PROMPTS)
    assert found == ["theirs", *expected[1:]]
    assert LocalResponder(lm, DECODING, store).respond(PROMPTS) == found


def test_only_what_decides_the_text_decides_the_file(lm, lively_dir, tmp_path):
    def name(model=lm, **changes):
        decoding = DECODING.model_copy(update=changes)
        return ResponseStore(tmp_path).open(local_header(model, decoding)).path.name

    assert name() == name(batch_size=7) == name(seed=5)  # greedy decoding has no seed
    template = lively_dir.parent / "other.jinja"
    template.write_text(lm.encoder.template + " ")
    retold = load_model(ModelSpec(path=str(lively_dir), device="cpu", chat_template=template))
    moved = shutil.copytree(lively_dir, tmp_path / "elsewhere")
    assert name(load_model(ModelSpec(path=str(moved), device="cpu"))) == name()
    weights = LlamaForCausalLM.from_pretrained(moved)
    with torch.no_grad():
        weights.lm_head.weight[0, 0] += 1
    weights.save_pretrained(moved)
    retrained = load_model(ModelSpec(path=str(moved), device="cpu"))
    sampled = {"temperature": 0.5}
    names = [
        name(),
        name(max_new_tokens=9),
        name(repetition_penalty=1.1),
        name(**sampled),
        name(**sampled, seed=5),
        name(**sampled, top_p=0.9),
        name(retold),
        name(retrained),
    ]
    assert len(set(names)) == len(names)


def test_a_model_changed_in_memory_has_no_name_to_keep_answers_under(lm, expected, store):
    from dataclasses import replace

    nameless = replace(lm, identity=None)
    assert LocalResponder(nameless, DECODING, store).respond(PROMPTS) == expected
    assert not store.root.exists()


def test_prompts_that_do_not_fit_are_named_before_anything_is_generated(lm, store, generated):
    long = (Message("user", "Q" * 600),)
    with pytest.raises(ValueError, match=r"prompt 10 of 10 \(p:10\) has"):
        LocalResponder(lm, DECODING, store).respond(
            [*PROMPTS, long], [f"p:{i}" for i in range(1, 11)]
        )
    assert generated == []


# ---------------------------------------------------------------- a server


@dataclass
class Loopback:
    """A chat server: echoes the last turn, unless `script` says otherwise for a request."""

    models: list[str] = field(default_factory=lambda: ["tuned"])
    script: list = field(default_factory=list)  # per request: None, or a function of the handler
    bodies: list[dict] = field(default_factory=list)
    headers: list[dict] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    num_listed: int = 0
    seconds: float = 0.0
    in_flight: int = 0
    most_in_flight: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def settings(self, **changes) -> ServerSettings:
        fields = {"base_url": self.url, "model": "tuned", "max_retries": 2, "concurrency": 1}
        return ServerSettings(**{**fields, **changes})

    def asked(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.bodies]


def completion(text, reason="stop"):
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "tuned",
        "choices": [
            {
                "index": 0,
                "finish_reason": reason,
                "message": {"role": "assistant", "content": text},
            }
        ],
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status, body, headers=(), kind="application/json"):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.server.state.num_listed += 1
        assert self.path == "/v1/models"
        names = [{"id": name, "object": "model"} for name in self.server.state.models]
        self.reply(200, {"object": "list", "data": names})

    def do_POST(self):
        state = self.server.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            number = len(state.bodies)
            state.bodies.append(body)
            state.headers.append({name.lower(): text for name, text in self.headers.items()})
            state.times.append(time.monotonic())
            state.in_flight += 1
            state.most_in_flight = max(state.most_in_flight, state.in_flight)
        time.sleep(state.seconds)
        special = state.script[number] if number < len(state.script) else None
        with state.lock:
            state.in_flight -= 1
        if special is not None:
            special(self)
            return
        self.reply(200, completion(f"answer to {body['messages'][-1]['content']}"))


def fails(status, retry_after="0.01", message="busy"):
    body = {"error": {"message": message}}
    return lambda handler: handler.reply(status, body, [("Retry-After", retry_after)])


@pytest.fixture
def loopback(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.state = Loopback(url=f"http://127.0.0.1:{http.server_port}/v1")
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield http.state
    http.shutdown()
    thread.join()
    http.server_close()


def asker(loopback, store=None, decoding=DECODING, model=None, **changes):
    return ServerResponder(
        loopback.settings(**changes), decoding, store, arm="selected", seed=3, model=model or {}
    )


def answers_to(texts):
    return [f"answer to {text}" for text in texts]


def test_a_server_is_asked_with_our_decoding_and_its_answers_come_in_order(loopback):
    loopback.models = ["base", "tuned-selected-3"]
    prompts = [(Message("system", "Be kind."), *prompt) for prompt in PROMPTS]
    asking = asker(loopback, model=None, **{"concurrency": 4})
    with pytest.raises(ValueError, match="has no model called 'tuned'; it has: base, tuned-sel"):
        asking.respond(prompts)
    settings = loopback.settings(model="tuned-{arm}-{seed}", concurrency=4)
    responder = ServerResponder(settings, DECODING, arm="selected", seed=3, model=None)
    assert responder.respond(prompts) == answers_to(TEXTS)
    assert sorted(loopback.asked()) == sorted(TEXTS)
    body = next(body for body in loopback.bodies if body["messages"][-1]["content"] == TEXTS[0])
    assert body == {
        "model": "tuned-selected-3",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": TEXTS[0]},
        ],
        "max_tokens": 8,
        "temperature": 0.0,
        "top_p": 1.0,
    }


def test_sampling_settings_are_sent_where_they_mean_something(loopback):
    decoding = Decoding(temperature=0.5, top_p=0.9, repetition_penalty=1.2, seed=7)
    asker(loopback, decoding=decoding).respond(PROMPTS[:1])
    sent = {name: loopback.bodies[0][name] for name in ("temperature", "top_p", "seed")}
    assert sent == {"temperature": 0.5, "top_p": 0.9, "seed": 7}
    assert loopback.bodies[0]["repetition_penalty"] == 1.2


def test_what_the_server_has_answered_is_not_asked_again(loopback, store):
    assert asker(loopback, store).respond(PROMPTS[:4]) == answers_to(TEXTS[:4])
    assert asker(loopback, store).respond([*PROMPTS, *PROMPTS]) == answers_to([*TEXTS, *TEXTS])
    assert Counter(loopback.asked()) == Counter(TEXTS)
    num_listed = loopback.num_listed
    assert asker(loopback, store).respond(PROMPTS) == answers_to(TEXTS)
    assert (len(loopback.bodies), loopback.num_listed) == (len(TEXTS), num_listed)
    [path] = store.root.iterdir()
    header = json.loads(path.read_text().splitlines()[0])["header"]
    assert (header["responder"], header["template"]) == ("server", "server")
    assert (header["base_url"], header["served_name"]) == (loopback.url, "tuned")
    # The same name, but trained anew: its own answers.
    asker(loopback, store, model={"trained": "other"}).respond(PROMPTS)
    assert Counter(loopback.asked()) == Counter([*TEXTS, *TEXTS])


def test_what_fails_for_a_while_is_asked_again_when_the_server_says(loopback):
    loopback.script = [fails(429, "0.4"), fails(500), None, fails(503), None]
    assert asker(loopback).respond(PROMPTS[:2]) == answers_to(TEXTS[:2])
    assert loopback.asked() == [TEXTS[0]] * 3 + [TEXTS[1]] * 2
    assert loopback.times[1] - loopback.times[0] >= 0.4


def test_a_time_out_and_a_broken_connection_are_asked_again(loopback):
    def hang(handler):
        time.sleep(1.5)
        handler.close_connection = True

    def cut(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"choices": [')
        handler.close_connection = True

    loopback.script = [hang, cut]
    assert asker(loopback, timeout_seconds=1.0).respond(PROMPTS[:1]) == answers_to(TEXTS[:1])
    assert len(loopback.bodies) == 3


def test_an_outage_stops_with_one_message_and_all_answers_are_kept(loopback, store):
    loopback.script = [None] * 4 + [fails(503, message="out of\nmemory")] * 99
    with pytest.raises(ValueError, match="does not answer") as caught:
        asker(loopback, store).respond(PROMPTS)
    [path] = store.root.iterdir()
    assert str(caught.value) == (
        f"evaluate.server: {loopback.url} does not answer (Error code: 503 - out of). "
        "It was asked up to 3 times. See that it runs. The "
        f"answers so far are kept ({path}): run the same command again to go on."
    )
    assert loopback.asked() == TEXTS[:4] + [TEXTS[4]] * 3  # and no further one
    loopback.script = []
    assert asker(loopback, store).respond(PROMPTS) == answers_to(TEXTS)
    assert loopback.asked()[7:] == TEXTS[4:]


def test_what_is_under_way_in_an_outage_is_kept(loopback, store):
    slow = threading.Event()

    def late(handler):
        slow.wait(5)
        time.sleep(0.3)  # by now the other one has its refusal
        handler.reply(200, completion("late"))

    def fatal(handler):
        handler.reply(401, {"error": {"message": "no"}})
        slow.set()

    loopback.script = [late, fatal]
    responder = asker(loopback, store, concurrency=2)
    with pytest.raises(ValueError, match="does not answer"):
        responder.respond(PROMPTS)
    [path] = store.root.iterdir()
    assert path.read_text().count('"response": "late"') == 1
    assert len(loopback.bodies) == 2


def test_a_server_that_is_not_there(loopback, store):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ValueError, match=rf"{url} does not answer \(.*refused\).* See that it ru"):
        asker(loopback, store, base_url=url, max_retries=0).respond(PROMPTS)


def test_an_answer_without_text_is_told_of(loopback, store, caplog):
    loopback.script = [
        lambda handler: handler.reply(200, completion(None, "content_filter")),
        lambda handler: handler.reply(200, completion("", "stop")),
        lambda handler: handler.reply(200, completion("cut", "length")),
    ]
    with caplog.at_level(logging.WARNING, logger="seal"):
        assert asker(loopback, store).respond(PROMPTS[:3]) == ["", "", "cut"]
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 3 answers of the server are empty (finish_reason content_filter; finish_reason stop)"
    ]
    [path] = store.root.iterdir()
    notes = [json.loads(line).get("note") for line in path.read_text().splitlines()[1:]]
    assert notes == [
        "finish_reason content_filter",
        "finish_reason stop",
        "finish_reason length",
    ]


@pytest.mark.parametrize("place", ["models", "chat"])
@pytest.mark.parametrize(
    ("body", "kind"),
    [("<h1>Hello</h1>", "text/html"), ("{", "application/json"), ("[1]", "application/json")],
)
def test_what_is_no_chat_server_is_said(loopback, place, body, kind, monkeypatch):
    def other(handler):
        handler.reply(200, body, kind=kind)

    if place == "models":
        monkeypatch.setattr(Handler, "do_GET", other)
    loopback.script = [other]
    with pytest.raises(ValueError, match=r"is no chat completion\. Give the address .* in /v1\.$"):
        asker(loopback).respond(PROMPTS[:1])


def test_a_prompt_that_the_server_refuses_is_named(loopback):
    loopback.script = [fails(400, message="too long: 9000 tokens")]
    message = r"^p\.csv:7: http.* refuses .*400.*too long: 9000 tokens.* take it out"
    with pytest.raises(ValueError, match=message):
        asker(loopback).respond(PROMPTS[:1], ["p.csv:7"])
    loopback.script = [None, *loopback.script]
    with pytest.raises(ValueError, match=r"^prompt 1 of 1: http"):
        asker(loopback).respond(PROMPTS[:1])


def test_the_key_is_sent_and_never_shown_and_openais_own_stays_here(loopback, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-private")
    monkeypatch.setenv("MY_KEY", "sk-mine")
    loopback.script = [None, fails(401, message="the key sk-mine is wrong")]
    asker(loopback).respond(PROMPTS[:1])
    with pytest.raises(ValueError, match=r"the key \*\*\* is wrong.*api_key_env") as caught:
        asker(loopback, api_key_env="MY_KEY").respond(PROMPTS[:1])
    assert "sk-mine" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert [sent["authorization"] for sent in loopback.headers] == ["Bearer none", "Bearer sk-mine"]
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ValueError, match="api_key_env=MY_KEY: there is no such environment var"):
        asker(loopback, api_key_env="MY_KEY")


def test_as_many_requests_at_a_time_as_are_allowed(loopback):
    loopback.seconds = 0.15
    assert asker(loopback, concurrency=3).respond(PROMPTS) == answers_to(TEXTS)
    assert loopback.most_in_flight == 3


def test_ollamas_names_are_understood(loopback):
    loopback.models = ["tuned:latest"]
    assert asker(loopback).respond(PROMPTS[:1]) == answers_to(TEXTS[:1])


def test_without_the_client_the_command_that_installs_it_is_named(loopback, monkeypatch):
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"needs the package openai.*'seal\[serve\]'"):
        asker(loopback)


def test_two_models_under_one_name_are_refused():
    models = [("base", 0), ("selected", 0), ("selected", 1)]
    base_url = "http://localhost/v1"
    ServerSettings(base_url=base_url, model="{arm}-{seed}").check_names(models)
    ServerSettings(base_url=base_url, model="x{arm}").check_names(models[:2])
    ServerSettings(base_url=base_url, model="one").check_names(models[:1])
    with pytest.raises(ValueError, match=r"selected \(seed 0\) and selected \(seed 1\) .*'xselec"):
        ServerSettings(base_url=base_url, model="x{arm}").check_names(models)
    with pytest.raises(ValueError, match=r"base \(seed 0\) and selected \(seed 0\) would both"):
        ServerSettings(base_url=base_url, model="one").check_names(models)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "localhost:8000"}, "'localhost:8000' is no address. Give one like http"),
        ({"base_url": "http://me:secret@host/v1"}, "holds a user, a password or a query"),
        ({"model": "{name}-1"}, r"\{name\} stands for nothing. Only \{arm\} and \{seed\} do"),
        ({"model": ""}, "at least 1 character"),
        ({"concurrency": 0}, "greater than or equal to 1"),
        ({"timeout_seconds": 0}, "greater than 0"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValidationError, match=message):
        ServerSettings(**{"base_url": "http://host/v1", "model": "m", **changes})


def _thinks(text, **more):
    body = completion(text)
    body["choices"][0]["message"].update(more)
    body["choices"][0]["finish_reason"] = more.get("finish", "stop")
    return lambda handler: handler.reply(200, body)


def test_what_a_server_says_of_the_reasoning_is_kept_apart_and_on_disk(loopback, store):
    loopback.script = [
        _thinks("Sure.", reasoning_content="I could refuse."),
        _thinks("Sure.", reasoning="I could refuse."),
        _thinks([{"type": "thinking", "thinking": []}, {"type": "text", "text": "Sure."}]),
        _thinks(None, refusal="I cannot."),
        _thinks(None, reasoning_content="still", finish="length"),
    ]
    found = asker(loopback, store, concurrency=1).answer_each(PROMPTS[:5])
    assert [answer.response for answer in found] == ["Sure.", "Sure.", "Sure.", "I cannot.", ""]
    assert [answer.reasoning for answer in found[:2]] == ["I could refuse."] * 2
    assert "thinking" in found[2].reasoning
    assert [answer.reasoning for answer in found[3:]] == [None, "still"]
    assert [answer.is_cut for answer in found] == [False] * 4 + [True]
    again = asker(loopback, store, concurrency=1).answer_each(PROMPTS[:5])
    assert again == found
    assert len(loopback.bodies) == 5


def _reasoning_encoder(*, special):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken(mark, special=special) for mark in ("<think>", "</think>")])
    end = "<|assistant|>{% endif %}"
    template = CHAT_TEMPLATE[: -len(end)] + "<|assistant|><think>\n{% endif %}"
    return ChatEncoder(tokenizer, template=template)


@pytest.mark.parametrize("special", [True, False])
def test_a_server_that_drops_the_reasoning_unseen_has_left_the_answer(loopback, special):
    encoder = _reasoning_encoder(special=special)
    loopback.script = [
        _thinks("Sure."),
        _thinks("I could", finish="length"),
        _thinks("I could</think>Sure."),
    ]
    responder = ServerResponder(
        loopback.settings(concurrency=1), DECODING,
        arm="a", seed=0, model=None, encoder=encoder,
    )  # fmt: skip
    found = responder.answer_each(PROMPTS[:3])
    assert [answer.reasoning for answer in found] == ["", None, None]
    states = [encoder.reasoning.parts(answer.response).state for answer in found[1:]]
    assert states == ["unclosed", "closed"]
    # Only a server that leaves special tokens in the text can show marks that are some.
    assert [body.get("skip_special_tokens") for body in loopback.bodies] == [
        False if special else None
    ] * 3
