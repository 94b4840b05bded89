"""A model of another width, trained from nothing on the text at hand.

    python -m experiments.from_scratch small --texts TEXT.txt.gz --dry-run
    python -m experiments.from_scratch small --texts TEXT.txt.gz
    python -m experiments.from_scratch tiny

A Llama of width 256 and 8 layers with a tokenizer of its own, as a folder, `WORK/run/model`, to be
named wherever a model is named. A step takes about a second of processor time: a minute or two for
100 of them on two cores, half an hour for the 1,600 that a megabyte of text makes. By then it has
learned spelling, common words and their order; held-out loss says when it has begun to learn the
text by heart.

What it can show: that explainers, projections and traces work between models which share neither
width, depth, tokenizer nor weights; and, as a target that is explained by another model, what a
projection makes of vectors that have nothing to do with the explainer's own. What it cannot: how
well a weak model explains, or is explained, compared to a good one. It knows no facts and follows
no instructions, so its patching trace is of spelling and frequency, and it is no target for
questions of multiple choice; that it explains worse than SmolLM2 says that it is the lesser model,
not that it lacks privileged access.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import selfx
from experiments.command import command
from experiments.cost import Job, show
from experiments.small_tokenizer import small_tokenizer
from experiments.tiny import tiny_world
from experiments.whole_path import RESULTS
from selfx import data
from selfx.explainer.further import further, text_rows
from selfx.explainer.optimization import Optimization
from selfx.explainer.training import Training
from selfx.features.exemplars.texts import read_texts
from selfx.files import write_json
from selfx.models.config import Config as Architecture
from selfx.models.config import Rope
from selfx.models.fresh import fresh_model
from selfx.models.parameters import parameter_count
from selfx.progress import progress
from selfx.weights.save import save_model


@dataclasses.dataclass(frozen=True)
class Config:
    """The model and its training."""

    name: str = "width-256"
    """Of the file of results."""
    texts: tuple[str, ...] = (str(data.text_path()),)
    """Every tenth document is held out."""
    vocabulary: int = 4096
    width: int = 256
    layers: int = 8
    heads: int = 4
    kv_heads: int = 2
    mlp: int = 704
    longest: int = 512
    """Tokens that the model may ever read."""
    context: int = 128
    """Tokens of a piece of text in training."""
    training: Training = Training(
        epochs=12.0,
        batch_size=16,
        trains=("full",),
        evaluate_every=100,
        optimization=Optimization(1e-3, "cosine", 100, weight_decay=0.1),
    )
    seed: int = 0
    work: Path = Path("runs/from-scratch")
    keep: Path = RESULTS / "from_scratch"
    dry_run: bool = False
    """Only tell what would be done, and how long it may take."""


TINY = Config(
    name="tiny",
    texts=("tiny",),
    vocabulary=300,
    width=48,
    layers=2,
    mlp=64,
    context=32,
    training=Training(epochs=1.0, batch_size=8, trains=("full",), optimization=Optimization(1e-2)),
    work=Path("runs/tiny/from-scratch"),
    keep=Path("runs/tiny/results"),
)


def main(config: Config) -> dict[str, Any]:
    """Trains the model unless it is there, prints how it fares, and returns that."""
    if config.texts == ("tiny",):
        world = tiny_world(config.work.parent / "world")
        config = dataclasses.replace(config, texts=(world.text,))
    texts = [text for file in config.texts for text in read_texts(file)]
    lm = selfx.load(str(begun(config, texts)))
    learned, held = [text for n, text in enumerate(texts) if n % 10], texts[::10]
    rows, watched = text_rows(lm, learned, config.context), text_rows(lm, held, config.context)[:64]
    tokens = sum(len(row) for row in rows)
    if config.dry_run:
        # All weights learn, in a vocabulary that is small: about twice what an adapter costs.
        job = Job("train", "train", 2 * config.training.epochs * tokens)
        show([job], lm.config)
        return {}
    with progress("training") as report:
        out = config.work / "run"
        fitted = further(lm, rows, out, config.training, held_out=watched, report=report)
    result = {
        "config": told(config),
        "parameters": parameter_count(lm.config),
        "tokens": tokens,
        "steps": fitted.steps,
        "seconds": fitted.seconds,
        **looks(out),
    }
    write_json(config.keep / f"{config.name}.json", result)
    print(
        f"{result['parameters'] / 1e6:.1f} million weights, {fitted.steps} steps: held-out loss "
        f"{result['held_out_loss']:.3f} nats a token, {math.log(config.vocabulary):.3f} before; "
        f"the model is in {out / 'model'}",
        flush=True,
    )
    return result


def begun(config: Config, texts: list[str]) -> Path:
    """The folder of the model before training, with its tokenizer."""
    folder = config.work / "start"
    if not folder.exists():
        tokenizer = small_tokenizer(texts, config.vocabulary)
        save_model(fresh_model(architecture(config), config.seed), folder, tokenizer=tokenizer)
    return folder


def architecture(config: Config) -> Architecture:
    """What the model is like."""
    return Architecture(
        family="llama",
        vocab_size=config.vocabulary,
        d_model=config.width,
        d_ff=config.mlp,
        n_layers=config.layers,
        n_heads=config.heads,
        n_kv_heads=config.kv_heads,
        d_head=config.width // config.heads,
        ropes=(Rope(10_000.0),),
        norm_eps=1e-5,
        max_positions=config.longest,
        tied=True,
    )


def looks(run: Path) -> dict[str, Any]:
    """The last held-out loss, the lowest, and when: past it text is learned by heart."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [(line["held_out_loss"], line["step"]) for line in lines if "held_out_loss" in line]
    lowest, at = min(found)
    return {"held_out_loss": found[-1][0], "lowest": lowest, "lowest_at": at}


def told(config: Config) -> dict[str, Any]:
    """The configuration as anybody has it, without folders of this machine."""
    found = dataclasses.asdict(config) | {"work": None, "keep": None, "dry_run": None}
    return json.loads(json.dumps(found | {"texts": [Path(file).name for file in config.texts]}))


CONFIGS = {
    "small": ("width 256, 8 layers, on CPU", Config()),
    "tiny": ("in seconds", TINY),
}

if __name__ == "__main__":
    command(main, CONFIGS)
