"""Evaluating an explainer: it answers under every control, baselines beside it, all scored."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import selfx
from selfx.errors import SelfxError
from selfx.evaluation.baselines import BASELINES, get_baseline
from selfx.evaluation.controls import CONTROLS, get_control
from selfx.evaluation.report import load_evaluation, write_report
from selfx.evaluation.scores import PREDICTIONS, SCORES, Answered, write_evaluation
from selfx.explainer.answer import Explainer, answer, own_vectors, untrained
from selfx.explainer.fit import check_widths
from selfx.files import write_json
from selfx.progress import Report, silent
from selfx.tasks.example import Example
from selfx.tasks.store import load_examples, load_trace

UNTRAINED = "untrained"
DEFAULT_CONTROLS = tuple(CONTROLS)
DEFAULT_BASELINES = (UNTRAINED, *BASELINES)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What to ask and how.

    Attributes:
      controls: names in `CONTROLS`; `none`, the vector itself, always comes first.
      baselines: names in `BASELINES`, and `untrained`.
      limit: ask this many test examples, drawn by seed; 0 asks all.
      max_new_tokens: where an answer that does not end is cut.
      batch_size: questions at once.
      seed: of the controls, the bootstrap, and the draw.
    """

    controls: tuple[str, ...] = DEFAULT_CONTROLS
    baselines: tuple[str, ...] = DEFAULT_BASELINES
    limit: int = 0
    max_new_tokens: int = 40
    batch_size: int = 32
    seed: int = 0

    def check(self) -> None:
        """Raises SelfxError for a control or baseline that does not exist."""
        for name in self.controls:
            get_control(name)
        for name in self.baselines:
            if name != UNTRAINED:
                get_baseline(name)
        if self.limit < 0 or self.max_new_tokens < 1 or self.batch_size < 1:
            raise SelfxError("a negative limit, or nothing to generate", expected="positive sizes")


def evaluate(
    explainer: Explainer,
    data: Path,
    out: Path,
    settings: Evaluation = Evaluation(),
    *,
    report: Report = silent,
) -> dict[str, Any]:
    """Scores an explainer on a trace's test split; returns what `scores.json` holds.

    Leaves `scores.json`, `predictions.parquet` and `report.html` in `out`. Answers are kept as they
    come, so that the same call after a kill asks only what is left, and nothing once it has ended.

    Args:
      explainer: who is asked.
      data: a trace folder.
      out: the evaluation folder.
      settings: what to ask and how.
      report: told of progress.

    Raises:
      SelfxError: an unknown control or baseline, an empty split, vectors of another width.
    """
    settings.check()
    trace = load_trace(data)
    train, test = load_examples(data, "train"), _draw(load_examples(data, "test"), settings)
    check_widths(test, explainer.base)
    constants = {n: _baseline(n, train, test) for n in settings.baselines if n != UNTRAINED}
    asked = _Asked(explainer, test, Path(out), settings, report)
    provenance = _provenance(explainer, trace, settings) | {"asked": asked.digest(train)}
    done = _finished(Path(out), provenance)
    if done is not None:
        return done
    answered = [asked.under(control) for control in _controls(test, settings)]
    answered += [
        asked.untrained() if name == UNTRAINED else constants[name] for name in settings.baselines
    ]
    scores = write_evaluation(
        out,
        test,
        answered,
        target=str(trace["target"]),
        seed=settings.seed,
        provenance=provenance,
    )
    write_report(Path(out) / "report.html", [load_evaluation(out)])
    asked.forget()
    return scores


def _finished(out: Path, provenance: dict[str, Any]) -> dict[str, Any] | None:
    """The scores in `out`, if they are of this very evaluation."""
    files = [out / SCORES, out / PREDICTIONS, out / "report.html"]
    if not all(file.is_file() for file in files):
        return None
    try:
        scores = json.loads(files[0].read_text(encoding="utf-8"))
        kept = scores["provenance"]
    except (ValueError, TypeError, KeyError):
        return None
    same = all(kept.get(key) == value for key, value in provenance.items())
    return scores if same else None


def _controls(test: Sequence[Example], settings: Evaluation) -> list[str]:
    """The controls to run; without vectors there is nothing to control."""
    if all(example.vector is None for example in test):
        return ["none"]
    return ["none", *(name for name in settings.controls if name != "none")]


