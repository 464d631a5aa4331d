import re

import pytest

from seal.data.formats import describe_columns, parse
from seal.data.sample import Message

SYSTEM = Message("system", "Be brief.")
USER = Message("user", "Name a colour.")
RED = Message("assistant", "Red.")
MORE = Message("user", "Another.")
BLUE = Message("assistant", "Blue.")


def chat(*turns):
    return [{"role": turn.role, "content": turn.content} for turn in turns]


GOOD = {
    "messages": ("messages", {"messages": chat(SYSTEM, USER, RED)}, (SYSTEM, USER), (RED,)),
    "messages through trl": ("trl", {"messages": chat(USER, RED)}, (USER,), (RED,)),
    "several turns": (
        "trl",
        {"messages": chat(USER, RED, MORE, BLUE)},
        (USER,),
        (RED, MORE, BLUE),
    ),
    "pair of strings": (
        "trl",
        {"prompt": "Name a colour.", "completion": "Red."},
        (USER,),
        (RED,),
    ),
    "pair of lists": (
        "prompt_completion",
        {"prompt": chat(USER, RED, MORE), "completion": chat(BLUE)},
        (USER, RED, MORE),
        (BLUE,),
    ),
    "null column is absent": (
        "trl",
        {"messages": None, "prompt": "Name a colour.", "completion": "Red."},
        (USER,),
        (RED,),
    ),
    "messages beside half a pair": (
        "trl",
        {"messages": chat(USER, RED), "prompt": "Name a colour."},
        (USER,),
        (RED,),
    ),
    "alpaca": (
        "alpaca",
        {"instruction": "Name a colour.", "input": "", "output": "Red."},
        (USER,),
        (RED,),
    ),
    "alpaca without input": (
        "alpaca",
        {"instruction": "Name a colour.", "output": "Red."},
        (USER,),
        (RED,),
    ),
    "alpaca with input": (
        "alpaca",
        {"instruction": "Translate.", "input": "rouge", "output": "Red."},
        (Message("user", "Translate.\n\nrouge"),),
        (RED,),
    ),
    "sharegpt": (
        "sharegpt",
        {
            "conversations": [
                {"from": "system", "value": "Be brief.", "weight": 0.0},
                {"from": "human", "value": "Name a colour.", "weight": 0.0},
                {"from": "gpt", "value": "Red.", "weight": 1.0},
            ]
        },
        (SYSTEM, USER),
        (RED,),
    ),
    "sharegpt, other names": (
        "sharegpt",
        {
            "conversations": [
                {"from": "user", "value": "Name a colour."},
                {"from": "assistant", "value": "Red."},
            ]
        },
        (USER,),
        (RED,),
    ),
    "sharegpt, as role and content": (
        "sharegpt",
        {"conversations": chat(SYSTEM, USER, RED)},
        (SYSTEM, USER),
        (RED,),
    ),
    "messages, as from and value": (
        "trl",
        {
            "messages": [
                {"from": "human", "value": "Name a colour."},
                {"from": "gpt", "value": "Red.", "role": None},
            ]
        },
        (USER,),
        (RED,),
    ),
    "orca": (
        "orca",
        {"system_prompt": "Be brief.", "question": "Name a colour.", "response": "Red."},
        (SYSTEM, USER),
        (RED,),
    ),
    "orca, blank system prompt": (
        "orca",
        {"system_prompt": " ", "question": "Name a colour.", "response": "Red."},
        (USER,),
        (RED,),
    ),
    "hh": (
        "hh",
        {"chosen": "\n\nHuman: Name a colour.\n\nAssistant: Red.", "rejected": "?"},
        (USER,),
        (RED,),
    ),
    "hh, several turns": (
        "hh",
        {
            "chosen": "\n\nHuman: Name a colour.\n\nAssistant: Red.\n\nHuman: Another."
            "\n\nAssistant: Blue."
        },
        (USER, RED, MORE),
        (BLUE,),
    ),
    "text parts": (
        "messages",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Name "},
                        {"type": "text", "text": "a colour.", "image": None},
                    ],
                },
                *chat(RED),
            ]
        },
        (USER,),
        (RED,),
    ),
    "empty extra keys": (
        "messages",
        {
            "messages": [
                {"role": "user", "content": "Name a colour.", "name": "Ann", "tool_calls": None},
                {"role": "assistant", "content": "Red.", "tool_calls": [], "weight": 1},
            ],
            "tools": [],
        },
        (USER,),
        (RED,),
    ),
    "tool turn": (
        "messages",
        {"messages": chat(USER, RED, Message("tool", ""), BLUE)},
        (USER,),
        (RED, Message("tool", ""), BLUE),
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_worked_rows(name):
    format, row, prompt, completion = GOOD[name]
    assert parse(row, format) == (prompt, completion)


def test_texts_keep_their_blanks():
    prompt, completion = parse({"prompt": " a ", "completion": "\tb\n"}, "trl")
    assert (prompt[0].content, completion[0].content) == (" a ", "\tb\n")


CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}
BAD = [
    ("trl", {}, "this row has no columns; known formats: trl, messages, prompt_completion"),
    (
        "trl",
        {"instruction": "a", "input": "b", "output": "c"},
        'format "trl" needs "messages", or "prompt" and "completion"; this row has the columns '
        '"instruction", "input", "output"; set format: alpaca',
    ),
    ("trl", {"conversations": [], "messages": None}, 'the columns "conversations", "messages" (nu'),
    ("alpaca", {"messages": []}, 'needs "instruction" and "output"; this row has the columns "mes'),
    ("alpaca", {"messages": []}, "set format: messages"),
    ("orca", {"chosen": "x"}, "set format: hh"),
    (
        "trl",
        {"messages": [], "prompt": "a", "completion": "b"},
        "set format: messages or format: prompt_completion",
    ),
    ("trl", {"messages": "not a list"}, '"messages" must be a list of turns; it is str \'not a l'),
    ("trl", {"messages": []}, '"messages" is an empty list'),
    ("trl", {"messages": ["hi"]}, "messages[0] must be an object; it is str 'hi'"),
    (
        "trl",
        {"messages": [{"role": "user"}]},
        'messages[0] needs "role" and "content", or "from" and "value"; it has "role"',
    ),
    ("trl", {"messages": [{}]}, '"from" and "value"; it has nothing'),
    ("trl", {"messages": [{"role": "user", "value": "a"}]}, 'it has "role", "value"'),
    (
        "trl",
        {"messages": [{"role": "user", "content": "a", "from": "human", "value": "a"}]},
        'messages[0] has both "role" with "content" and "from" with "value". Remove one pair',
    ),
    (
        "trl",
        {"messages": [*chat(USER), {"role": "assistant", "content": None}]},
        "messages[1].content is null; a turn must hold text",
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": []}]},
        "conversations[0].value is empty; a turn must hold text",
    ),
    (
        "trl",
        {"messages": '[{"role": "user", "content": "a"}]'},
        '"messages" must be a list of turns; it is one text that looks like such a list. Write the',
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "user", "role": "x", "value": "a"}]},
        'conversations[0] has "role", which is not supported',
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "observation", "value": "a"}]},
        "conversations[0] holds a tool's answer (\"from\": str 'observation'), which is not supp",
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "function_call", "value": "a"}]},
        "conversations[0] calls a tool (\"from\": str 'function_call'), which is not supported",
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "narrator", "value": "a"}]},
        "conversations[0].from is str 'narrator'; known roles: system, human, user, gpt, assistant",
    ),
    (
        "trl",
        {"messages": [{"role": ["user"], "content": "a"}]},
        "messages[0].role is list ['user']; known roles: system, user, assistant, tool",
    ),
    (
        "trl",
        {"messages": [{"role": "user", "content": 7}]},
        "messages[0].content must be a string or a list of text parts; it is int 7",
    ),
    (
        "trl",
        {"messages": [{"role": "user", "content": ["a", "b"]}]},
        "messages[0].content must be a string or a list of text parts; it is list ['a', 'b']",
    ),
    (
        "trl",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}]},
        "messages[0].content must be a string or a list of text parts",
    ),
    ("trl", {"messages": chat(Message("user", " \n"))}, "messages[0].content is empty: the user's"),
    (
        "trl",
        {"messages": chat(USER, Message("assistant", " "))},
        "messages[1].content is empty: the assistant's response must hold text",
    ),
    ("trl", {"messages": chat(USER)}, '"messages" has no assistant turn'),
    (
        "trl",
        {"messages": chat(USER, RED, MORE)},
        "the conversation ends with a turn of role user; it must end with an assistant turn",
    ),
    ("trl", {"messages": chat(RED, USER, BLUE)}, "there is no user turn before the response"),
    (
        "trl",
        {"messages": [*chat(USER), CALL]},
        "messages[1] calls a tool (\"tool_calls\": list [{'name': 'f'}]), which is not supported",
    ),
    (
        "trl",
        {"messages": [*chat(USER), {**CALL, "content": None}]},
        "Write the call into the turn's text, as the model is to write it, or leave the row out",
    ),
    (
        "trl",
        {"messages": [*chat(USER), {"role": "assistant", "function_call": {"name": "f"}}]},
        'messages[1] calls a tool ("function_call": dict',
    ),
    (
        "trl",
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "u"}]}]},
        "messages[0].content must be a string or a list of text parts; it has a part of type str "
        "'image', and only text is trained on",
    ),
    (
        "trl",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "b": 1}]}]},
        'it has a part with "b" beside its text',
    ),
    (
        "trl",
        {"messages": [*chat(USER), {"role": "assistant", "content": "a", "weight": 0}]},
        "messages[1].weight is int 0: a response cannot be left out of the loss",
    ),
    (
        "trl",
        {"messages": [*chat(USER), {"role": "assistant", "content": "a", "train": False}]},
        "messages[1].train is bool False",
    ),
    (
        "trl",
        {"messages": chat(USER, RED), "tools": "[f]"},
        "column \"tools\" is str '[f]', which is",
    ),
    ("sharegpt", {"conversations": [], "system": "Be brief."}, 'column "system" is str'),
    ("alpaca", {"instruction": "a", "output": "b", "history": [["c"]]}, 'column "history" is list'),
    ("alpaca", {"instruction": 3, "output": "b"}, "instruction must be a string or a list of text"),
    ("alpaca", {"instruction": "a", "output": "  "}, "output is empty: the assistant's response"),
    ("alpaca", {"instruction": "a", "input": 3, "output": "b"}, "input must be a string"),
    ("orca", {"question": "", "response": "b"}, "question is empty: the user's turn must hold"),
    (
        "trl",
        {"prompt": "a", "completion": chat(RED)},
        '"prompt" and "completion" must both be strings or both be lists of turns; they are str',
    ),
    ("trl", {"prompt": chat(USER), "completion": chat(MORE)}, '"completion" has no assistant turn'),
    (
        "trl",
        {"prompt": chat(USER), "completion": chat(MORE, BLUE)},
        "the completion starts with a turn of role user",
    ),
    (
        "trl",
        {"prompt": chat(USER, RED), "completion": chat(BLUE)},
        "the prompt ends with an assistant turn",
    ),
    ("hh", {"chosen": "Hello"}, '"chosen" must start with "\\n\\nHuman:"; it is str \'Hello\''),
    (
        "hh",
        {"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"},
        "the conversation ends with a turn of role user",
    ),
    ("hh", {"chosen": "\n\nHuman: a\n\nAssistant:"}, "turn 2 of chosen is empty: the assistant's"),
]


@pytest.mark.parametrize(("format", "row", "text"), BAD)
def test_bad_rows_say_what_is_wrong(format, row, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        parse(row, format)


def test_messages_hold_no_control_characters():
    with pytest.raises(ValueError, match="needs") as caught:
        parse({"\x1b[2J": 1}, "trl")
    with pytest.raises(ValueError, match="must be a list") as caught_value:
        parse({"messages": "\x1b]0;title\x07"}, "trl")
    assert "\x1b" not in str(caught.value) + str(caught_value.value)


def test_many_columns_are_cut_short():
    text = describe_columns({f"c{i}": i for i in range(23)})
    assert text.endswith('"c19" and 3 more')
