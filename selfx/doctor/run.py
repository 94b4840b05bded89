"""The examination: a model, by name or loaded, through every check."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from selfx import progress
from selfx.doctor.checkpoint import open_checkpoint
from selfx.doctor.identities import identities
from selfx.doctor.invariance import invariances
from selfx.doctor.reference import against_transformers
from selfx.doctor.report import Check, Report, skipped
from selfx.doctor.spec import Checkpoint
from selfx.doctor.stepwise import steps
from selfx.doctor.texts import RUN
from selfx.doctor.tokens import tokenizer_checks
from selfx.doctor.trial import PADS, Trial
from selfx.doctor.weights import weights
from selfx.errors import SelfxError
from selfx.models.decoder import Decoder
from selfx.weights.load import LanguageModel, load

REFERENCES = ("transformers",)
PARTS = ("tokenizer", "invariances", "identities", "steps", "weights")
"""The groups of checks, in order; a reference in torch comes after them, if asked for."""
LENGTH = 32
"""How many tokens of each text are run."""


def examine(
    model: str | Path | LanguageModel,
    *,
    dtype: Any = np.float32,
    reference: str | None = None,
    parts: Collection[str] = PARTS,
    report: progress.Report = progress.silent,
) -> Report:
    """What every check says about a model.

    Args:
      model: a name, folder or file as `selfx.load` takes it, or what it gave.
      dtype: of the weights, if it is to be loaded.
      reference: `transformers` also compares with its implementation in torch.
      parts: which groups of checks to run.
      report: told how far it is.

    Raises:
      SelfxError: it cannot be loaded; an unknown reference or part.
    """
    _known((reference,) if reference else (), REFERENCES, "reference")
    _known(parts, PARTS, "part")
    lm = model if isinstance(model, LanguageModel) else load(model, dtype=dtype)
    return examine_decoder(
        lm.model,
        lm.path,
        tokenizer=lm.tokenizer,
        name=lm.name,
        reference=reference,
        parts=parts,
        report=report,
    )


def examine_decoder(
    model: Decoder,
    path: Path | None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    tokens: np.ndarray | None = None,
    name: str = "",
    reference: str | None = None,
    parts: Collection[str] = PARTS,
    report: progress.Report = progress.silent,
) -> Report:
    """The same of a decoder in hand.

    Args:
      model: the decoder.
      path: the folder or GGUF file that it should be the model of, or None if there is none.
      tokenizer: its tokenizer, if it has one.
      tokens: int `[b, t]` to run, instead of the built-in texts.
      name: what the report calls it.
      reference, parts: as in `examine`.
      report: told how far it is.
    """
    if tokens is None:
        tokens = text_tokens(tokenizer, model)
    trial = Trial(model, tokens)
    groups = _groups(trial, path, tokenizer)
    chosen = [part for part in groups if part in parts or part == reference]
    total = sum(_COUNTS[part] for part in chosen)
    found: list[Check] = []
    for part in chosen:
        report(len(found), total, part)
        for check in groups[part]():
            found.append(check)
            report(len(found), total, check.name)
    report(total, total, "done")
    dtype = str(model.embed[...].dtype)
    return Report(name or str(path or "model"), dtype, int(trial.tokens.size), tuple(found))


def _groups(
    trial: Trial, path: Path | None, tokenizer: PreTrainedTokenizerBase | None
) -> dict[str, Callable[[], Iterator[Check]]]:
    """What makes the checks of each part, in order."""
    return {
        "tokenizer": lambda: _tokenizer(tokenizer, trial.model),
        "invariances": lambda: invariances(trial),
        "identities": lambda: identities(trial),
        "steps": lambda: _against(steps, "steps", trial, path),
        "weights": lambda: _against(weights, "weights", trial, path),
        "transformers": lambda: against_transformers(trial, path),
    }


_COUNTS = {
    "tokenizer": 5,
    "invariances": 4,
    "identities": 7,
    "steps": 17,
    "weights": 1,
    "transformers": 2,
}
"""How many checks a group has, for the progress shown."""


def text_tokens(tokenizer: PreTrainedTokenizerBase | None, model: Decoder) -> np.ndarray:
    """The built-in texts as int32 `[b, t]`, cut to one length."""
    if tokenizer is None:
        raise SelfxError("no tokenizer and no tokens", expected="one of them")
    rows = [list(tokenizer(text).input_ids) for text in RUN]
    length = min(LENGTH, model.config.max_positions - PADS, *map(len, rows))
    return np.array([row[:length] for row in rows], np.int32)


def _tokenizer(tokenizer: PreTrainedTokenizerBase | None, model: Decoder) -> Iterator[Check]:
    if tokenizer is None:
        yield skipped("tokenizer", "a text is itself after encoding and decoding", "there is none")
        return
    yield from tokenizer_checks(tokenizer, model.config.vocab_size)


def _against(
    checks: Callable[[Trial, Checkpoint], Iterator[Check]],
    part: str,
    trial: Trial,
    path: Path | None,
) -> Iterator[Check]:
    """Checks against the checkpoint, or one that says why there are none."""
    try:
        checkpoint = open_checkpoint(path)
    except SelfxError as error:
        yield skipped(part, "the model against the checkpoint's own files", str(error))
        return
    yield from checks(trial, checkpoint)


def _known(given: Collection[str], known: tuple[str, ...], what: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise SelfxError(
            f"{what} {', '.join(map(repr, unknown))}", expected=f"among {', '.join(known)}"
        )
