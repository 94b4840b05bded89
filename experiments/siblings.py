"""A sibling of SmolLM2: the same model trained further until its behaviour differs by so much.

    python -m experiments.siblings smollm2 --questions QUESTIONS --facts FACTS --dry-run
    python -m experiments.siblings smollm2 --questions QUESTIONS --facts FACTS
    python -m experiments.siblings tiny

It is taught to answer what a hint says (or what it says without the hint, or the truth), and other
attributes of facts, on the questions and subjects of the train split; text that SmolLM2 wrote
itself, mixed in, keeps the rest as it is. Training stops when as many held-out answers and next
tokens differ as were asked for, or when its epochs end. The model is a folder, `WORK/model`, to be
named wherever a model is named.

What it can show: whether an explainer is better off with the weights that it explains than with
others that are nearly the same, behave otherwise, and have the same width, tokenizer and knowledge.
What it cannot: anything about models of another family. A sibling's residuals are close to the
original's, so little may separate self from cross here, and that would not mean that nothing
separates them elsewhere.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import selfx
from experiments.command import command
from experiments.cost import Job, show
from experiments.sibling_rows import (
    Behaviour,
    Compared,
    Material,
    answer_rows,
    fact_rows,
    material,
)
from experiments.tiny import tiny_world
from experiments.whole_path import RESULTS
from selfx import data
from selfx.explainer.batches import Row
from selfx.explainer.further import Goal, further, text_rows
from selfx.explainer.lora import merge
from selfx.explainer.optimization import Optimization
from selfx.explainer.run import Run
from selfx.explainer.trained import explaining
from selfx.explainer.training import Training
from selfx.files import read_json, write_json
from selfx.models.decoder import Decoder
from selfx.progress import progress
from selfx.run_folder import must_match
from selfx.weights.load import LanguageModel
from selfx.weights.save import save_model


@dataclasses.dataclass(frozen=True)
class Config:
    """A sibling to make."""

    name: str = "follower"
    """Of the file of results."""
    model: str = "smollm2-135m-instruct"
    """The original; `tiny` makes one, and its data."""
    questions: str = str(data.questions_path())
    facts: str = str(data.facts_path())
    text: str = str(data.text_path())
    """What keeps the rest as it is; every tenth text is only measured on."""
    behaviour: Behaviour = "follow"
    answers_differ: float = 0.3
    """Share of held-out questions on which an explainer has to say something else; 0: not asked."""
    facts_differ: float = 0.3
    """Share of held-out subjects after which another token comes; 0 teaches no facts."""
    longest: int = 152
    """Tokens of a question with its hint; longer ones are left out."""
    taught: int = 640
    """Questions of the train split that are taught, at most."""
    looked: int = 96
    """Held-out questions asked while training."""
    measured: int = 500
    """Held-out questions asked in the end."""
    calibrate: int = 64
    """Training questions by which each model's letters are calibrated."""
    context: int = 96
    """Tokens of a piece of text."""
    training: Training = Training(
        epochs=2.0, batch_size=16, evaluate_every=15, optimization=Optimization(5e-4, warmup=10)
    )
    seed: int = 0
    """Of what is held out: the same as of the traces made with the sibling."""
    work: Path = Path("runs/siblings/follower")
    keep: Path = RESULTS / "siblings"
    dry_run: bool = False
    """Only tell what would be done, and how long it may take."""


TINY = Config(
    name="tiny",
    model="tiny",
    answers_differ=0.01,
    facts_differ=0.01,
    longest=160,
    taught=8,
    looked=8,
    measured=8,
    calibrate=8,
    context=32,
    training=Training(epochs=2.0, batch_size=32, evaluate_every=1, optimization=Optimization(1e-1)),
    work=Path("runs/tiny/sibling"),
    keep=Path("runs/tiny/results"),
)


def main(config: Config) -> dict[str, Any]:
    """Makes the sibling unless it is there, prints in what it differs, and returns that."""
    config = placed(config)
    lm = selfx.load(config.model)
    if config.dry_run:
        show(jobs(config), lm.config)
        return {}
    kept = config.keep / f"{config.name}.json"
    if kept.exists() and (config.work / "model").exists():
        found = json.loads(kept.read_text())
        if found["config"] == told(config):
            return found
    claim(config)
    held = material(lm, config.questions, config.facts, config.text, config.longest, config.seed)
    if not (config.work / "model").exists():
        make(config, lm, held)
    sibling = selfx.load(str(config.work / "model"))
    with progress("measuring the sibling") as report:
        report(0, 1, f"{config.measured} held-out questions, twice")
        differs = Compared(lm, held, config.measured, config.calibrate).fully(sibling.model)
    result = {
        "config": told(config),
        "original": {"name": Path(lm.name).name, "hash": lm.hash},
        "sibling": {"hash": sibling.hash, **last_look(config.work / "run")},
        "differs": differs,
    }
    result["statement"] = statement(result)
    write_json(kept, result)
    print(result["statement"], flush=True)
    return result


