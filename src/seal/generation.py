"""Batched generation: the same model and prompt give the same response in any batch.

Dimension key: B prompts of a batch, P tokens of the padded prompts, N new tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Annotated, Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from peft import PeftModel
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from seal.artifacts.responses import CUT, Answer
from seal.artifacts.settings import Settings, error_at
from seal.data.sample import Message
from seal.data.tokenize import Encoded
from seal.models import LanguageModel
from seal.padding import Sharing, sharing

_NUM_TRIED = 3  # new tokens, of which two come from what was kept of the prompt


class Decoding(Settings):
    """How responses are generated. The checkpoint's own generation settings are not used.

    Attributes:
        max_new_tokens: Longest response, in tokens.
        batch_size: Prompts at a time. Changes speed and memory, not the responses (in bf16 and fp16
            rounding may still flip a near tie).
        temperature: 0 takes the likeliest token each time; above 0 samples.
        top_p: When sampling, only from the likeliest tokens that together have this probability.
        repetition_penalty: Above 1 makes tokens that are in the prompt or the response already
            less likely; 1 does nothing.
        seed: Of sampling. With the prompt it determines the response.
    """

    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    batch_size: Annotated[int, Field(ge=1)] = 32
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _top_p_needs_sampling(self) -> Decoding:
        if self.temperature == 0 and self.top_p != 1:
            raise error_at(
                ("top_p",),
                self.top_p,
                f"top_p={self.top_p:g} has no effect with temperature=0, which always takes the "
                "likeliest token. Set a temperature above 0, or leave top_p at 1.",
            )
        return self


def generate(
    lm: LanguageModel,
    prompts: Sequence[Sequence[Message]],
    decoding: Decoding,
    *,
    names: Sequence[str] | None = None,
) -> list[str]:
    """The model's response to each prompt, in the order of the prompts.

    A response ends before the first stop token of the chat template, or before the plain text that
    the template ends a response with; special tokens are left out, but for those that mark the
    model's reasoning. The global random state is neither read nor changed.

    Args:
        lm: The model, in evaluation mode.
        prompts: Conversations that the model is to answer.
        decoding: How to choose tokens.
        names: What error messages call each prompt, e.g. "file:line".

    Raises:
        ValueError: If a prompt and its longest response do not fit into the model's context.
    """
    prompt_ids = checked_prompt_ids(lm, prompts, decoding, names=names)
    responses = [""] * len(prompt_ids)
    for places, texts in generate_batches(lm, prompt_ids, decoding):
        for place, text in zip(places, texts, strict=True):
            responses[place] = text
    return responses


def checked_prompt_ids(
    lm: LanguageModel,
    prompts: Sequence[Sequence[Message]],
    decoding: Decoding,
    *,
    names: Sequence[str] | None = None,
) -> list[list[int]]:
    """The tokens of each prompt, up to where the response begins.

    Raises:
        ValueError: If a prompt and its longest response do not fit into the model's context.
    """
    assert names is None or len(names) == len(prompts)
    prompt_ids = lm.encoder.prompt_ids(prompts)
    _check_lengths(prompt_ids, names, decoding, context_length(lm))
    return prompt_ids


def generate_batches(
    lm: LanguageModel, prompt_ids: Sequence[list[int]], decoding: Decoding
) -> Iterator[tuple[list[int], list[str]]]:
    """Answer prompts batch by batch: (places of the prompts, their responses) as each is done.

    Leaving out the prompts of the batches that are done leaves the other batches as they are: what
    goes on after an interruption computes what it would have computed.
    """
    for places, answers in generate_answers(lm, prompt_ids, decoding):
        yield places, [answer.response for answer in answers]


def generate_answers(
    lm: LanguageModel, prompt_ids: Sequence[list[int]], decoding: Decoding
) -> Iterator[tuple[list[int], list[Answer]]]:
    """As `generate_batches`; each answer also says whether it was cut at `max_new_tokens`."""
    assert not lm.model.training
    # The longest first: what does not fit into memory fails at once, not after an hour.
    order = sorted(range(len(prompt_ids)), key=lambda place: -len(prompt_ids[place]))
    for places in _prompt_batches(lm, prompt_ids, order, decoding.batch_size):
        with torch.inference_mode(), _without_own_generation_config(lm.model):
            answers = _generate_batch(lm, [prompt_ids[place] for place in places], decoding)
        yield places, answers


def _prompt_batches(
    lm: LanguageModel, prompt_ids: Sequence[list[int]], order: Sequence[int], size: int
) -> Iterator[list[int]]:
    """Places of the prompts in batches, in their order, as the model can share them."""
    shared = prompt_sharing(lm) if len(order) > 1 and size > 1 else "padded"
    groups = [list(order)]
    if shared != "padded":
        by_length = groupby(order, key=lambda place: len(prompt_ids[place]))
        groups = [list(places) for _, places in by_length]
        size = 1 if shared == "alone" else size
    for group in groups:
        for start in range(0, len(group), size):
            yield group[start : start + size]


def prompt_sharing(lm: LanguageModel) -> Sharing:
    """What prompts may be answered in one batch: any, padded on the left, or fewer.

    Not any if the model lets the padding into what it says; tried once, over the first few tokens.
    """

    def read(ids: Int[Tensor, "S T"], mask: Int[Tensor, "S T"]) -> Float[Tensor, "K V"]:
        said = cast(Any, lm.model).generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=_NUM_TRIED,
            do_sample=False,
            pad_token_id=lm.pad_id,
            logits_processor=LogitsProcessorList([_Forced()]),
            return_dict_in_generate=True,
            output_logits=True,
        )
        return torch.stack([logits[-1] for logits in said.logits])

    with _without_own_generation_config(lm.model):
        return sharing(lm.model, "generation", "left", read)


def context_length(lm: LanguageModel) -> int | None:
    """The most tokens the model was built for, prompt and response together; None if unlimited."""
    config = _pretrained(lm.model).config.get_text_config()
    try:
        return int(config.max_position_embeddings)
    except AttributeError:  # recurrent models have no such limit, nor the setting
        return None


def check_context(lm: LanguageModel, rows: Sequence[Encoded]) -> None:
    """Refuse samples that are longer than what the model was built for.

    Raises:
        ValueError: If there are any, with the longest and the way out.
    """
    context = context_length(lm)
    longest = max(rows, key=lambda row: len(row.input_ids))
    if context is not None and len(longest.input_ids) > context:
        num_long = sum(len(row.input_ids) > context for row in rows)
        raise ValueError(
            f"{num_long} of {len(rows)} samples are longer than the model's context of {context} "
            f"tokens; the longest, {longest.id}, has {len(longest.input_ids)}. Set "
            f"tokenization.max_length={context} or less."
        )


def _check_lengths(
    prompt_ids: list[list[int]],
    names: Sequence[str] | None,
    decoding: Decoding,
    context: int | None,
) -> None:
    if context is None:
        return
    room = context - decoding.max_new_tokens
    long = [place for place, ids in enumerate(prompt_ids) if len(ids) > room]
    if long:
        first = long[0]
        called = f"prompt {first + 1} of {len(prompt_ids)}"
        called += "" if names is None else f" ({names[first]})"
        raise ValueError(
            f"{called} has {len(prompt_ids[first])} tokens; with max_new_tokens="
            f"{decoding.max_new_tokens} the model's context of {context} tokens holds prompts of "
            f"up to {max(room, 0)} tokens. {len(long)} of {len(prompt_ids)} prompts are too long: "
            "lower max_new_tokens, take these prompts out, or use a model with a longer context."
        )


def _pretrained(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself, without adapters around it."""
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)


