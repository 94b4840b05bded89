"""The target that a run explains: found by the name in its record, and known by its weights."""

from __future__ import annotations

from typing import Any

from selfx.errors import SelfxError
from selfx.explainer.answer import Explainer
from selfx.weights.load import LanguageModel, load


def tasks_of(record: dict[str, Any]) -> tuple[str, ...]:
    """The tasks that a run was trained on, each once."""
    return tuple(dict.fromkeys(trace["task"] for trace in record["traces"]))


def hashes_of(record: dict[str, Any]) -> frozenset[str]:
    """The weights that its traces were made with, as far as they say."""
    found = (trace.get("target_hash") for trace in record["traces"])
    return frozenset(each for each in found if each)


def load_target(record: dict[str, Any], explainer: Explainer, name: str = "") -> LanguageModel:
    """The target of a run; the explainer's own base where it is that.

    Args:
      record: what the run's `config.json` holds.
      explainer: the run's.
      name: where it is now, if not where it was.

    Raises:
      SelfxError: it is not named, is one of several, cannot be loaded, or has other weights.
    """
    hashes = hashes_of(record)
    names = {t["target"] for t in record["traces"] if t.get("target")}
    base = explainer.base
    if not name and len(hashes) == 1 and base.hash in hashes:
        return base
    if not name and len(names) != 1:
        raise SelfxError(
            f"{explainer.name} was trained on traces of {_counted(sorted(names))}",
            expected="the one to ask about",
            hint="--target MODEL",
        )
    name = name or names.pop()
    try:
        target = load(name)
    except SelfxError as error:
        raise SelfxError(
            f"the target of {explainer.name}: {error.got}",
            expected=error.expected,
            hint="--target MODEL, where it is now",
        ) from error
    if hashes and target.hash not in hashes:
        raise SelfxError(
            f"weights of {name} with hash {target.hash[:12]}",
            expected=f"{' or '.join(sorted(each[:12] for each in hashes))}, which the traces of "
            f"{explainer.name} were made with",
            hint="--target MODEL, another one",
        )
    return check_shape(target, explainer)


def check_shape(target: LanguageModel, explainer: Explainer) -> LanguageModel:
    """The target, if its vectors are such as the explainer reads.

    Raises:
      SelfxError: it is of another width, or has fewer layers.
    """
    origin, config = explainer.origin, target.config
    if config.d_model != origin.width or config.n_layers < origin.layers:
        raise SelfxError(
            f"{target.name}, {config.n_layers} layers of width {config.d_model}",
            expected=f"{origin.layers} layers of width {origin.width}",
            hint=f"the target that {explainer.name} was trained to explain",
        )
    return target


def _counted(names: list[str]) -> str:
    return "no named target" if not names else f"several targets: {', '.join(names)}"
