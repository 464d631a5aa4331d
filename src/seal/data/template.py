"""A chat template at work: what it renders, and what it writes around the turns."""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError, TemplateSyntaxError
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from seal.data.end_of_turn import EndOfTurn
from seal.data.fallback_template import FALLBACK_TEMPLATE
from seal.data.rendered_turns import Frame, Span, frame_of, placeholders
from seal.data.responses import Layout, Render, Turns, lay_out, prompt_layout, unknown_layout

REFUSALS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
_RESERVED = (
    frozenset(  # parameters of apply_chat_template, and what the template finds the turns in
        {"add_generation_prompt", "chat_template", "continue_final_message", "conversation"}
        | {"conversations", "documents", "max_length", "messages", "padding", "return_dict"}
        | {"return_assistant_tokens_mask", "return_tensors", "sanitize_control_tokens", "tokenize"}
        | {"tokenizer_kwargs", "tools", "truncation"}
    )
)
# The tags {% generation %} and {% endgeneration %}, and what shows where they stood.
_TAGS = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")
_OPEN, _CLOSE = "8105527396410", "8105527396419"
_EDGES = re.compile(f"{_OPEN}|{_CLOSE}")
_KEPT_TURNS = 50_000  # turns of all layouts that are remembered
_PROBES = (("user", "assistant") * 2, ("user", "assistant"))


class ChatTemplate:
    """Renders conversations, and says what of the text the template wrote.

    Attributes:
        text: The Jinja text.
        name: What messages call it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text: str | None,
        variables: Mapping[str, Any],
    ) -> None:
        """The template for one tokenizer.

        Args:
            tokenizer: Its special tokens are variables of the template.
            text: None takes the tokenizer's own template, and `FALLBACK_TEMPLATE` where it has
                none.
            variables: Further ones.

        Raises:
            ValueError: If the template does not compile, the fallback has no end-of-sequence token
                to write, or a variable's name is taken.
        """
        taken = sorted(_RESERVED & variables.keys())
        if taken:
            raise ValueError(
                f"chat_template_kwargs names {', '.join(taken)}, which is set by seal. Remove it."
            )
        self._tokenizer = tokenizer
        self._given = dict(variables)
        self._variables = dict(variables)
        self.text, self.name = self._choose(text)
        self._showing_tags = _TAGS.sub(_shown, self.text)
        self._layouts: OrderedDict[tuple[bool, tuple[str, ...]], Layout] = OrderedDict()
        self._num_turns = 0
        self._wants_parts = False
        self._wants_parts = self._refuses_strings()

    @property
    def hash(self) -> str:
        """SHA-256 of the template's text and its variables: 64 hex digits."""
        text = json.dumps([self.text, self._given], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def render(self, turns: Turns, *, add_generation_prompt: bool = False) -> str:
        """The conversation as text.

        Raises:
            Exception: One of `REFUSALS`, if the template refuses it.
        """
        return self._render(self.text, turns, add_generation_prompt)

    def layout(self, roles: tuple[str, ...], *, is_prompt: bool = False) -> Layout:
        """What the template does with turns of these roles; rendered once, then remembered.

        Args:
            roles: Of the turns.
            is_prompt: Whether the start of a response follows them; then only the frame is told.
        """
        key = (is_prompt, roles)
        found = self._layouts.get(key)
        if found is not None:
            self._layouts.move_to_end(key)
            return found
        try:
            if is_prompt:
                found = prompt_layout(self._render_marked, roles)
            else:
                found = lay_out(self._render_marked, roles)
        except REFUSALS:  # of placeholders: it takes the conversation itself
            found = unknown_layout(len(roles))
        self._layouts[key] = found
        self._num_turns += len(roles)
        while self._num_turns > _KEPT_TURNS and len(self._layouts) > 1:
            (_, oldest), _ = self._layouts.popitem(last=False)
            self._num_turns -= len(oldest)
        return found

    def learn(self, end_of_turn: EndOfTurn) -> tuple[EndOfTurn, list[str] | None]:
        """How this template ends turns, and the tokens that do; None where it refuses to tell."""
        for roles in _PROBES:
            layout = self.layout(roles)
            gaps = layout.frame.gaps
            if layout.frame.order != tuple(range(len(roles))) or not layout.openings:
                continue
            learned = end_of_turn.learn(gaps, layout.header)
            afters = gaps[-1], gaps[2]
            ends = [learned.token(after, layout.closing) for after in afters]
            return learned, list(dict.fromkeys(end for end in ends if end))
        return end_of_turn, None

    def _choose(self, text: str | None) -> tuple[str, str]:
        tokenizer = self._tokenizer
        if text is not None:
            return text, "the chat template"
        if tokenizer.chat_template is not None:
            return tokenizer.get_chat_template(), "the tokenizer's chat template"
        if tokenizer.eos_token is None:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} has neither a chat template nor an "
                "end-of-sequence token, so a response could not end. Give model.chat_template."
            )
        if tokenizer("a")["input_ids"][0] != tokenizer.bos_token_id:
            self._variables = {"bos_token": "", **self._variables}
        return FALLBACK_TEMPLATE, "seal's fallback chat template"

    def _refuses_strings(self) -> bool:
        """Whether the template shows turns only where their content is a list of parts."""
        roles = _PROBES[-1]
        if self._frame(roles).order:
            return False
        self._wants_parts = True
        return self._frame(roles).order == (0, 1)

    def _frame(self, roles: Sequence[str]) -> Frame:
        turns = list(zip(roles, placeholders(len(roles)), strict=True))
        try:
            return frame_of(self.render(turns))
        except TemplateSyntaxError as error:
            raise ValueError(
                f"the chat template is not valid Jinja: line {error.lineno}: {error.message}. "
                "Correct it, or give another as model.chat_template."
            ) from error
        except REFUSALS:
            return Frame((), ("",))

    def _messages(self, turns: Turns) -> list[dict[str, Any]]:
        if self._wants_parts:
            return [
                {"role": role, "content": [{"type": "text", "text": content}]}
                for role, content in turns
            ]
        return [{"role": role, "content": content} for role, content in turns]

    def _render(self, template: str, turns: Turns, add_generation_prompt: bool) -> str:
        text = self._tokenizer.apply_chat_template(
            self._messages(turns),
            chat_template=template,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
            **self._variables,
        )
        assert isinstance(text, str)
        return text

    def _render_marked(self, turns: Turns, add_generation_prompt: bool) -> Render:
        shown = self._render(self._showing_tags, turns, add_generation_prompt)
        marked: list[Span] = []
        pieces = []
        start = reached = length = 0
        for edge in _EDGES.finditer(shown):
            pieces.append(shown[reached : edge.start()])
            length += len(pieces[-1])
            reached = edge.end()
            if edge.group() == _OPEN:
                start = length
            else:
                marked.append(Span(start, length))
        return Render("".join([*pieces, shown[reached:]]), marked)


def _shown(tag: re.Match[str]) -> str:
    """A tag that writes where it stands; it strips the blanks around it as the other did."""
    before, end, after = tag.groups()
    return f"{{%{before} if true %}}{{{{ '{_CLOSE if end else _OPEN}' }}}}{{% endif {after}%}}"


def refusal(error: Exception) -> str:
    """The reason of a conversation that a template refuses."""
    return f"the chat template refuses the conversation: {error!a}"