def _draw(test: list[Example], settings: Evaluation) -> list[Example]:
    if not test:
        raise SelfxError("no test examples", expected="a trace folder with test-*.parquet")
    if not 0 < settings.limit < len(test):
        return test
    rng = np.random.default_rng(settings.seed)
    chosen = rng.choice(len(test), settings.limit, replace=False)
    return [test[index] for index in sorted(chosen)]


def _baseline(name: str, train: Sequence[Example], test: Sequence[Example]) -> Answered:
    if not train:
        raise SelfxError(
            f"baseline {name!r} without training examples", hint="--baselines untrained"
        )
    return Answered(name, "none", get_baseline(name)(train, test))


def _provenance(
    explainer: Explainer, trace: dict[str, Any], settings: Evaluation
) -> dict[str, Any]:
    record = {
        "version": selfx.__version__,
        "explainer": explainer.name,
        "explainer_model": explainer.base.name,
        "explainer_hash": explainer.base.hash,
        "training": dataclasses.asdict(explainer.training),
        "evaluation": dataclasses.asdict(settings),
        "trace": {key: value for key, value in trace.items() if key != "columns"},
    }
    return json.loads(json.dumps(record))  # as a reader of scores.json finds it


class _Asked:
    """The answers of one evaluation, each set kept on disk until the scores are written."""

    def __init__(
        self,
        explainer: Explainer,
        test: Sequence[Example],
        out: Path,
        settings: Evaluation,
        report: Report,
    ):
        self.explainer, self.test, self.settings, self.report = explainer, test, settings, report
        self.folder = out / ".answers"

    def under(self, control: str) -> Answered:
        """The explainer's answers, its vectors replaced as the control says."""
        vectors = own_vectors(self.test, self.explainer.base.config.d_model)
        groups = [example.group for example in self.test]
        vectors = get_control(control)(vectors, seed=self.settings.seed, groups=groups)
        return Answered(self.explainer.name, control, self._ask(self.explainer, vectors, control))

    def untrained(self) -> Answered:
        """The answers of the model that the explainer was made from, asked the same way."""
        plain = untrained(self.explainer.base, self.explainer.training)
        vectors = own_vectors(self.test, plain.base.config.d_model)
        return Answered(UNTRAINED, "none", self._ask(plain, vectors, UNTRAINED))

    def forget(self) -> None:
        """Removes what was kept for resuming."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ask(self, explainer: Explainer, vectors: np.ndarray, label: str) -> list[str]:
        file = self.folder / f"{label}-{self._key(explainer, vectors)}.json"
        if file.exists():
            return json.loads(file.read_text(encoding="utf-8"))
        answers = answer(
            explainer,
            self.test,
            vectors,
            max_new_tokens=self.settings.max_new_tokens,
            batch_size=self.settings.batch_size,
            report=lambda done, total, note: self.report(done, total, f"{label} {note}"),
        )
        write_json(file, answers)
        return answers

    def digest(self, train: Sequence[Example]) -> str:
        """Changes with the adapter and with what the examples ask, hold and have for an answer."""
        vectors = own_vectors(self.test, self.explainer.base.config.d_model)
        truth = [(e.answer, e.changed, e.cell) for e in (*train, *self.test)]
        return self._key(self.explainer, vectors, repr(truth))

    def _key(self, explainer: Explainer, vectors: np.ndarray, *more: str) -> str:
        """A name that changes with anything that could change the answers."""
        parts = (
            explainer.base.hash,
            repr(explainer.training),
            repr(self.settings.max_new_tokens),
            *(f"{example.id} {example.question}" for example in self.test),
            *more,
        )
        whole = hashlib.sha256("\n".join(parts).encode())
        whole.update(np.ascontiguousarray(vectors).tobytes())
        whole.update(adapter_digest(explainer))
        return whole.hexdigest()[:16]


def adapter_digest(explainer: Explainer) -> bytes:
    """sha256 of the explainer's adapter file; of nothing for an untrained model."""
    file = Path(explainer.name) / "adapter" / "adapter_model.safetensors"
    return hashlib.sha256(file.read_bytes() if file.exists() else b"").digest()
