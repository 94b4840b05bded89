"""The report's words and numbers: what was asked, who answered, what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfx.evaluation.answers.kinds import kind_of

ASKED = {
    "activation-patching": (
        "An activation of {target}, taken while it read another prompt, was put in place of its "
        "own at one token and over a few layers. From the prompt, the place and the activation, "
        "the explainer says whether the most likely next token changes, and to what."
    ),
    "input-ablation": (
        "{target} answered a multiple-choice question that came with a hint. From the question "
        "alone, the explainer says whether the answer would change without the hint, and to what."
    ),
    "feature-description": (
        "Shown a direction in the activations of {target}, and its layer, the explainer says in "
        "words which texts excite it. How strongly each text does was measured; a description is "
        "as good as what can be predicted from it of texts that it was not made from."
    ),
    "activation-reading": (
        "Shown activations that {target} had somewhere in a text, the explainer says what they "
        "alone hold: the token there, the next one, the words that the head reads from them, the "
        "words before, which of two excerpts it was in, or at which word of one."
    ),
}
IN_SETS = (
    "Questions come in sets that are the same to the letter, each with another activation and "
    "another outcome: from the text alone {most} % can be right, at most."
)
FROM_STATES = (
    "{target} answered a multiple-choice question that came with a hint. From its activations "
    "right before that answer, and what is told of the question, the explainer says whether the "
    "answer would change without the hint, and to what."
)
NO_VECTOR = {
    "input-ablation": "This question carries no activation, so there is no activation to credit.",
}
ASKED_OTHERWISE = "The explainer was asked about {target} (task: {task})."
CONTROL_NAMES = {
    "none": "its own input",
    "zero": "a vector of zeros",
    "shuffled": "another example's vector",
    "rotated": "its vector, randomly rotated",
    "no-text": "the vector without the text",
    "no-layer": "the layer not told",
    "no-token": "the token not told",
    "no-vector": "no place for a vector",
    "no-hint": "the hint not told",
    "no-question": "the question not told",
    "other-model": "another model's vector",
    "text-only": "learned without vectors",
}


def asked(scores: dict[str, Any]) -> str:
    """Returns what the explainer was asked."""
    words = FROM_STATES if _of_states(scores) else ASKED.get(scores["task"], ASKED_OTHERWISE)
    words = words.format(target=scores["target"], task=scores["task"])
    most = scores.get("provenance", {}).get("trace", {}).get("most_from_text")
    return words if most is None else f"{words} {IN_SETS.format(most=f'{100 * most:.3g}')}"


def finding(scores: Mapping[str, Any]) -> str:
    """Returns in one sentence what the activation was shown to add."""
    kind, lift = kind_of(scores["task"]), scores.get("lift")
    carried, of = kind.carries, kind.measures[kind.headline].heading
    if lift is None:
        unknown = (
            f"No vector control was run, so nothing here shows that the {carried} was used: the "
            "answers may come from the text alone."
        )
        return unknown if _of_states(scores) else NO_VECTOR.get(scores["task"], unknown)
    change, control = lift["metrics"][kind.headline], lift["control"]
    if change["low"] > 0:
        return (
            f"The {carried} adds {points(change)} points of {of} ({span(change)}) over the best "
            f"control ({control})."
        )
    measured = f"{points(change)} points of {of} ({span(change)})"
    if change["high"] < 0:
        return (
            f"No use of the {carried} was shown: with it the explainer does worse than under the "
            f"best control ({control}), by {measured}."
        )
    return (
        f"No use of the {carried} was shown: its difference from the best control ({control}) is "
        f"{measured}, an interval that includes zero.{_power(lift, kind.headline)}"
    )


def _of_states(scores: Mapping[str, Any]) -> bool:
    """Whether input ablation came with the target's states."""
    trace = scores.get("provenance", {}).get("trace") or {}
    return bool((trace.get("settings") or {}).get("states"))


def _power(lift: dict[str, Any], headline: str) -> str:
    """Returns how small a difference would have been seen, where that is known."""
    smallest = lift.get("smallest")
    smallest = smallest.get(headline) if isinstance(smallest, dict) else smallest
    if smallest is None:
        return ""
    return (
        " The smallest difference that four of five such runs would have seen is "
        f"{percent(smallest)} points."
    )


def label(explainer: str, control: str) -> str:
    """Returns a short label; of a long name or path, the end tells the most."""
    name = explainer.rstrip("/").split("/")[-1]
    return f"{name if len(name) <= 26 else '…' + name[-25:]} · {control}"


def name_of(explainer: str, control: str, *, among: str) -> str:
    """Returns a label in tables that are about the explainer `among`; baselines have no control."""
    plain = control == "none" and explainer != among
    return short(explainer) if plain else label(explainer, control)


def short(name: str) -> str:
    """Returns the last two parts of a path, which tell the most; a name as it is."""
    parts = name.rstrip("/").split("/")
    return "/".join(parts[-2:])


def percent(share: float) -> str:
    """Returns a share as a percentage with one decimal."""
    return f"{100 * share:.1f}".replace("-", "−")


def points(interval: dict[str, float]) -> str:
    """Returns a difference in points, with its sign."""
    return _signed(interval["value"])


def span(interval: dict[str, float]) -> str:
    """Returns the bounds of a difference in points, with their signs."""
    return f"{_signed(interval['low'])} to {_signed(interval['high'])}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")
