"""A tiny model and tiny data, made in a moment: what the `tiny` configurations run on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from experiments.small_tokenizer import small_tokenizer
from selfx.files import write_text
from selfx.tasks.wording import ABLATION, HINT, HINT_SYSTEM, word
from selfx.testing import tiny_config, tiny_model
from selfx.weights.save import save_model

VOCABULARY = 600
"""Enough for the sentences of the tasks to be a token a word: questions stay short."""
ANSWERS = (word(True, "Answer: A"), word(False, "Answer: B"), "Answer: C", "Answer: D")
_ENDS = "acdjmnpux"
"""After these the tiny model says something that prints."""


@dataclasses.dataclass(frozen=True)
class World:
    """Where things are: a model's folder, and files of questions, facts and text."""

    model: str
    questions: str
    facts: str
    text: str


def tiny_world(folder: Path) -> World:
    """A model and data in the folder, made unless they are there."""
    files = {name: folder / f"{name}.jsonl" for name in ("questions", "facts", "text")}
    for name, rows in {"questions": _questions(), "facts": _facts(), "text": _texts()}.items():
        if not files[name].exists():
            write_text(files[name], "".join(json.dumps(row) + "\n" for row in rows))
    model = folder / "model"
    if not model.exists():
        tokenizer = small_tokenizer([HINT_SYSTEM, HINT, ABLATION, *ANSWERS], VOCABULARY)
        config = tiny_config(n_layers=2, vocab_size=len(tokenizer))
        save_model(tiny_model(config), model, tokenizer=tokenizer)
    return World(str(model), **{name: str(file) for name, file in files.items()})


def _questions() -> list[dict[str, object]]:
    return [
        {
            "question": f"{number} + {number * 7 % 5}?",
            "choices": [str(number + shift) for shift in (1, 3, 2, 9)],
            "answer": number % 4,
        }
        for number in range(10, 58)
    ]


def _facts() -> list[dict[str, object]]:
    return [
        {
            "subject": f"{relation[:2].title()} {number}",
            "attribute": f"{'ABCDEFGHIJKL'[number % 6]}ville",
            "prompt": f"{relation[:2].title()} {number} was by{_ENDS[number % len(_ENDS)]}",
            "relation_id": relation,
        }
        for relation in ("capital", "made_by")
        for number in range(8)
    ]


def _texts() -> list[dict[str, object]]:
    return [{"text": f"Once there were {n} cats and {n * n % 17} dogs. " * 2} for n in range(10)]
