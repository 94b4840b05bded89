"""TopK SAEs on a model's residual stream: three layers, three widths, beside a torch trainer.

    python -m experiments.sae --text wikitext2_valid.txt.gz --name sae

The last part of the text is held out: there, `selfx sae inspect`'s measure gives FVU and how much
of the model's loss is recovered. The torch trainer gets the very batches that selfx trained on, in
the same order, from the same start, and is timed on them alone, as selfx is. Configuration and
figures are kept in `experiments/results/NAME`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import selfx
from experiments.command import command
from selfx.errors import SelfxError
from selfx.features.dictionaries.inspect import inspect_sae
from selfx.features.dictionaries.sae import Origin
from selfx.features.dictionaries.save import save_saelens
from selfx.features.exemplars.texts import read_texts
from selfx.features.training.grid import Scales, State
from selfx.features.training.objective import Objective
from selfx.features.training.optimise import moments, saes, summary
from selfx.features.training.packing import Packed, pack
from selfx.features.training.settings import SaeTraining
from selfx.features.training.stream import Buffer, Stream, source, stream, stream_arrays
from selfx.files import write_json
from selfx.progress import progress
from selfx.weights.load import LanguageModel

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Config:
    """One run."""

    text: Path
    """As `selfx sae train --data` takes it."""
    name: str = "sae"
    """Of the folder of results."""
    model: str = "smollm2-135m-instruct"
    layers: tuple[int, ...] = (6, 14, 22)
    widths: tuple[int, ...] = (1152, 2304, 4608)
    k: int = 32
    rate: float = 1e-3
    tokens: int = 1_000_000
    """To train on; the text is passed over as often as that takes."""
    batch_size: int = 2048
    context: int = 128
    dead_after: int = 100_000
    held_out: float = 0.1
    """Share of the text, its end."""
    eval_rows: int = 64
    limit: int | None = None
    """Rows of text to train on at most, for a short run."""
    rival: bool = True
    """Whether to train the same in torch."""
    keep: Path | None = None
    """Where the dictionaries go, in SAELens' layout, a folder each."""
    seed: int = 0
    results: Path = RESULTS


def part(text: Packed, rows: slice) -> Packed:
    """Some rows of a text."""
    return dataclasses.replace(
        text, tokens=text.tokens[rows], mask=text.mask[rows], kept=text.kept[rows]
    )


def settings(config: Config) -> SaeTraining:
    """Of all dictionaries at once."""
    return SaeTraining(
        layers=config.layers,
        widths=config.widths,
        ks=(config.k,),
        rates=(config.rate,),
        objective=Objective("topk"),
        tokens=config.tokens,
        batch_size=config.batch_size,
        dead_after=config.dead_after,
        buffer=16 * config.batch_size,
        seed=config.seed,
    )


def activations(lm: LanguageModel, text: Packed, training: SaeTraining) -> Buffer:
    """Every kept token's, in the text's order: read once, for both sides."""
    read = source(lm.model, training.site, training.layers)
    count = int(text.kept.sum())
    whole: Stream = stream(read, text, rows=training.rows, size=count + 1, batch=1)
    places = np.full(whole.mask.shape, count + 1, np.int32)
    kept = np.zeros(places.size, bool)
    kept[: text.kept.size] = text.kept.ravel()
    places.ravel()[kept] = np.arange(count)
    buffer = whole.buffer()
    with progress("reading") as report:
        for chunk, tokens in enumerate(whole.tokens):
            where = places[chunk].ravel()
            buffer = whole.fill(buffer, whole.model, tokens, whole.mask[chunk], where)
            report(chunk + 1, len(places), "")
    return Buffer(buffer.inputs[:, :count], None)


def ours(
    config: Config, training: SaeTraining, given: Buffer
) -> tuple[State, Scales, dict[str, Any], float]:
    """Trained dictionaries, the scales at the start, the last metrics, seconds after compiling."""
    batches = batches_of(given, training)
    total, recent, began = training.steps, [], 0.0
    with progress("selfx") as report:
        for done, (moment, metrics) in enumerate(moments(batches, training), 1):
            if done == 1:
                jax.block_until_ready(metrics)
                scales, began = jax.tree.map(jnp.copy, moment.state.scales), time.perf_counter()
            recent = [*recent[-19:], metrics]
            report(done, total, "")
        jax.block_until_ready(moment)
    rows = {row["sae"]: row for row in summary(training, recent)}
    return moment.state, scales, rows, time.perf_counter() - began


def batches_of(given: Buffer, training: SaeTraining) -> Stream:
    """The shuffled batches of activations that were read before."""
    size, batch = training.buffer, training.batch_size
    return stream_arrays(given.inputs, size=size, batch=batch, seed=training.seed)


def main(config: Config) -> dict[str, Any]:
    """Prints and keeps the figures."""
    if config.rival and importlib.util.find_spec("torch") is None:
        raise SelfxError(
            "a rival in torch, which is not installed",
            expected="torch, as the README's last section installs it",
            hint="--no-rival",
        )
    lm, training = selfx.load(config.model), settings(config)
    training.check()
    text = pack(lm.tokenizer, read_texts(config.text), context=config.context)
    cut = len(text) - max(1, round(config.held_out * len(text)))
    learnt = part(text, slice(0, cut if config.limit is None else min(cut, config.limit)))
    test = part(text, slice(cut, cut + config.eval_rows))
    given = activations(lm, learnt, training)
    state, scales, rows, seconds = ours(config, training, given)
    found = saes(state, training, Origin("selfx", model=config.model, bos=False))
    figures: dict[str, Any] = {
        "tokens of text": int(learnt.kept.sum()),
        "steps": training.steps,
        "selfx seconds": round(seconds, 1),
        "saes": [],
    }
    for name, sae in found.items():
        if config.keep is not None:
            save_saelens(sae, config.keep / name)
    sides = {"selfx": found}
    if config.rival:
        from experiments.sae_rival import theirs

        sides["torch"], timed = theirs(training, batches_of(given, training), scales, found)
        ratio = round(timed["torch seconds"] / seconds, 2)
        figures |= timed | {"ratio": ratio}
    for name, sae in found.items():
        row: dict[str, Any] = {"sae": name, "training fvu": round(rows[name]["fvu"], 4)}
        row["dead"] = round(rows[name]["dead"], 4)
        for side in sides:
            one = dataclasses.replace(sides[side][name], origin=sae.origin)
            seen = inspect_sae(one, lm.model, test.tokens, test.mask)
            row[side] = {key: round(getattr(seen, key), 4) for key in ("fvu", "l0", "recovered")}
        figures["saes"].append(row)
        print(json.dumps(row))
    figures["config"] = dataclasses.asdict(config) | {"text": config.text.name}
    figures["config"] |= {"keep": None, "results": None}
    write_json(config.results / config.name / "scores.json", figures)
    print(json.dumps({key: v for key, v in figures.items() if key not in ("saes", "config")}))
    return figures


if __name__ == "__main__":
    command(main, Config)