@contextmanager
def _without_own_generation_config(model: nn.Module) -> Iterator[None]:
    """Hide the checkpoint's generation_config.json.

    `generate` fills in every option that its caller leaves unset from there: sampling, penalties,
    suppressed tokens, beams. Two checkpoints would be measured in different ways without a word.
    """
    inner = _pretrained(model)
    own = inner.generation_config
    inner.generation_config = GenerationConfig()
    try:
        yield
    finally:
        inner.generation_config = own


def _generate_batch(
    lm: LanguageModel, prompt_ids: list[list[int]], decoding: Decoding
) -> list[Answer]:
    length = max(map(len, prompt_ids))
    padding = [length - len(ids) for ids in prompt_ids]
    stop_ids, end_text = lm.encoder.stop_ids, lm.encoder.end_text
    # PeftModel's own `generate` takes the same arguments; it knows about kinds of adapters.
    sequences = cast(Any, lm.model).generate(
        input_ids=torch.tensor(
            [[lm.pad_id] * pad + ids for pad, ids in zip(padding, prompt_ids, strict=True)],
            device=lm.device,
        ),
        attention_mask=torch.tensor(
            [[0] * pad + [1] * (length - pad) for pad in padding], device=lm.device
        ),
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,  # sampling, too: see _Draw
        num_beams=1,
        use_cache=True,
        repetition_penalty=decoding.repetition_penalty,
        eos_token_id=list(stop_ids) or None,
        **({"stop_strings": [end_text], "tokenizer": lm.tokenizer} if end_text else {}),
        pad_token_id=lm.pad_id,
        logits_processor=_sampling(prompt_ids, decoding, lm.device),
    )
    rows = sequences[:, length:].tolist()
    return [_answer(lm, row) for row in rows]


