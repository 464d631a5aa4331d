"""A server that answers in place of the model in memory, through OpenAI's chat completions.

Requests that fail for a while are repeated by OpenAI's client. After the first one that fails for
good nothing more is asked, what is under way is waited for and handed on, and one message says it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator

from seal.artifacts.responses import Answer
from seal.artifacts.settings import Settings
from seal.data.sample import Message
from seal.generation import Decoding

if TYPE_CHECKING:
    from openai import OpenAI

# What a body that is no chat completion ends in; its JSON may be none, or another.
_THINKING = frozenset({"thinking", "reasoning"})
_MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)


def variable_name(name: str) -> str:
    """The name of an environment variable, which is not shown where it is none.

    Raises:
        ValueError: If it is none: it may be the key itself, pasted.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name):
        raise ValueError(
            "this is not the name of an environment variable (letters, digits, _). Put the key "
            "into a variable, such as JUDGE_API_KEY, and give that name here, not the key."
        )
    return name


class ServerSettings(Settings):
    """A server that answers in place of the model in memory; it speaks OpenAI's chat completions.

    vLLM, SGLang, llama.cpp, Ollama and TGI do. What it makes of a conversation is its own affair:
    its chat template and precision are not checked against those of the model in memory.

    Attributes:
        base_url: Where it listens, like http://127.0.0.1:8000/v1.
        model: The name that it knows a model by. {arm} and {seed} stand for those of the model that
            is measured, for a server that holds one adapter per arm and seed.
        api_key_env: Name of the environment variable that holds the key; None for servers without.
        timeout_seconds: Longest wait for one answer.
        max_retries: How often a request that fails is repeated, waiting longer each time, or as
            long as the server says: after a lost connection, a time-out, 408, 409, 429 and 5xx.
        concurrency: Requests at a time.
    """

    base_url: str
    model: str = Field(min_length=1)
    api_key_env: Annotated[str, AfterValidator(variable_name)] | None = None
    timeout_seconds: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    max_retries: int = Field(default=6, ge=0, le=20)
    concurrency: int = Field(default=8, ge=1, le=256)

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!a} is no address. Give one like http://127.0.0.1:8000/v1.")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "the address holds a user, a password or a query, and would be written into the "
                "run folder. Give the bare address, and the key through api_key_env."
            )
        return url

    @field_validator("model")
    @classmethod
    def _only_known_places(cls, model: str) -> str:
        unknown = sorted(set(re.findall(r"\{.*?\}", model)) - {"{arm}", "{seed}"})
        if unknown:
            raise ValueError(f"{unknown[0]} stands for nothing. Only {{arm}} and {{seed}} do.")
        return model

    def name_of(self, arm: str, seed: int) -> str:
        """The name that the server knows the model of an arm and seed by."""
        return self.model.replace("{arm}", arm).replace("{seed}", str(seed))

    def check_names(self, models: Iterable[tuple[str, int]]) -> None:
        """Refuse one name for two models: they would be measured as one and differ in nothing.

        Args:
            models: Arm and seed of every model that is measured.

        Raises:
            ValueError: If two have the same name.
        """
        owner: dict[str, tuple[str, int]] = {}
        for arm, seed in models:
            name = self.name_of(arm, seed)
            if name in owner:
                other, other_seed = owner[name]
                raise ValueError(
                    f"the arms {other} (seed {other_seed}) and {arm} (seed {seed}) would both be "
                    f"answered by {name!r}. Tell them apart, as model: '{{arm}}-{{seed}}' does, "
                    "and serve each model under its name."
                )
            owner[name] = (arm, seed)


@dataclass(frozen=True, slots=True)
class Asked:
    """One conversation to answer.

    Attributes:
        key: Names the answer.
        called: What error messages call it, e.g. "file:line".
        prompt: The conversation.
    """

    key: str
    called: str
    prompt: Sequence[Message]


