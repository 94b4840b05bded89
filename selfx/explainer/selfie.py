"""SelfIE: a model that was never trained to explain is asked what a vector means.

The prompt of arXiv 2403.10949 as the paper's released baseline has it: the vector, at a length of
its own, takes the place of both mentions of a word, and the model goes on. The five lengths are the
paper's; it scores all five answers and keeps the best for each feature, which is an oracle.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from selfx.explainer.answer import Explainer
from selfx.interventions.batching import chunks, repeat_last
from selfx.interventions.build import inject
from selfx.models.generate import generate
from selfx.progress import Report, silent

SCALES = (1.0, 5.0, 10.0, 25.0, 50.0)
"""Lengths of the vector in the prompt."""

QUESTION = "Briefly define the word '{}'."
ANSWER = "The meaning of the word '{}' is"
PLAIN = "What is the meaning of the word '{}'?"
_STOPS = ("\n", ">>>.", " [END]")


def selfie(
    explainer: Explainer,
    vectors: np.ndarray,
    scale: float,
    *,
    max_new_tokens: int = 25,
    batch_size: int = 32,
    report: Report = silent,
) -> list[str]:
    """What the model says each vector means.

    Args:
      explainer: whose model is asked, in its style; an untrained one for SelfIE proper.
      vectors: float32 `[n, d]`.
      scale: the length that each is given.
      max_new_tokens: where an answer is cut; a line's end ends it as well.
      batch_size: vectors at once.
      report: told of progress.
    """
    ids, slots = _prompt(explainer)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1)
    texts: list[str] = []
    tokens = np.tile(np.array(ids, np.int32), (batch_size, 1))
    for rows in chunks(range(len(unit)), batch_size):
        value = jnp.asarray(scale * unit[repeat_last(rows, batch_size)], jnp.float32)
        places = (np.full(batch_size, slot) for slot in slots)
        edits = functools.reduce(operator.or_, (inject(value, positions=at) for at in places))
        out = generate(
            explainer.model,
            tokens,
            edits=edits,
            end_ids=explainer.base.eos_ids,
            max_new_tokens=max_new_tokens,
        )
        texts += [_text(explainer, row) for row in np.asarray(out.tokens)[: len(rows)]]
        report(len(texts), len(unit), f"SelfIE at {scale:g}")
    return texts


def _prompt(explainer: Explainer) -> tuple[list[int], Sequence[int]]:
    """The prompt's tokens, and where in them the vector goes."""
    prompter = explainer.prompter
    word = prompter.markers[1]
    if prompter.style == "chat":
        turns = [{"role": "user", "content": QUESTION.format(word)}]
        opening = prompter.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        text = opening + ANSWER.format(word)
    else:
        text = f"{PLAIN.format(word)} {ANSWER.format(word)}"
    ids = prompter.tokenizer(text, add_special_tokens=prompter.style == "plain")["input_ids"]
    slot = prompter.tokenizer.convert_tokens_to_ids(word)
    return list(ids), [place for place, token in enumerate(ids) if token == slot]


def _text(explainer: Explainer, row: np.ndarray) -> str:
    """The words of a row up to the first of the published stops."""
    text = str(explainer.base.tokenizer.decode(row[row >= 0], skip_special_tokens=True)).strip()
    for stop in _STOPS:
        text = text.split(stop)[0]
    return text.strip()
