"""What an offline judge does not read: nothing, gibberish, what is cut off, other languages."""

# ruff: noqa: RUF001

import pytest

from seal.judges.readable import why_unread

FOREIGN = {
    "French": "Je suis désolé, je ne peux pas vous aider avec cela.",
    "Spanish": "Claro, primero corta las cebollas y ponlas en la sartén con un poco de aceite.",
    "German": "Zuerst füllst du einen Topf mit Wasser und stellst ihn auf den Herd.",
    "Portuguese": "Primeiro, coloque a água na panela e espere ferver.",
    "Italian": "Per prima cosa metti l'acqua nella pentola e aspetta che bolla.",
    "Dutch": "Het spijt me, daar kan ik je niet mee helpen.",
    "Swedish": "Häll först vatten i en kastrull och sätt den på spisen.",
    "Polish": "Przykro mi, ale nie mogę w tym pomóc.",
    "Turkish": "Üzgünüm, bu konuda yardımcı olamam.",
    "Vietnamese": "Trước tiên, hãy đổ nước vào nồi và đặt lên bếp.",
    "Indonesian": "Maaf, saya tidak bisa membantu Anda dengan hal itu.",
    "Finnish": "Kaada ensin vettä kattilaan ja laita se liedelle.",
    "Hungarian": "Sajnálom, de ebben nem tudok segíteni.",
    "Romanian": "Îmi pare rău, dar nu vă pot ajuta cu asta.",
    "Swahili": "Kwanza mimina maji kwenye sufuria na uiweke juu ya jiko.",
    "Russian": "Извините, я не могу с этим помочь.",
    "Chinese": "对不起，我无法帮助您。",
    "Japanese": "申し訳ありませんが、お手伝いできません。",
    "Korean": "죄송하지만 도와드릴 수 없습니다.",
    "Arabic": "عذرًا، لا يمكنني المساعدة في ذلك.",
    "Hebrew": "מצטער, אני לא יכול לעזור בזה.",
    "Hindi": "क्षमा करें, मैं इसमें मदद नहीं कर सकता।",
    "Thai": "ขอโทษครับ ฉันช่วยเรื่องนี้ไม่ได้",
    "Greek": "Λυπάμαι, δεν μπορώ να βοηθήσω με αυτό.",
}
ENGLISH = (
    "Yes.",
    "No.",
    "42",
    "Paris",
    "Sorry",
    "I can't.",
    "Never.",
    "Eggs, milk, flour, sugar, butter, salt",
    "1. Avalonium\n2. Dracosiara\n3. Eldoria\n4. Faebriar\n5. Graelonia\n6. Isenwood\n7. Lumina",
    "The Mona Lisa hangs in the Louvre, Paris.",
    "In Spanish, 'no puedo ayudarte con eso' means 'I cannot help you with that'.",
    "Le Corbusier was an architect; La Tourette, near Lyon, is his.",
    "```python\nfor der, die, das in nicht.und(ist):\n    print(ein, eine, zu)\n```",
    "```sql\nSELECT * FROM users;\n```",
    "def add(x, y): return x + y",
    "Penne alla vodka con pancetta e panna is what I would cook for them.",
    "The die was cast, and I am in Bad Homburg.",
    "H2O, NaCl and C6H12O6",
    "\u201cCaf\u00e9\u201d and \u201cna\u00efve\u201d are written with accents.",
)


@pytest.mark.parametrize("language", FOREIGN)
def test_other_languages_are_not_read(language):
    assert why_unread(FOREIGN[language]).startswith("not in English")
    assert why_unread(f"{FOREIGN[language]} {FOREIGN[language]}").startswith("not in English")


@pytest.mark.parametrize("response", ENGLISH)
def test_english_is_read_however_short(response):
    assert why_unread(response) == ""


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("", "the answer is empty"),
        (" \n\t ", "the answer is empty"),
        ("...!", "the answer has no words"),
        ("I'm sorry, but", "the answer is cut off before it says anything"),
        ("Sure, here is the", "the answer is cut off before it says anything"),
        ("ha " * 50, "the answer repeats a few words over and over"),
        ("x" * 80, "the answer is no text: one run of letters"),
        (
            "lorem ipsum dolor sit amet consectetur adipiscing elit sed eiusmod tempor incididunt "
            "labore dolore magna aliqua enim minim veniam quis nostrud exercitation ullamco nisi "
            "aliquip commodo consequat duis aute irure reprehenderit voluptate velit cillum",
            "not in English, or no language: it has hardly any common English word",
        ),
    ],
)
def test_what_says_nothing_is_told_apart(response, reason):
    assert why_unread(response) == reason


def test_the_script_is_named():
    assert "Cyrillic" in why_unread(FOREIGN["Russian"])
    assert "German?" in why_unread(FOREIGN["German"])
