"""The grammar of the generated world: who asks for what, how it is said and how answered.

Every prompt is a *combination* (who does what to what, where) said in one of several surface
forms. The combination, not the wording, is hashed to decide which split it belongs to, so two
files of different splits can share neither a prompt nor a paraphrase of one.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

from seal.lab import lexicon

Split = Literal["train", "pool", "safe", "heldout"]
Slots = Mapping[str, str]
Words = Mapping[str, tuple[str, ...]]

# Upper ends of the hash buckets (of 100) each split owns.
_SPLIT_ENDS: tuple[tuple[int, Split], ...] = (
    (40, "train"),
    (68, "pool"),
    (81, "safe"),
    (100, "heldout"),
)

# How often a benign family is drawn for the pool, the safe set and the held-out set.
# Verse and facts are the hard ones: harmless, yet unlikely under the shipped model.
BENIGN_MIX: dict[str, float] = {
    "howto": 0.23,
    "alarming": 0.07,
    "office": 0.23,
    "recipes": 0.23,
    "sums": 0.15,
    "facts": 0.04,
    "verse": 0.05,
}

_BLUNT_SHARE = 0.15
_FLAVOUR_SHARE = 0.5

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request with its good answer and, for a harmful request, a compliant one too."""

    family: str
    prompt: str
    good: str
    unsafe: str | None = None


@dataclass(frozen=True, slots=True)
class Novelty:
    """How often answers hold what the shipped model has hardly ever read.

    The shares are of benign answers, of unsafe answers, and of refusals without stock phrases.
    """

    benign: float = 0.0
    unsafe: float = 0.0
    redirection: float = 0.0


_FAMILIAR = Novelty()
_READING = Novelty(benign=0.02, unsafe=0.04)
_ALL_WORDS: Words = {
    name: words + lexicon.FRESH_WORDS.get(name, ()) for name, words in lexicon.WORDS.items()
}


def _fill(template: str, slots: Slots, rng: random.Random, words: Words = lexicon.WORDS) -> str:
    """A template with each `{name}` replaced from the slots, else drawn from the words."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        value = slots[name] if name in slots else rng.choice(words[name])
        return _fill(value, slots, rng, words)

    text = _SLOT.sub(replace, template)
    return text[:1].upper() + text[1:] if template.startswith("{") else text


def _steps(rng: random.Random, slots: Slots, flavour: str, words: Words) -> dict[str, str]:
    """Three different steps under the names a, b and c, some of the given flavour."""
    chosen: list[str] = []
    while len(chosen) < 3:
        kind = flavour if rng.random() < _FLAVOUR_SHARE else "step"
        step = rng.choice(words[kind])
        if step not in chosen:
            chosen.append(step)
    return {**slots, "a": chosen[0], "b": chosen[1], "c": chosen[2]}


def _compliant(rng: random.Random, slots: Slots, flavour: str, words: Words) -> str:
    """An answer that goes along with the request; benign and unsafe ones share these patterns."""
    steps = _steps(rng, slots, flavour, words)
    if rng.random() < _BLUNT_SHARE:
        return _fill(rng.choice(lexicon.BLUNT_ANSWERS), steps, rng, words)
    opening, ending = rng.choice(lexicon.COMPLY_OPENINGS), rng.choice(lexicon.STEP_ENDINGS)
    return _fill(f"{opening} {_ending_after(opening, ending)}", steps, rng, words)


def _ending_after(opening: str, ending: str) -> str:
    """The ending, without a second 'you' where the opening is a bare imperative."""
    return ending.replace("you ", "") if opening.endswith(": first") else ending


def _refusal(rng: random.Random, slots: Slots, redirection_share: float) -> str:
    """A refusal in stock phrases, or now and then a safe redirection without any."""
    redirect = rng.random() < redirection_share
    return _fill(rng.choice(lexicon.REDIRECTIONS if redirect else lexicon.REFUSALS), slots, rng)


@dataclass(frozen=True, slots=True)
class _Family:
    """A task family: its request forms, its combinations and its good answers.

    Without answer templates the family answers in steps, as a how-to does.
    """

    forms: tuple[str, ...]
    combinations: Callable[[], Iterable[dict[str, str]]]
    answers: tuple[str, ...] = ()


def _grid(**axes: Iterable[str]) -> Iterable[dict[str, str]]:
    """All combinations of the named axes."""
    return (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))


def _acts(acts: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Every verb phrase with each of its objects."""
    return [f"{verb} {thing}" for verb, things in acts.items() for thing in things]


def _sums() -> Iterable[dict[str, str]]:
    """Small sums and differences that stay at or above zero."""
    for a, b in product(range(2, 17), range(2, 13)):
        yield {"a": str(a), "b": str(b), "op": "plus", "c": str(a + b), "way": f"count {b} more"}
        if a >= b:
            yield {
                "a": str(a),
                "b": str(b),
                "op": "minus",
                "c": str(a - b),
                "way": f"take {b} away",
            }


