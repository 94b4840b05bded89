"""Asking an explainer: questions and vectors in, answers in words out, batched on device."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfx.errors import SelfxError
from selfx.explainer.injection import inject
from selfx.explainer.lora import Adapters, check_adapters, merge
from selfx.explainer.origin import Origin, check_layers
from selfx.explainer.prompts import Prompt, Prompter, check_room, make_prompter
from selfx.explainer.reader import Reader, check_reader
from selfx.explainer.run import Run
from selfx.explainer.trained import explaining
from selfx.explainer.training import Training
from selfx.interventions.batching import bucket
from selfx.interventions.edits import Edits
from selfx.models.beams import beams as search
from selfx.models.decoder import Decoder, apart
from selfx.models.generate import generate
from selfx.models.quantized import is_quantized
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
      model: its weights, adapters merged in where they can be.
      prompter: how it reads a question.
      training: how it was trained; an untrained one reads as these settings say.
      origin: the shape of the target that it explains.
      reader: what vectors go through first, or None.
      lora: adapters that could not be merged, of a quantised model, or None.
      targets: the hashes of the models that it learned to explain; none of an untrained one.
    """

    name: str
    base: LanguageModel
    model: Decoder
    prompter: Prompter
    training: Training
    origin: Origin
    reader: Reader | None = None
    lora: Adapters | None = None
    targets: tuple[str, ...] = ()


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
    base = load(record["explainer"], quantize=record["quantize"]) if base is None else base
    if base.hash != record["explainer_hash"]:
        raise SelfxError(
            f"weights of {base.name} with hash {base.hash[:12]}",
            expected=f"{record['explainer_hash'][:12]}, which {run.path} was trained from",
        )
    trained = run.load_result(base.config)
    explainer = dataclasses.replace(
        untrained(base, run.training(), run.origin()),
        name=str(source),
        model=explaining(trained, base.model),
        reader=trained.reader,
        targets=tuple(hash for t in record["traces"] if (hash := t.get("target_hash"))),
    )
    if trained.lora is None:
        return explainer
    check_adapters(trained.lora, base.config)
    if is_quantized(base.model):
        return dataclasses.replace(explainer, lora=trained.lora)
    return dataclasses.replace(explainer, model=merge(explainer.model, trained.lora))


def untrained(base: LanguageModel, training: Training, origin: Origin | None = None) -> Explainer:
    """The model itself, asked as an explainer trained with these settings would be."""
    prompter = make_prompter(base.tokenizer, base.eos_ids, training.style, training.withhold)
    origin = origin or Origin(base.config.d_model, base.config.n_layers)
    return Explainer(base.name, base, base.model, prompter, training, origin)


def check_vectors(examples: Sequence[Example], explainer: Explainer) -> None:
    """Raises SelfxError where vectors are not such as the explainer can read."""
    origin, config, way = explainer.origin, explainer.base.config, explainer.training.way
    widths = {e.vectors.shape[1] for e in examples if e.vectors is not None}
    if wrong := sorted(widths - {origin.width}):
        raise SelfxError(
            f"vectors of width {wrong[0]}",
            expected=f"{origin.width}, the width of the target that {explainer.name} explains",
            hint="train one on these vectors",
        )
    if widths:
        check_reader(explainer.reader, origin.width, config.d_model)
        check_layers(examples, origin, config, way.own, way.at)


def answer(
    explainer: Explainer,
    examples: Sequence[Example],
    vectors: np.ndarray | None = None,
    *,
    max_new_tokens: int = 40,
    beams: int = 1,
    batch_size: int = 32,
    report: Report = silent,
) -> list[str]:
    """The explainer's answers, in the order of the examples.

    Args:
      explainer: who is asked.
      examples: the questions, each in its first wording.
      vectors: float32 `[n, m, d]` to read instead of the examples' own.
      max_new_tokens: where an answer that does not end is cut.
      beams: how many answers are written at once, of which the likeliest counts; 1 is greedy.
      batch_size: questions at once; those of like length go together.
      report: told of progress.

    Raises:
      SelfxError: vectors of another width, or questions longer than the explainer's context.
    """
    check_vectors(examples, explainer)
    own = own_vectors(examples, explainer.origin.width)
    vectors = own if vectors is None else vectors
    if vectors.shape != own.shape:
        raise SelfxError(
            f"vectors of shape {vectors.shape} for {len(examples)} questions",
            expected=f"{own.shape}, that of their own",
        )
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
        read = injected(explainer, vectors[filled], asked, [examples[i] for i in filled])
        texts = _write(explainer, layers, asked, read, max_new_tokens, beams)
        for index, text in zip(rows, texts, strict=False):
            answers[index] = text
        report(start + len(rows), len(order), "")
    return answers


def own_vectors(examples: Sequence[Example], width: int) -> np.ndarray:
    """float32 `[n, m, d]`: each example's vectors, zeros where it has fewer than others or none."""
    most = max((len(e.vectors) for e in examples if e.vectors is not None), default=1)
    vectors = np.zeros((len(examples), most, width), np.float32)
    for row, example in zip(vectors, examples, strict=True):
        if example.vectors is not None:
            row[: len(example.vectors)] = example.vectors
    return vectors


def _layers(model: Decoder, batches: float) -> Apart | None:
    """The layers apart where many batches repay the copy and the longer compilation."""
    worth = batches > MANY_BATCHES and jax.default_backend() == "cpu"
    worth = worth and not is_quantized(model)  # apart, its weights would all be floats at once
    return apart(model) if worth else None


def _write(
    explainer: Explainer,
    layers: Apart | None,
    prompts: Sequence[Prompt],
    edits: Edits | None,
    limit: int,
    width: int,
) -> list[str]:
    longest = bucket(max(len(prompt.ids) for prompt in prompts))
    tokens = np.zeros((len(prompts), longest), np.int32)
    mask = np.zeros((len(prompts), longest), bool)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt.ids)] = prompt.ids
        mask[row, : len(prompt.ids)] = True
    how: dict[str, Any] = {
        "mask": mask,
        "edits": edits,
        "end_ids": explainer.base.eos_ids,
        "max_new_tokens": limit,
        "layers": layers,
        "lora": explainer.lora,
    }
    if width == 1:
        written = np.asarray(generate(explainer.model, tokens, **how).tokens)
    else:
        written = np.asarray(search(explainer.model, tokens, width=width, **how).tokens[:, 0])
    decode = explainer.base.tokenizer.decode
    return [str(decode(row[row >= 0], skip_special_tokens=True)).strip() for row in written]


def injected(
    explainer: Explainer,
    vectors: np.ndarray,
    prompts: Sequence[Prompt],
    examples: Sequence[Example],
) -> Edits | None:
    """The edits by which prompts read examples' `vectors` `[b, m, d]`; None where none has any."""
    if not any(prompt.slots for prompt in prompts):
        return None
    slots, layers = (np.full(vectors.shape[:2], -1, np.int32) for _ in range(2))
    for row, (prompt, example) in enumerate(zip(prompts, examples, strict=True)):
        slots[row, : len(prompt.slots)] = prompt.slots
        layers[row, : len(example.layers)] = example.layers
    depth = explainer.origin.layers
    way = explainer.training.way
    return inject(
        way, explainer.model, explainer.reader, jnp.asarray(vectors), slots, layers, depth
    )
