"""From a row of a shard to an example, whether the row is ours or published without our columns."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from selfx.errors import SelfxError
from selfx.tasks.example import Example
from selfx.tasks.pieces import pieces_to_text
from selfx.tasks.reading_questions import (
    ASKS,
    openings_for_reading,
    questions_for_reading,
)
from selfx.tasks.schema import ABLATION, FEATURES, HINTED_ANSWER, PATCHING, READING
from selfx.tasks.split import short_hash
from selfx.tasks.wording import (
    answer_content,
    openings_for_feature,
    question_for_ablation,
    questions_for_feature,
    questions_for_patching,
    word,
)

_LETTER = re.compile(r"I think the answer is \(([A-D])\)")


def patching_example(
    row: dict[str, Any], split: str, vectors: np.ndarray | None, number: int
) -> Example:
    """The example of a row of activation patching.

    A row without our columns is grouped by the statement that its prompt opens with, which names
    the subject, so that rows about one subject are resampled together.
    """
    if not row["layer"]:
        raise SelfxError("no example: layer is empty", expected="the layers patched")
    text = pieces_to_text(row["input_tokens"])
    before, after = (
        pieces_to_text(row[name]).strip()
        for name in ("original_continuation", "ablated_continuation")
    )
    changed = before != after
    token = pieces_to_text([row["patch_position"]["orig_text_token"]])
    return Example(
        id=row.get("id") or f"{split}-{number}",
        task=PATCHING,
        split=split,
        group=row.get("group") or statement(text),
        cell=row.get("cell") or patching_cell(row["token_type"], row["layer"]),
        system="",
        questions=questions_for_patching(row["layer"], token, text),
        answer=word(changed, after),
        changed=changed,
        content=after,
        vectors=vectors,
        details=row,
        layers=(int(row["layer"][len(row["layer"]) // 2]),),
    )


def ablation_example(
    row: dict[str, Any], split: str, vectors: np.ndarray | None, number: int
) -> Example:
    """The example of a row of input ablation; without our columns, grouped by its question."""
    hinted, plain = row[HINTED_ANSWER].strip(), row["zeroshot_prediction"].strip()
    changed = hinted != plain
    prompt = row["hint_user_prompt"]
    layers = () if vectors is None else tuple(row["layers"])
    cell = row.get("cell") or ablation_cell(_hint(prompt))
    return Example(
        id=row.get("id") or f"{split}-{number}",
        task=ABLATION,
        split=split,
        group=row.get("group") or short_hash(row.get("question") or prompt),
        cell=f"{cell}, answer {hinted}" if layers else cell,  # who is told it may go by it
        system="" if layers else row["system_prompt"],  # the target's; ours tells of its states
        questions=(question_for_ablation(prompt, layers, hinted),),
        answer=word(changed, answer_content(plain)),
        changed=changed,
        content=answer_content(plain),
        vectors=vectors,
        details=row,
        layers=layers,
    )


def feature_example(
    row: dict[str, Any], split: str, vectors: np.ndarray | None, number: int
) -> Example:
    """The example of a row of feature description; without our columns, a group of its own."""
    layer = int(row["layer"])
    details = {**row, "feature": row.get("feature_idx")}
    return Example(
        id=row.get("id") or f"{split}-{number}",
        task=FEATURES,
        split=split,
        group=row.get("group") or f"{split}-{number}",
        cell=row.get("cell") or feature_cell(layer),
        system="",
        questions=questions_for_feature(layer),
        answer=row["chosen_label"].strip(),
        changed=False,
        content="",
        vectors=vectors,
        details=details,
        openings=openings_for_feature(layer),
        layers=(layer,),
    )


def reading_example(
    row: dict[str, Any], split: str, vectors: np.ndarray | None, number: int
) -> Example:
    """The example of a row of activation reading.

    Raises:
      SelfxError: a kind of question that there is not, or not a layer for each vector.
    """
    ask, layers = row["ask"], [int(layer) for layer in row["layers"]]
    if ask not in ASKS:
        raise SelfxError(f"ask {ask!r}", expected=f"one of {', '.join(ASKS)}")
    if vectors is None or len(layers) != len(vectors):
        count = 0 if vectors is None else len(vectors)
        raise SelfxError(f"{count} vectors of layers {layers}", expected="a layer for each vector")
    return Example(
        id=row.get("id") or f"{split}-{number}",
        task=READING,
        split=split,
        group=row.get("group") or f"{split}-{number}",
        cell=row.get("cell") or reading_cell(ask, layers),
        system="",
        questions=questions_for_reading(ask, layers, row["shown"]),
        answer=row["answer"].strip(),
        changed=False,
        content="",
        vectors=vectors,
        details=row,
        openings=openings_for_reading(ask, layers, row["shown"]),
        layers=tuple(layers),
    )


def reading_cell(ask: str, layers: list[int]) -> str:
    """The kind of a question about vectors: what is asked, and the last of their layers."""
    return f"{ask} × layer {layers[-1]}"


def feature_cell(layer: int) -> str:
    """The kind of a direction."""
    return f"layer {layer}"


def patching_cell(token_type: str, layers: list[int]) -> str:
    """The kind of a patch: where in the text, and which layers."""
    return f"{token_type} × {layers[0]}-{layers[-1]}"


def ablation_cell(letter: str) -> str:
    """The kind of a hint."""
    return f"hint {letter}"


def statement(text: str) -> str:
    """What a published prompt says before it lists options, special tokens and roles left out."""
    opening = re.sub(r"<\|[^|]*\|>(?:(?:system|user|assistant)\n)?", "", text)
    return opening.split("\n\nRespond with one of")[0].strip() or text


def _hint(prompt: str) -> str:
    found = _LETTER.search(prompt)
    if found is None:
        raise SelfxError(f"no hint in {prompt[-80:]!r}", expected="'I think the answer is (X)'")
    return found[1]