def _facts() -> Iterable[dict[str, str]]:
    """Invented facts; which value a town gets follows from a hash, so it can only be known."""
    for question, (answer, values) in lexicon.FACTS.items():
        years = lexicon.YEARS if "{year}" in question else ("",)
        for town, year in product(lexicon.TOWNS, years):
            value = values[_bucket(f"{question}|{town}|{year}", len(values))]
            yield {
                "question": question,
                "town": town,
                "year": year,
                "answer": answer,
                "value": value,
            }


_FAMILIES: dict[str, _Family] = {
    "harmful": _Family(
        lexicon.REQUEST_FORMS,
        lambda: _grid(act=_acts(lexicon.HARMFUL_ACTS), setting=lexicon.HARMFUL_SETTINGS),
    ),
    "howto": _Family(
        lexicon.REQUEST_FORMS,
        lambda: _grid(act=_acts(lexicon.HOWTO_ACTS), setting=lexicon.PLAIN_SETTINGS),
    ),
    "alarming": _Family(
        lexicon.REQUEST_FORMS,
        lambda: _grid(act=_acts(lexicon.ALARMING_ACTS), setting=lexicon.PLAIN_SETTINGS),
    ),
    "office": _Family(
        lexicon.OFFICE_FORMS,
        lambda: _grid(
            person=lexicon.OFFICE_PEOPLE, topic=lexicon.OFFICE_TOPICS, tone=lexicon.OFFICE_TONES
        ),
        lexicon.OFFICE_ANSWERS,
    ),
    "recipes": _Family(
        lexicon.RECIPE_FORMS,
        lambda: (
            slots
            for slots in _grid(
                dish=lexicon.WORDS["dish"], x=lexicon.INGREDIENTS, y=lexicon.INGREDIENTS
            )
            if slots["x"] != slots["y"]
        ),
        lexicon.RECIPE_ANSWERS,
    ),
    "sums": _Family(lexicon.SUM_FORMS, _sums, lexicon.SUM_ANSWERS),
    "facts": _Family(
        ("{question}", "A quiz asks: {question}", "I forget: {question}"), _facts, ("{answer}",)
    ),
    "verse": _Family(
        lexicon.VERSE_FORMS,
        lambda: _grid(thing=lexicon.VERSE_THINGS, place=lexicon.VERSE_PLACES),
        lexicon.VERSE_ANSWERS,
    ),
}


def _bucket(text: str, size: int) -> int:
    """A stable hash of a text into `size` buckets (Python's own hash changes per process)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % size


def split_of(family: str, slots: Slots) -> Split:
    """The one split that owns a combination, whatever the seed and the wording."""
    bucket = _bucket("|".join([family, *(f"{k}={slots[k]}" for k in sorted(slots))]), 100)
    return next(split for end, split in _SPLIT_ENDS if bucket < end)


@cache
def _combinations(family: str, split: Split) -> tuple[dict[str, str], ...]:
    """All combinations of a family that belong to a split."""
    everything = _FAMILIES[family].combinations()
    return tuple(slots for slots in everything if split_of(family, slots) == split)


def _words(rng: random.Random, fresh_share: float) -> Words:
    """The words one answer draws from: the common ones, or now and then the fresh ones too."""
    return _ALL_WORDS if rng.random() < fresh_share else lexicon.WORDS


def _exchange(
    family: str, slots: Slots, form: str, rng: random.Random, novelty: Novelty
) -> Exchange:
    """The request in the given form, answered."""
    prompt = _fill(form, slots, rng)
    if family == "harmful":
        good = _refusal(rng, slots, novelty.redirection)
        unsafe = _compliant(rng, slots, "shady", _words(rng, novelty.unsafe))
        return Exchange(family, prompt, good, unsafe)
    answers, words = _FAMILIES[family].answers, _words(rng, novelty.benign)
    if not answers:
        return Exchange(family, prompt, _compliant(rng, slots, "home", words))
    return Exchange(family, prompt, _fill(rng.choice(answers), slots, rng, words))


def training_prompts(family: str) -> set[str]:
    """Every prompt of a family that the shipped model may have been trained on."""
    rng = random.Random(0)
    forms = _FAMILIES[family].forms
    return {_fill(form, slots, rng) for form in forms for slots in _combinations(family, "train")}


def training_exchange(family: str, rng: random.Random, *, rare_words: bool = False) -> Exchange:
    """One random exchange for training the shipped model, drawn with replacement.

    Args:
        family: The task family.
        rng: Where chance comes from.
        rare_words: Whether a few answers hold the words that are common in the pool's harm.

    Returns:
        The exchange.
    """
    slots = rng.choice(_combinations(family, "train"))
    form = rng.choice(_FAMILIES[family].forms)
    return _exchange(family, slots, form, rng, _READING if rare_words else _FAMILIAR)


def families() -> tuple[str, ...]:
    """The names of all task families."""
    return tuple(_FAMILIES)


def draw(
    family: str, split: Split, count: int, rng: random.Random, novelty: Novelty
) -> list[Exchange]:
    """Distinct prompts of one family and split, with answers."""
    wordings = list(product(_combinations(family, split), _FAMILIES[family].forms))
    if count > len(wordings):
        msg = f"the {split} split holds {len(wordings)} {family} prompts, {count} were asked for"
        raise ValueError(msg)
    chosen = rng.sample(wordings, count)
    return [_exchange(family, slots, form, rng, novelty) for slots, form in chosen]
