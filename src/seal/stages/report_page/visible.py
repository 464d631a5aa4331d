"""Text from data, made safe to look at."""

from __future__ import annotations

import math
import re
from typing import Any

# All that a reader cannot see or that moves what they see: control characters (not tab and line
# break), Unicode's default-ignorable characters (zero width, bidirectional overrides, tags,
# fillers; not the two selectors of emoji style), separators that break lines, surrogates,
# non-characters.
_HIDDEN = re.compile(
    r"\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5"
    r"\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    r"\ud800-\udfff\ufdd0-\ufdef\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def visible(text: str) -> str:
    r"""The text with every hidden character spelled out, e.g. U+202E as `\u202e`; idempotent."""
    return _HIDDEN.sub(_spelled_out, text)


def shortened(text: str, limit: int) -> tuple[str, int]:
    """The first `limit` characters of a text, and how many more there are."""
    return text[:limit], max(0, len(text) - limit)


def plain_json(value: Any) -> Any:  # noqa: ANN401 - any JSON in, the same JSON out
    """JSON that any parser reads and any terminal can show.

    Hidden characters are spelled out in keys and values, numbers that are not finite become their
    names ("nan", "inf"), and what JSON does not know becomes its text.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {visible(str(key)): plain_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(part) for part in value]
    return visible(str(value))


def _spelled_out(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
