"""Facts, and prompts that ask for them, with the places in them that a patch may aim at."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from selfx.errors import SelfxError
from selfx.tasks.rows import read_rows, text_field
from selfx.tasks.split import split_of

Format = Literal["completion", "options", "options-chat"]
_IN_OPTIONS = ("subject_last", "relation", "original_option", "changed_option", "other_option")
TOKEN_TYPES: dict[str, tuple[str, ...]] = {
    "completion": ("subject_first", "subject_last", "relation", "last"),
    "options": _IN_OPTIONS,
    "options-chat": _IN_OPTIONS,
}
"""The places of a prompt in each format."""

OPTIONS = "{prompt}\n\nRespond with one of {options} or unknown and nothing else.\n\nResponse:"
DISTRACTORS = 3


@dataclasses.dataclass(frozen=True)
class Fact:
    """What a prompt about a subject should be continued with.

    Attributes:
      subject: stands in the prompt.
      attribute: the true continuation.
      prompt: text that ends where the attribute would follow.
      relation: what facts must share to be exchanged.
    """

    subject: str
    attribute: str
    prompt: str
    relation: str


@dataclasses.dataclass(frozen=True)
class Places:
    """A prompt in tokens.

    Attributes:
      ids: its tokens.
      at: `{token type: the positions that qualify}`.
    """

    ids: tuple[int, ...]
    at: Mapping[str, tuple[int, ...]]


def read_facts(source: str | Path) -> list[Fact]:
    """The facts of a file or hub data set, in our layout or CounterFact's, duplicates left out.

    Raises:
      SelfxError: a row that is no fact, or fewer than two facts that could be exchanged.
    """
    facts = list(dict.fromkeys(_fact(row, where) for where, row in read_rows(source)))
    if not any(len(members) > 1 for members in by_relation(facts).values()):
        raise SelfxError(
            f"{source}: {len(facts)} facts and no two of one relation",
            expected="relations with several facts, so that their subjects can be exchanged",
        )
    return facts


def by_relation(facts: Sequence[Fact]) -> dict[str, list[Fact]]:
    """Facts under the name of their relation."""
    groups: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        groups[fact.relation].append(fact)
    return groups


def partners(facts: Sequence[Fact], seed: int, test_share: float) -> dict[Fact, list[Fact]]:
    """Every fact with those it may be exchanged with, where there are any.

    They share its relation and its split, and differ in subject and attribute: so no subject of
    the test split is ever seen in training, on either side of a patch.
    """
    split = {fact: split_of(fact.subject, seed, test_share) for fact in facts}
    groups = by_relation(facts)
    found = {
        fact: [
            other
            for other in groups[fact.relation]
            if split[other] == split[fact]
            and other.subject != fact.subject
            and other.attribute != fact.attribute
        ]
        for fact in facts
    }
    return {fact: others for fact, others in found.items() if others}


def completion_places(tokenizer: Any, fact: Fact, prompt: str | None = None) -> Places | None:
    """The prompt as it is; None where the tokens do not show the subject apart."""
    text = prompt or fact.prompt
    ids, spans = encode(tokenizer, text)
    opening = text.index(fact.prompt)
    start = opening + fact.prompt.index(fact.subject)
    subject = _covering(spans, start, start + len(fact.subject))
    statement = _covering(spans, opening, opening + len(fact.prompt))
    if not subject or subject[-1] >= len(ids) - 1:
        return None
    at = {
        "subject_first": subject[:1] if len(subject) > 1 else (),
        "subject_last": subject[-1:],
        "relation": tuple(t for t in statement if subject[-1] < t < len(ids) - 1),
        "last": (len(ids) - 1,),
    }
    return Places(ids, at)


def option_places(
    tokenizer: Any, fact: Fact, text: str, options: Sequence[str], original: str, changed: str
) -> Places | None:
    """A prompt that lists `options`; each option's place is its last token.

    Args:
      tokenizer: the target's.
      fact: what the prompt is about.
      text: the prompt, from `options_prompt`.
      options: in the order listed.
      original: the option that is true of the fact patched into.
      changed: the option that is true of the fact patched from.
    """
    places = completion_places(tokenizer, fact, text)
    if places is None:
        return None
    _, spans = encode(tokenizer, text)
    at = {name: places.at[name] for name in ("subject_last", "relation")}
    at |= {"original_option": (), "changed_option": (), "other_option": ()}
    start = text.index(" or ".join(options), text.index(fact.prompt) + len(fact.prompt))
    for option in options:
        name = {original: "original_option", changed: "changed_option"}.get(option, "other_option")
        at[name] += _covering(spans, start, start + len(option))[-1:]
        start += len(option) + len(" or ")
    return Places(places.ids, at)


def options_prompt(fact: Fact, options: Sequence[str], chat: Any = None) -> str:
    """The published forced choice; in the chat template of the tokenizer `chat`, if there is one.

    Raises:
      SelfxError: that tokenizer has no chat template.
    """
    text = OPTIONS.format(prompt=fact.prompt, options=" or ".join(options))
    if chat is None:
        return text
    if not chat.chat_template:
        raise SelfxError("the target has no chat template", hint="format=options, without one")
    turns = [{"role": "user", "content": text}]
    return chat.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def draw_options(
    fact: Fact, other: Fact, relation: Sequence[Fact], rng: np.random.Generator
) -> list[str]:
    """The two attributes and three more of the relation, or as many as there are, shuffled."""
    rest = sorted({member.attribute for member in relation} - {fact.attribute, other.attribute})
    picked = rng.permutation(len(rest))[:DISTRACTORS]
    options = [fact.attribute, other.attribute, *(rest[index] for index in picked)]
    return [options[index] for index in rng.permutation(len(options))]


def encode(tokenizer: Any, text: str) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """Tokens, and the characters `[start, end)` of each; a chat brings its special tokens."""
    bare = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    found = tokenizer(text, return_offsets_mapping=True, add_special_tokens=not bare)
    return tuple(found["input_ids"]), [tuple(span) for span in found["offset_mapping"]]


def _covering(spans: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, ...]:
    """Positions of the tokens that share a character with `[start, end)`."""
    return tuple(t for t, (a, b) in enumerate(spans) if a < b and a < end and b > start)


def _fact(row: dict[str, Any], where: str) -> Fact:
    row = _own_layout(row)
    fact = Fact(
        subject=text_field(row, "subject", where).strip(),
        attribute=text_field(row, "attribute", where).strip(),
        prompt=text_field(row, "prompt", where).rstrip(),
        relation=text_field(row, "relation_id", where),
    )
    if fact.subject not in fact.prompt:
        raise SelfxError(
            f"{where}: the prompt {fact.prompt!r} does not name the subject {fact.subject!r}",
            expected="a prompt that contains its subject",
        )
    return fact


def _own_layout(row: dict[str, Any]) -> dict[str, Any]:
    """CounterFact's row, as released or flattened, under our names; other rows as they are."""
    rewrite = row.get("requested_rewrite")
    if isinstance(rewrite, dict):
        subject, prompt = rewrite.get("subject"), rewrite.get("prompt")
        if isinstance(subject, str) and isinstance(prompt, str):
            prompt = prompt.replace("{}", subject)
        target = rewrite.get("target_true")
        attribute = target.get("str") if isinstance(target, dict) else target
        return {**rewrite, "subject": subject, "prompt": prompt, "attribute": attribute}
    if "attribute" not in row and "target_true" in row:
        return {**row, "attribute": row["target_true"]}
    return row