def _answer(lm: LanguageModel, row: list[int]) -> Answer:
    """What a row of new tokens says, up to where it ends."""
    stop_ids, end_text = lm.encoder.stop_ids, lm.encoder.end_text
    text, is_ended = _text(lm, _before_stop(row, stop_ids)), any(one in stop_ids for one in row)
    if end_text:
        text, found, _ = text.partition(end_text)
        is_ended = is_ended or bool(found)
    return Answer(text, "" if is_ended else CUT)


def _text(lm: LanguageModel, ids: list[int]) -> str:
    """The text of a response; of special tokens only those that mark its reasoning."""
    shown = lm.encoder.shown_specials
    if shown:
        added = lm.tokenizer.added_tokens_decoder
        hidden = {key for key, token in added.items() if token.special and str(token) not in shown}
        ids = [token for token in ids if token not in hidden]
    text = lm.tokenizer.decode(
        ids, skip_special_tokens=not shown, clean_up_tokenization_spaces=False
    )
    return str(text)


def _before_stop(row: list[int], stop_ids: tuple[int, ...]) -> list[int]:
    # What follows is padding, which may be a token that decodes to text.
    stops = [place for place, token in enumerate(row) if token in stop_ids]
    return row[: stops[0]] if stops else row


def _sampling(
    prompt_ids: list[list[int]], decoding: Decoding, device: torch.device
) -> LogitsProcessorList:
    """What makes the likeliest token a sampled one; empty for greedy decoding."""
    if decoding.temperature == 0:
        return LogitsProcessorList()
    draws = [_uniforms(ids, decoding) for ids in prompt_ids]
    chain: list[LogitsProcessor] = [TemperatureLogitsWarper(decoding.temperature)]
    if decoding.top_p < 1:
        chain.append(TopPLogitsWarper(decoding.top_p))
    prompt_length = max(map(len, prompt_ids))
    return LogitsProcessorList(
        [*chain, _Draw(torch.tensor(np.array(draws)).to(device), prompt_length)]
    )


def _uniforms(ids: list[int], decoding: Decoding) -> np.ndarray:
    """One number in [0, 1) per new token, from the seed and the prompt alone."""
    digest = hashlib.sha256(f"{decoding.seed}:{ids}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:16], "big"))
    return rng.random(decoding.max_new_tokens)


class _Forced(LogitsProcessor):
    """Chooses the first word of the vocabulary each time: what is compared must not drift apart."""

    def __call__(
        self,
        input_ids: Int[Tensor, "B T"],  # noqa: ARG002
        scores: Float[Tensor, "B V"],
    ) -> Float[Tensor, "B V"]:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, 0] = 0.0
        return forced


class _Draw(LogitsProcessor):
    """Samples by inverting the distribution function at numbers drawn beforehand.

    transformers' own sampling draws for a whole batch from the global generator, so that a response
    depends on its neighbours and on what ran before.
    """

    def __init__(self, draws: Float[Tensor, "B N"], prompt_length: int) -> None:
        self._draws = draws
        self._prompt_length = prompt_length

    def __call__(
        self, input_ids: Int[Tensor, "B T"], scores: Float[Tensor, "B V"]
    ) -> Float[Tensor, "B V"]:
        step = input_ids.shape[1] - self._prompt_length
        cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
        # Rounding leaves the last entry a little off 1; scaled by it, a number below 1 stays below.
        target = self._draws[:, step, None] * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, target, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)
