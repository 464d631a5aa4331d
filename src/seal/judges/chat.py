"""One question to an OpenAI-compatible endpoint, and what to make of what comes back."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NoReturn

from seal.data.reasoning import Reasoning

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# What servers say to a response_format they do not know, and to a question they do not take.
_REFUSALS = frozenset({400, 413, 422})
_PASSING = frozenset({408, 409, 425, 429})  # and all of 500 and above


class Passing(Exception):  # noqa: N818 (not an error yet)
    """What may be gone at the next try, and how long the server wants to be left alone."""

    def __init__(self, what: str, wait_seconds: float = 0.0) -> None:
        self.what = what
        self.wait_seconds = wait_seconds


class Refused(Exception):  # noqa: N818
    """The server does not take this question."""


class Hopeless(Exception):  # noqa: N818
    """The server will take no question."""


async def post(client: AsyncOpenAI, request: dict[str, Any], *, timeout_seconds: float) -> bytes:
    """The body of the server's answer.

    Raises:
        Passing: If another try may do better.
        Refused: If the server does not take this question in this format.
        Hopeless: If it will take none.
    """
    import openai  # noqa: PLC0415 (an extra)

    try:
        # The client's own limit is for each read: a server that sends a byte now and then would
        # never reach it.
        async with asyncio.timeout(timeout_seconds):
            response = await client.chat.completions.with_raw_response.create(**request)
            return response.content
    except openai.APIStatusError as error:
        _sort_out(error)
    except (TimeoutError, openai.APITimeoutError) as error:
        raise Passing(f"no answer within {timeout_seconds:g} s") from error
    except openai.APIConnectionError as error:
        raise Passing(f"the connection failed ({error.__cause__ or error})") from error
    except openai.OpenAIError as error:
        raise Passing(f"{type(error).__name__}: {error}") from error


def _sort_out(error: Any) -> NoReturn:  # noqa: ANN401 (openai is an extra)
    status = int(error.status_code)
    said = _first_line(error).removeprefix(f"Error code: {status} - ")
    what = f"HTTP {status}: {said}"
    if status in _PASSING or status >= 500:
        raise Passing(what, _retry_after(error.response.headers)) from error
    if status in _REFUSALS:
        raise Refused(what) from error
    raise Hopeless(what) from error


def _retry_after(headers: Mapping[str, str]) -> float:
    """How many seconds the server wants to be left alone; 0 if it does not say."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d*)?", text):
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max((until - datetime.now(UTC)).total_seconds(), 0.0)


def content_of(body: bytes) -> tuple[str, str]:
    """What the model wrote, and why that is no answer or "".

    Raises:
        Passing: If the body is not what such a server sends.
    """
    try:
        choice = json.loads(body)["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Passing(f"its answer is cut off or no chat completion: {body[:80]!a}") from error
    if isinstance(content, str) and content.strip():
        if choice.get("finish_reason") == "length":
            return content, "unparsable: the judge's answer was cut off at its length"
        parts = Reasoning().parts(content)  # what a judge considers is not what it concludes
        if parts.state == "unclosed":
            return content, "unparsable: the judge's answer ended in its reasoning"
        return parts.answer, ""
    reason = str(refusal or choice.get("finish_reason") or "an empty answer")
    return str(refusal or ""), f"unparsable: the judge does not judge it ({reason[:80]!a})"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300].rstrip(".")
