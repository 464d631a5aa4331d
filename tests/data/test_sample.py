"""The text of turns, and the names of samples."""

from seal.data.sample import Message, content_of, transcript

ASKED = Message("user", "Why?")
SAID = Message("assistant", "Because.")


def test_a_lone_turn_is_its_text():
    assert transcript([ASKED]) == "Why?"
    assert transcript([SAID]) == "Because."


def test_several_turns_stand_after_their_roles():
    assert transcript((ASKED, SAID)) == "user: Why?\n\nassistant: Because."


def test_a_lone_turn_of_another_role_than_the_usual_is_named():
    assert transcript([SAID], usual="user") == "assistant: Because."
    assert transcript([ASKED], usual="user") == "Why?"


def test_the_suffix_of_a_copy_is_no_part_of_the_content():
    assert content_of("0123456789abcdef-12") == "0123456789abcdef"
    assert content_of("0123456789abcdef") == "0123456789abcdef"
    assert content_of("0123456789abcdeg-1") == "0123456789abcdeg-1"