class Server:
    """One model behind a server."""

    def __init__(
        self,
        settings: ServerSettings,
        name: str,
        decoding: Decoding,
        kept: Path | None,
        *,
        shows_specials: bool = False,
    ) -> None:
        """A connection; nothing is sent yet.

        Args:
            settings: Where the server is.
            name: What it calls the model.
            decoding: How it is asked to choose tokens.
            kept: Where the answers are kept, for messages.
            shows_specials: Ask it to leave special tokens in the text, where the model marks its
                reasoning with some.

        Raises:
            ValueError: If OpenAI's client is not installed, or there is no key.
        """
        if importlib.util.find_spec("openai") is None:
            raise ValueError(
                "evaluate.server needs the package openai. Install it with `pip install "
                "'seal[serve]'`, or remove evaluate.server, so that the model answers in memory."
            )
        self._settings = settings
        self._name = name
        self._decoding = decoding
        self._kept = kept
        self._shows_specials = shows_specials
        self._key = _key(settings)
        self._is_listed = False

    def answers(self, asked: Sequence[Asked]) -> Iterator[tuple[str, Answer]]:
        """Each key with its answer, as it comes.

        Raises:
            ValueError: If the server does not hold the model; after the first failure, when what
                was under way is handed on.
        """
        if asked:
            with _client(self._settings, self._key) as client:
                self._check_listed(client)
                yield from self._ask_all(client, asked)

    def _ask_all(self, client: OpenAI, asked: Sequence[Asked]) -> Iterator[tuple[str, Answer]]:
        failures: list[Exception] = []
        is_over = threading.Event()

        def ask(one: Asked) -> tuple[str, Answer] | None:
            if is_over.is_set():
                return None
            try:
                return one.key, self._answer(client, one)
            except Exception as error:  # raised when what is under way is handed on
                is_over.set()
                failures.append(error)
                return None

        with ThreadPoolExecutor(self._settings.concurrency) as pool:
            try:
                for future in as_completed([pool.submit(ask, one) for one in asked]):
                    answered = future.result()
                    if answered is not None:
                        yield answered
            finally:
                is_over.set()  # whoever takes the answers may have failed, or been interrupted
        if failures:
            raise failures[0]

    def _check_listed(self, client: OpenAI) -> None:
        """Refuse a name that the server does not list."""
        import openai  # noqa: PLC0415 (an extra)

        if self._is_listed:
            return
        try:
            names = [str(model.id) for model in client.models.list()]
        except openai.OpenAIError as error:
            raise ValueError(self._outage(error)) from None  # the cause could show the key
        except _MALFORMED as error:
            raise ValueError(self._no_such_server()) from error
        # Ollama lists "llama3:latest", and knows it as "llama3" too.
        if self._name not in {*names, *(name.removesuffix(":latest") for name in names)}:
            raise ValueError(
                f"evaluate.server.model: {self._settings.base_url} has no model called "
                f"{self._name!r}; it has: {', '.join(sorted(names)) or 'none'}. Correct the name, "
                "or serve the model under it (vLLM: --served-model-name NAME, --lora-modules "
                "NAME=FOLDER)."
            )
        self._is_listed = True

    def _answer(self, client: OpenAI, asked: Asked) -> Answer:
        import openai  # noqa: PLC0415 (an extra)

        decoding = self._decoding
        # Not OpenAI's word, but vLLM, SGLang and TGI know it.
        penalty = decoding.repetition_penalty
        messages: Any = [{"role": turn.role, "content": turn.content} for turn in asked.prompt]
        try:
            found = client.chat.completions.create(
                model=self._name,
                messages=messages,
                max_tokens=decoding.max_new_tokens,
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                seed=decoding.seed if decoding.temperature else openai.omit,
                extra_body={
                    **({} if penalty == 1 else {"repetition_penalty": penalty}),
                    **({"skip_special_tokens": False} if self._shows_specials else {}),
                },
            )
            choice = found.choices[0]
            text, reasoning = message_parts(choice.message.model_dump(warnings=False))
            reason = choice.finish_reason
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            raise ValueError(
                f"{asked.called}: {self._settings.base_url} refuses to answer this prompt "
                f"({self._words(error)}). If it is too long, lower "
                "evaluate.decoding.max_new_tokens, take it out, or serve the model with a longer "
                f"context.{self._progress()}"
            ) from None
        except openai.OpenAIError as error:
            raise ValueError(self._outage(error)) from None
        except _MALFORMED as error:
            raise ValueError(self._no_such_server()) from error
        note = "" if text and reason == "stop" else f"finish_reason {reason}"
        return Answer(text, note, reasoning)

    def _outage(self, error: Exception) -> str:
        import openai  # noqa: PLC0415 (an extra)

        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            way_out = "Put a valid key into the variable that evaluate.server.api_key_env names."
        elif isinstance(error, openai.NotFoundError):
            way_out = "Correct evaluate.server.base_url, which often ends in /v1."
        else:
            tries = self._settings.max_retries + 1
            way_out = f"It was asked up to {tries} times. See that it runs."
        return (
            f"evaluate.server: {self._settings.base_url} does not answer ({self._words(error)}). "
            f"{way_out}{self._progress()}"
        )

    def _no_such_server(self) -> str:
        return (
            f"evaluate.server: what {self._settings.base_url} says is no chat completion. Give the "
            "address of a server that speaks OpenAI's interface, which often ends in /v1."
            f"{self._progress()}"
        )

    def _progress(self) -> str:
        if self._kept is None:
            return ""
        return f" The answers so far are kept ({self._kept}): run the same command again to go on."

    def _words(self, error: Exception) -> str:
        """The first line of what is wrong, without the key, which servers quote."""
        lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        text = lines[0][:300].rstrip(".")
        return text.replace(self._key, "***") if self._settings.api_key_env else text


def message_parts(message: Mapping[str, Any]) -> tuple[str, str | None]:
    """The answer in a chat completion's message, and the reasoning that stands apart from it.

    Servers with a reasoning parser call it `reasoning_content` (vLLM, SGLang, llama.cpp, DeepSeek)
    or `reasoning` (newer vLLM, Ollama, OpenRouter); Mistral's makes `content` a list of parts. None
    where the message says nothing of the kind.
    """
    content = message.get("content")
    thoughts = [message.get("reasoning_content"), message.get("reasoning")]
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, Mapping)]
        thoughts += [json.dumps(part) for part in parts if part.get("type") in _THINKING]
        content = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    found = next((each for each in thoughts if isinstance(each, str) and each), None)
    # What such a server says in place of an answer is the model's own refusal.
    return str(content or message.get("refusal") or ""), found


def _key(settings: ServerSettings) -> str:
    name = settings.api_key_env
    if name is None:
        return "none"  # without one the client would send OpenAI's own from the environment
    key = os.environ.get(name, "").strip()
    if not key:
        raise ValueError(
            f"evaluate.server.api_key_env={name}: there is no such environment variable, or it is "
            "empty. Set it to the server's key, or leave api_key_env out."
        )
    return key


def _client(settings: ServerSettings, key: str) -> OpenAI:
    import openai  # noqa: PLC0415 (an extra)

    return openai.OpenAI(
        base_url=settings.base_url,
        api_key=key,
        timeout=settings.timeout_seconds,
        max_retries=settings.max_retries,
    )
