"""Asking an explainer: questions and vectors in, answers in words out, batched on device."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from selfx.errors import SelfxError
from selfx.explainer.fit import check_vectors
from selfx.explainer.injection import injection
from selfx.explainer.lora import check_adapters, merge
from selfx.explainer.prompts import Prompt, Prompter, check_room, make_prompter
from selfx.explainer.run import Run, Training
from selfx.interventions.batching import bucket
from selfx.interventions.edits import Edits
from selfx.models.decoder import Decoder, apart
from selfx.models.generate import generate
from selfx.models.stack import Apart
from selfx.progress import Report, silent
from selfx.tasks.example import Example
from selfx.weights.load import LanguageModel, load

MANY_BATCHES = 6
"""From here on what each gains repays the copy and its longer compilation (SmolLM2, two cores)."""


@dataclasses.dataclass(frozen=True)
class Explainer:
    """A model that answers questions about a target.

    Attributes:
      name: the run's folder or the model's name.
      base: the model that it was made from.
      model: its weights, adapters merged in.
      prompter: how it reads a question.
      training: how it was trained; an untrained one reads as these settings say.
    """

    name: str
    base: LanguageModel
    model: Decoder
    prompter: Prompter
    training: Training


def load_explainer(source: str | Path, base: LanguageModel | None = None) -> Explainer:
    """The explainer of a run folder.

    Args:
      source: the run folder.
      base: its model, if it is loaded already.

    Raises:
      SelfxError: no finished run there, or its model's weights are not what they were.
    """
    run = Run(Path(source))
    record = run.record()
    base = load(record["explainer"]) if base is None else base
    if base.hash != record["explainer_hash"]:
        raise SelfxError(
            f"weights of {base.name} with hash {base.hash[:12]}",
            expected=f"{record['explainer_hash'][:12]}, which {run.path} was trained from",
        )
    adapters = run.load_adapter()
    check_adapters(adapters, base.config)
    explainer = untrained(base, run.training())
    return dataclasses.replace(explainer, name=str(source), model=merge(base.model, adapters))


def untrained(base: LanguageModel, training: Training) -> Explainer:
    """The model itself, asked as an explainer trained with these settings would be."""
    prompter = make_prompter(base.tokenizer, base.eos_ids, training.style)
    return Explainer(base.name, base, base.model, prompter, training)


def answer(
    explainer: Explainer,
    examples: Sequence[Example],
    vectors: np.ndarray | None = None,
    *,
    max_new_tokens: int = 40,
    batch_size: int = 32,
    report: Report = silent,
) -> list[str]:
    """The explainer's greedy answers, in the order of the examples.

    Args:
      explainer: who is asked.
      examples: the questions, each in its first wording.
      vectors: float32 `[n, d]` to read instead of the examples' own.
      max_new_tokens: where an answer that does not end is cut.
      batch_size: questions at once; those of like length go together.
      report: told of progress.

    Raises:
      SelfxError: vectors of another width, or questions longer than the explainer's context.
    """
    check_vectors(examples, explainer.base, explainer.training.scaling)
    if vectors is None:
        vectors = own_vectors(examples, explainer.base.config.d_model)
    prompts = [explainer.prompter.prompt(example) for example in examples]
    longest = max((len(prompt.ids) for prompt in prompts), default=0)
    check_room(longest + max_new_tokens, explainer.base.config)
    answers = [""] * len(examples)
    order = sorted(range(len(examples)), key=lambda i: len(prompts[i].ids))
    layers = _layers(explainer.model, len(order) / batch_size)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        filled = rows + rows[-1:] * (batch_size - len(rows))
        asked = [prompts[i] for i in filled]
        depths = np.array([examples[i].layer for i in filled], np.int32)
        read = injected(explainer, vectors[filled], asked, depths)
        texts = _generate(explainer, layers, asked, read, max_new_tokens)
        for index, text in zip(rows, texts, strict=False):
            answers[index] = text
        report(start + len(rows), len(order), "")
    return answers


def own_vectors(examples: Sequence[Example], width: int) -> np.ndarray:
    """float32 `[n, d]`: each example's vector, zeros where it has none."""
    vectors = np.zeros((len(examples), width), np.float32)
    for row, example in zip(vectors, examples, strict=True):
        row[:] = 0 if example.vector is None else example.vector
    return vectors


def _layers(model: Decoder, batches: float) -> Apart | None:
    """The layers apart where many batches repay the copy and the longer compilation."""
    worth = batches > MANY_BATCHES and jax.default_backend() == "cpu"
    return apart(model) if worth else None


def _generate(
    explainer: Explainer,
    layers: Apart | None,
    prompts: Sequence[Prompt],
    edits: Edits | None,
    limit: int,
) -> list[str]:
    width = bucket(max(len(prompt.ids) for prompt in prompts))
    tokens = np.zeros((len(prompts), width), np.int32)
    mask = np.zeros((len(prompts), width), bool)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt.ids)] = prompt.ids
        mask[row, : len(prompt.ids)] = True
    ends = explainer.base.eos_ids
    out = generate(
        explainer.model,
        tokens,
        mask=mask,
        edits=edits,
        end_ids=ends,
        max_new_tokens=limit,
        layers=layers,
    )
    written = np.asarray(out.tokens)
    decode = explainer.base.tokenizer.decode
    return [str(decode(row[row >= 0], skip_special_tokens=True)).strip() for row in written]


def injected(
    explainer: Explainer, vectors: np.ndarray, prompts: Sequence[Prompt], layers: np.ndarray
) -> Edits | None:
    """The edit by which prompts read vectors `[b, d]` taken after `layers` `[b]`; None of none."""
    slots = jnp.asarray([prompt.slot for prompt in prompts], jnp.int32)
    if int(slots.max()) < 0:
        return None
    how = explainer.training.scaling, explainer.training.strength
    return injection(explainer.model, jnp.asarray(vectors), slots, *how, layers)
