"""The words of a command line: which is the configuration file, and which set a key."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def split_words(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The configuration file and the overrides among the words of a command line.

    The word without "=" is the file. A run's folder means its config.yaml, with that folder (it may
    have been moved) as the run_dir.

    Raises:
        ValueError: If there are two such words, it is neither a YAML file nor a folder, or a word
            looks like an option.
    """
    for word in words:
        if word.startswith("-"):
            key = word.lstrip("-").partition("=")[0] or "KEY"
            raise ValueError(
                f"command line: there is no option {word!r}. Keys are given without dashes: "
                f"{key}=VALUE."
            )
    names = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if len(names) > 1:
        raise ValueError(
            f"command line: {names[0]!r} and {names[1]!r} are both without '='. Give one CONFIG; "
            "all else has the form KEY=VALUE."
        )
    if not names:
        return None, overrides
    config = Path(names[0])
    if config.is_dir():
        if not (config / "config.yaml").is_file():
            raise ValueError(
                f"{config} is not the folder of a run: it has no config.yaml. Give a YAML file, or "
                "the run_dir of a run."
            )
        return config / "config.yaml", [f"run_dir={_quoted(str(config))}", *overrides]
    if config.suffix not in (".yaml", ".yml") and not config.exists():
        raise ValueError(
            f"command line: {names[0]!r} is neither a file, nor the folder of a run, nor of the "
            "form KEY=VALUE, such as rank.epochs=3."
        )
    return config, overrides


def _quoted(text: str) -> str:
    """The text as a YAML scalar that can be nothing but text."""
    return json.dumps(text)
