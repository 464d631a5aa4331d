"""What is odd about the answers behind the metrics: none was given, it was cut, or it is empty."""

from __future__ import annotations

from collections.abc import Mapping

# Arm -> task -> what `count_answers` counts.
AnswerCounts = Mapping[str, Mapping[str, Mapping[str, int]]]

_SENTENCES = {
    "num_unclosed": "answers that ended while the model was still reasoning: {arms}. They are no "
    "answers, and count neither as refusals nor as attacks that succeeded nor as solved. Raise "
    "evaluate.decoding.max_new_tokens.",
    "num_cut": "answers as long as max_new_tokens lets them be, and judged as far as they go: "
    "{arms}.",
    "num_empty": "empty answers: {arms}.",
}


def answer_notes(answers: AnswerCounts) -> list[str]:
    """A sentence for each task and kind of oddity, with how many answers of which arms."""
    tasks = dict.fromkeys(task for counts in answers.values() for task in counts)
    return [
        f"{task}, {words.format(arms=arms)}"
        for key, words in _SENTENCES.items()
        for task in tasks
        if (arms := _arms(answers, task, key))
    ]


def _arms(answers: AnswerCounts, task: str, key: str) -> str:
    """As in: selected 3 of 40, all 40 of 40; empty where no arm has any."""
    found = {arm: counts[task] for arm, counts in answers.items() if task in counts}
    return ", ".join(f"{arm} {n[key]} of {n['num']}" for arm, n in found.items() if n[key])
