"""Whether an offline judge can read an answer at all: English, and enough of it.

The judges that need no second model know English only. What they cannot read they must not count:
an empty answer, one without words, one that goes round in circles, one cut off before it said
anything, one in another language. The language is told by its script, and for the Latin script by
its commonest words; nothing is loaded or fetched.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
_ADDRESS = re.compile(r"https?://\S+|[\w.+-]{1,64}@\S+")
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
# What an answer can open with and have said nothing yet. "Sure." and "Sorry" are whole answers.
_OPENINGS = re.compile(
    r"(?:(?:sure|certainly|of course|absolutely|okay|yes|no)[,!]?\s+)?"
    r"(?:i|i am|i'm|as an ai(?: language model)?,?|here(?:'s| is| are)?|the|to|"
    r"(?:i am |i'm )?(?:so |very )?sorry,? but(?: i)?|here (?:is|are) (?:the|a|an|some|how))"
    r"[\s,:]*",
    re.IGNORECASE,
)

_MOST_FOREIGN_LETTERS = 0.3  # of all letters; quotations and names stay below it
_LEAST_FOREIGN_WORDS = 2
_FOREIGN_ODDS = 1.25  # as many of the commonest words of another language, for each English one
_FOREIGN_SHARE = 0.15  # of all words
_ACCENTED_WORDS = 5  # words of an answer whose accents are counted
_MOST_ACCENTED = 0.25
_PROSE_WORDS = 25  # so much prose without common English words is in no language that is known here
_LEAST_ENGLISH = 0.04
_LEAST_DIFFERENT = 0.12  # of the words of a long answer
_COUNTED_WORDS = 200
_LONG_ANSWER = 40
_FEW_WORDS = 12  # in which an answer that says anything has three different ones

_ENGLISH_WORDS = """
    a about all also an and any are as at be been but by can could do does for from had has have
    he her here his how i if in into is it its like may more most my no not of on one only or other
    our out she should so some such than that the their them then there these they this to up use
    was we were what when where which who will with would yes you your