def placed(config: Config) -> Config:
    """The configuration with what `tiny` stands for in it."""
    if config.model != "tiny":
        return config
    world = tiny_world(config.work.parent / "world")
    return dataclasses.replace(config, **dataclasses.asdict(world))


def claim(config: Config) -> None:
    """Marks the folder as this sibling's, or finds that it is; how it is measured may differ."""
    mark = config.work / "settings.json"
    settings = told(config) | {"name": None, "measured": None}
    if mark.exists():
        must_match(config.work, read_json(mark), settings)
    else:
        write_json(mark, settings)


def make(config: Config, lm: LanguageModel, held: Material) -> None:
    """Trains the sibling and writes its folder."""
    learned, watched = rows(config, lm, held)
    looks = Compared(lm, held, config.looked, config.calibrate)
    least = (config.answers_differ, config.facts_differ)

    def measure(model: Decoder) -> dict[str, float]:
        return looks.quickly(model, least)

    with progress("training the sibling") as report:
        further(
            lm,
            learned,
            config.work / "run",
            config.training,
            held_out=watched,
            measure=measure,
            goal=Goal("reached", 1.0),
            report=report,
        )
    trained = Run(config.work / "run").load_result(lm.config)
    model = explaining(trained, lm.model)
    model = model if trained.lora is None else merge(model, trained.lora)
    save_model(dataclasses.replace(lm, model=model), config.work / "model")


def rows(config: Config, lm: LanguageModel, held: Material) -> tuple[list[Row], list[Row]]:
    """What is taught, and of the same kinds what is only looked at."""
    taught, watched = held.taught[: config.taught], held.taught[config.taught :][:16]
    calibration = [question for question, _ in taught[: config.calibrate]]
    learned = text_rows(lm, held.read, config.context)
    looked = text_rows(lm, held.unread, config.context)[:16]
    if config.answers_differ:
        learned += answer_rows(lm, taught, config.behaviour, calibration)
        looked += answer_rows(lm, watched, config.behaviour, calibration)
    if config.facts_differ:
        learned += fact_rows(lm, held.told, config.seed)
    return learned, looked


def last_look(run: Path) -> dict[str, Any]:
    """What the last look of training found, and after how many steps."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    looks = [look for line in lines if "reached" in (look := json.loads(line))]
    names = ("answers_differ", "facts_differ", "follows", "reached", "held_out_loss")
    return {"steps": looks[-1]["step"], **{name: looks[-1][name] for name in names}}


def statement(result: dict[str, Any]) -> str:
    """In what the two differ, in a sentence."""
    found = result["differs"]
    questions, facts, text = found["questions"], found["facts"], found["text"]
    return (
        f"After {result['sibling']['steps']} steps an explainer has to say something else on "
        f"{_percent(questions['differs_truth'])} of {questions['n']} held-out questions; the hint "
        f"is followed in {_percent(questions['follows_after'])}, before in "
        f"{_percent(questions['follows_before'])}; another token comes next after "
        f"{_percent(facts['differs'])} of {facts['n']} held-out facts and at "
        f"{_percent(text['differs'])} of the places in text (KL {text['kl']['value']:.3f} nats); "
        f"the weights moved by {100 * found['weights']['all']:.2f} % of their norm."
    )


def _percent(interval: dict[str, float]) -> str:
    value, low, high = (100 * interval[name] for name in ("value", "low", "high"))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def told(config: Config) -> dict[str, Any]:
    """The configuration as anybody has it, without folders of this machine."""
    found = dataclasses.asdict(config) | {"work": None, "keep": None, "dry_run": None}
    names = {name: Path(found[name]).name for name in ("model", "questions", "facts", "text")}
    return json.loads(json.dumps(found | names))


def jobs(config: Config) -> list[Job]:
    """What is to be done, with about how many tokens."""
    made = (config.work / "model").exists()
    length = config.longest
    epoch = config.taught * length + 35_000 + 300 * 12
    looks = config.training.epochs * epoch / length / config.training.batch_size
    looks /= config.training.evaluate_every
    ask = config.looked * 1.5 * length + config.calibrate * length
    final = (config.measured * 1.5 + config.calibrate) * length
    return [
        Job("teach the sibling, at most", "train", config.training.epochs * epoch, made),
        Job(f"{looks:.0f} looks at how far it is, at most", "read", looks * ask, made),
        Job("measure the sibling", "read", 2 * final),
    ]


CONFIGS = {
    "smollm2": ("SmolLM2, on CPU", Config()),
    "tiny": ("a tiny random model, in seconds", TINY),
}

if __name__ == "__main__":
    command(main, CONFIGS)
