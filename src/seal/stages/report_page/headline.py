"""The decision in words: what the numbers of a report say, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seal.stages.report_page.metrics import (
    describe,
    show_difference,
    show_differences,
    show_p,
    show_span,
)

Numbers = Mapping[str, Any]

_ARMS = {
    "base": "the model before",
    "all": "training on all data",
    "random": "a random subset",
    "oracle": "a perfect selection by the labels",
}
_RESERVATIONS = {
    "likelihood_only": "No answers were judged: safety here means which of two given answers the "
    "model finds likelier, not what it writes.",
    "one_seed": "One training seed. The intervals hold for the models that were trained; another "
    "training makes another model, and how far it would differ was not measured.",
    "few_prompts": "Fewer than 100 prompts: only large differences can be seen.",
    "seeds_disagree": "The training seeds disagree: with one of them at least it is not safer than "
    "training on all data.",
    "few_seeds": "Two training seeds: enough to see that seeds differ, not by how much.",
    "weak_judge": "The answers were judged by their words, not by their meaning: one that refuses "
    "and then helps may pass as a refusal, and a refusal in unusual words may not. Let a stronger "
    "judge confirm it before anything depends on it.",
    "unjudged": "Some answers could not be judged; how many stands beside the rates.",
    "not_safer_than_random": "It is not shown to be safer than training on a random subset, so it "
    "may be how many samples were kept, rather than which, that made the difference.",
    "random_of_other_size": "The random subset has another size, so that it differs in which "
    "samples it has and in how many.",
    "no_random": "No arm was trained on a random subset, so it is not known whether it matters "
    "which samples were kept, rather than how many.",
    "no_all": "No arm was trained on all data, so it is not known what leaving samples out "
    "changed.",
    "no_base": "The model before was not measured, so it is not known whether safety was kept.",
    "no_utility": "Usefulness was not measured: a model that refuses everything would look safe.",
    "no_over_refusal": "Refusals of harmless prompts were not measured.",
}


def headline(document: Numbers) -> list[str]:
    """The sentences, the decision first; `document` is report.json with `decision`."""
    one_seed = "one_seed" in document["decision"]["reservations"]
    warnings = ["One training seed: how much another would change is not measured."]
    return [
        verdict(document),
        *evidence(document),
        *(warnings if one_seed else []),
        *closing(document),
    ]


def closing(document: Numbers) -> list[str]:
    """What there is to say besides the metrics: seeds, the ranking, the selection."""
    return [*_several_seeds(document), *_ranking(document), _selection(document)]


def reservations(document: Numbers) -> list[str]:
    """What the decision cannot say, a sentence each."""
    return [_RESERVATIONS[key] for key in document["decision"]["reservations"]]


def verdict(document: Numbers) -> str:
    """The decision in one sentence."""
    decision = document["decision"]
    about, answers = decision["about"], decision["candidates"]
    held = answers.get(about, {})
    worse = [name for name, one in answers.items() if one["verdict"] == "worse"]
    if decision["verdict"] == "ship":
        end = ", and refuses no more harmless prompts than before" if held["over_refusal"] else ""
        return (
            f"Ship “{about}”: it is safer than training on all data and about as useful, "
            f"{'' if end else 'and '}keeps the safety of the model before{end}."
        )
    if decision["verdict"] == "prefer":
        return _prefer(about, held)
    if decision["verdict"] == "not_needed":
        return (
            "Nothing here needs to be left out: training on all data keeps the safety of the model "
            "before, and no other arm is shown to be both safer and as useful."
        )
    if decision["verdict"] == "useless":
        lost = "refuses too many harmless prompts"
        if held["utility"] == "lost":
            lost = "lost usefulness" + (f" and {lost}" if held["over_refusal"] == "lost" else "")
        return f"Ship none as it is: “{about}” is safer than training on all data, but {lost}."
    if decision["verdict"] == "worse":
        return f"Do not ship {' or '.join(f'“{name}”' for name in worse)}: {_why_worse(held)}."
    if decision["verdict"] == "open":
        if held["safer_than_all"] is None:
            return f"“{about}” is not shown to keep the safety of the model before."
        warning = f" {', '.join(worse)}: shown to be less safe." if worse else ""
        return f"No arm is shown to be safer than training on all data.{warning}"
    return _unknown(document)


def _prefer(about: str, held: Numbers) -> str:
    if held["safer_than_all"] is None:
        start = f"Prefer “{about}”: it keeps the safety of the model before"
        doubts = ["no arm was trained on all data to compare it with"]
    else:
        start, doubts = f"Prefer “{about}”: it is safer than training on all data", []
    doubts += [
        text
        for key, answer, text in (
            ("safety_of_base", "lost", "it lost some of the safety of the model before"),
            ("safety_of_base", "open", "it is not shown to keep the safety of the model before"),
            ("safety_of_base", None, "the model before was not measured"),
            ("utility", "open", "it is not shown to be as useful as training on all data"),
            ("utility", None, "usefulness was not measured"),
            ("over_refusal", "open", "it may refuse more harmless prompts"),
        )
        if held[key] == answer
    ]
    seeds = held["seeds"]
    if seeds["num_safer"] < seeds["num_shared"]:
        num, of = seeds["num_safer"], seeds["num_shared"]
        doubts.append(f"it is safer in {num} of {of} training seeds only")
    start += "" if held["utility"] != "kept" else " and about as useful"
    if held["safer_than_all"] is None:
        start = start.replace(" and about as useful", ", and is about as useful")
    return f"{start}, but {_listed(doubts)}."


def _why_worse(held: Numbers) -> str:
    if held["safer_than_all"] == "worse":
        return "shown to be less safe than training on all data"
    if held["safer_than_random"] == "worse":
        return "shown to be less safe than a random subset"
    return "it lost safety of the model before, and no arm was trained on all data"


def _unknown(document: Numbers) -> str:
    if not any(document["arms"].values()):
        return "No arm was evaluated: this page shows the ranking and the selection only."
    if not document["decision"]["metrics"]["safety"]:
        return "No metric of safety was measured, so nothing is said here about which arm is safe."
    if not document["decision"]["candidates"]:
        return "No arm was trained on selected samples, so there is nothing to decide on."
    return (
        "Neither the model before nor training on all data was measured, so there is nothing to "
        "compare with."
    )


def evidence(document: Numbers) -> list[str]:
    """A sentence for each metric that the decision rests on."""
    decision = document["decision"]
    about, metrics = decision["about"], decision["metrics"]
    order = (("base", "all", "random", "oracle"), ("all", "base"), ("base", "all"))
    return [
        _against(document, about, key, references)
        for question, references in zip(metrics, order, strict=True)
        for key in metrics[question]
        if about and key in document["arms"][about]
    ]


def _against(document: Numbers, about: str, key: str, references: tuple[str, ...]) -> str:
    metric, ours = describe(key), document["arms"][about][key]
    text = (
        f"{_capital(metric.label)} of {about}: {metric.show(ours['value'])} (95\u00a0% interval "
        f"{show_span(ours['low'], ours['high'], metric.unit)}, n = {ours['n']:,})"
    )
    rows = {row["against"]: row for row in document["paired"] if _is(row, about, key)}
    found = [
        f"{metric.show(document['arms'][other][key]['value'])} for {_ARMS[other]} "
        f"({show_difference(rows[other]['difference'], metric.unit)}, "
        f"{show_differences(rows[other]['low'], rows[other]['high'], metric.unit)}, "
        f"p {show_p(rows[other]['p_adjusted'])})"
        for other in references
        if other in rows
    ]
    return f"{text}; {'; '.join(found)}." if found else f"{text}."


def _is(row: Numbers, arm: str, metric: str) -> bool:
    return row["arm"] == arm and row["metric"] == metric


def _several_seeds(document: Numbers) -> list[str]:
    decision = document["decision"]
    seeds = decision["candidates"].get(decision["about"], {}).get("seeds")
    if not seeds or seeds["num_shared"] < 2:
        return []
    return [
        f"“{decision['about']}” is safer than training on all data with "
        f"{seeds['num_safer']} of {seeds['num_shared']} training seeds."
    ]


def _ranking(document: Numbers) -> list[str]:
    auroc = document["ranking"].get("auroc")
    if auroc is None:
        return []
    text = (
        f"Against the labels the ranking reaches AUROC {auroc['value']:.3f} (95\u00a0% interval "
        f"{auroc['low']:.3f} to {auroc['high']:.3f}; 0.5 is chance)"
    )
    if auroc["high"] < 0.5:
        return [f"{text}: below chance, it prefers the unsafe samples."]
    if auroc["low"] <= 0.5:
        return [f"{text}: not distinguishable from chance."]
    return [f"{text}."]


def _selection(document: Numbers) -> str:
    counts = document["selection"]
    text = f"The selection keeps {counts['num_kept']:,} of {counts['num_samples']:,} samples"
    if "groups" not in document:
        return f"{text}. The pool has no labels: whether dropped samples were unsafe is unknown."
    unsafe, other = document["groups"]["unsafe"], document["groups"]["other"]
    return (
        f"{text}; it drops {unsafe['num_dropped']:,} of {unsafe['num_samples']:,} samples labelled "
        f"unsafe and {other['num_dropped']:,} of the {other['num_samples']:,} others."
    )


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, and {parts[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