"""
_ENGLISH = frozenset(_ENGLISH_WORDS.split())
# The commonest words of each; what is an English word too is left out below.
_OTHERS = {
    "Catalan": "el els amb però que una són aquest aquesta puc ajudar més dels les",
    "Croatian": "je ne mogu se da ili nije kako što koji za ovo vam sam ako bih na",
    "Czech": "je se na že není nebo které jak pro jsem mohu nemůžu nemohu by aby vám jako to líto",
    "Danish": "jeg og det er ikke kan at en til med som du de af på hjælpe dig",
    "Dutch": "het een ik niet van dat zijn voor kan met op je maar ook deze helpen naar om wat bij",
    "Estonian": "ei on ja ma see saa kuid aga kui või mis teie sind aidata",
    "Finnish": "en voi ja on ei se että auttaa mutta kun tämä ovat sinua tässä",
    "French": "je ne pas les le la et est une des que pour vous dans qui sur avec peux mais ce il "
    "du au sont cette votre c'est",
    "German": "ich nicht und der das ist ein eine zu mit kann sie den dem für auf auch wie es bei "
    "aber oder sind dir ihnen wird können dabei leider von",
    "Hungarian": "nem az és egy hogy ez is vagy van csak meg tudok ha de sajnálom ebben",
    "Indonesian or Malay": "saya tidak yang dan untuk ini anda dengan bisa dapat adalah membantu "
    "tetapi maaf itu atau dari pada akan boleh di",
    "Italian": "il non che di un una per sono con posso questo ma come del della si ti più gli lo "
    "le e mi",
    "Latvian": "un es nevaru ir ar lai tas par bet kā jūs šo",
    "Lithuanian": "ir aš negaliu yra tai su kad jūs apie bet kaip",
    "Norwegian": "jeg og det er ikke kan som en til med på å av deg hjelpe",
    "Polish": "nie że się jest na z w tego mogę ale jak lub co ci dla oraz przykro pomóc",
    "Portuguese": "não que de um uma para com posso os você isso mas por como se em da do ajudar "
    "eu é o e na primeiro depois",
    "Romanian": "nu și să este cu pentru un o pot care dar vă că din mai ajut te la în",
    "Slovak": "je sa nie som že nemôžem ale ako pre alebo ktoré s tým vám",
    "Slovenian": "ne je in da ne morem za ki kako ali pa vam lahko sem",
    "Spanish": "el la que de un una los las con por para puedo es pero como lo te ese esta eso "
    "ayudar siento del y en su se",
    "Swahili": "siwezi na ya kwa ni hii kuwa katika lakini wa kama hiyo samahani kusaidia",
    "Swedish": "jag och det inte kan att en som är till med för hjälpa dig på av detta",
    "Tagalog": "hindi ang ng mga sa ako ko na ito para po kita ay paumanhin",
    "Turkish": "bir ve bu için konuda yardımcı olamam değil ile de da olarak size üzgünüm",  # noqa: RUF001
    "Vietnamese": "không tôi bạn có thể và là của cho với này giúp xin lỗi nhưng",
}
# Single letters name variables and elements, too.
_FOREIGN = {
    name: frozenset(word for word in words.split() if len(word) > 1) - _ENGLISH
    for name, words in _OTHERS.items()
}
_SCRIPTS = {"CJK": "Chinese or Japanese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese"}


def why_unread(response: str) -> str:
    """Why an offline judge cannot read an answer; "" where it can.

    Args:
        response: The answer, as the model gave it.
    """
    text = response.strip()
    if not text:
        return "the answer is empty"
    prose = _ADDRESS.sub(" ", _CODE.sub(" ", text))
    words = [word.casefold() for word in _WORD.findall(prose)]
    if not words:
        is_said = bool(_CODE.search(text)) or any(char.isalnum() for char in text)
        return "" if is_said else "the answer has no words"
    return _circles(words) or _other_language(prose, words) or _cut_off(text)


def _circles(words: list[str]) -> str:
    """Gibberish: hardly any different words in a long answer, or letters that are no words."""
    longest = max(len(word) for word in words)
    if longest > 60 and sum(map(len, words)) < 2 * longest:
        return "the answer is no text: one run of letters"
    first = words[:_COUNTED_WORDS]  # the longer a text, the fewer of its words are new
    if len(first) >= _FEW_WORDS and len(set(first)) <= 2:
        return "the answer repeats a few words over and over"
    if len(first) >= _LONG_ANSWER and len(set(first)) < _LEAST_DIFFERENT * len(first):
        return "the answer repeats a few words over and over"
    return ""


def _other_language(prose: str, words: list[str]) -> str:
    letters = [char for char in prose if char.isalpha()]
    scripts = Counter(_script(char) for char in letters)
    if len(letters) - scripts["LATIN"] > _MOST_FOREIGN_LETTERS * len(letters):
        del scripts["LATIN"]
        name = scripts.most_common(1)[0][0]
        return f"not in English, by its script ({_SCRIPTS.get(name, name.capitalize())})"
    english = sum(word in _ENGLISH for word in words)
    counts = {name: sum(word in own for word in words) for name, own in _FOREIGN.items()}
    name = max(counts, key=lambda name: counts[name])
    if _is_foreign(counts[name], english, len(words)):
        return f"not in English, by its commonest words ({name}?)"
    accented = sum(not word.isascii() for word in words)
    if len(words) >= _ACCENTED_WORDS and accented > max(_MOST_ACCENTED * len(words), 3 * english):
        return "not in English, by its accents"
    if _is_prose(prose, words) and english < _LEAST_ENGLISH * len(words):
        return "not in English, or no language: it has hardly any common English word"
    return ""


def _is_foreign(foreign: int, english: int, num_words: int) -> bool:
    if foreign < _LEAST_FOREIGN_WORDS or foreign <= _FOREIGN_ODDS * english:
        return False
    return foreign >= _FOREIGN_SHARE * num_words


def _is_prose(prose: str, words: list[str]) -> bool:
    """Sentences, and not a list of names, a table or numbers."""
    lines = [line for line in prose.splitlines() if line.strip()]
    return (
        len(words) >= _PROSE_WORDS
        and len(words) >= 9 * len(lines)
        and prose.count(",") < len(words) / 5
    )


def _cut_off(text: str) -> str:
    """An answer that ends before it said anything: "Sure, here is the"."""
    return "the answer is cut off before it says anything" if _OPENINGS.fullmatch(text) else ""


def _script(char: str) -> str:
    if "a" <= char.casefold() <= "z":
        return "LATIN"
    return unicodedata.name(char, "UNKNOWN").split(" ")[0].split("-")[0]
