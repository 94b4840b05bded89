"""Commands about features: train dictionaries, look into them, publish descriptions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from selfx.cli.arguments import Model, positive
from selfx.errors import SelfxError

Bos = Literal["auto", "yes", "no"]


@dataclasses.dataclass(frozen=True)
class SaeTrain:
    """Train sparse dictionaries on a model's activations, a whole grid at once.

    One for every combination of layer, width, k, rate and seed, each in its folder under OUT/sae,
    in SAELens' layout. The same command again goes on where it stopped.

    For example:
      selfx sae train --model smollm2-135m-instruct --data text.txt.gz --out runs/sae --layers 6 14
      selfx sae train --model org/name --data texts.jsonl --out runs/transcoder --layers 8 \
--site mlp_in --out-site mlp_out --kind batchtopk --widths 4096 --tokens 10000000
    """

    model: Model
    """A packaged model, a folder, a .gguf file, or a hub id."""
    data: Path
    """Texts: .txt (lines such as ` = Title = ` begin documents), or .jsonl or .parquet with a
    column `text`; .txt and .jsonl may be packed as .gz."""
    out: Path
    """The run folder."""
    layers: tuple[int, ...]
    """Of which layers."""
    widths: tuple[int, ...] = (4096,)
    """Numbers of latents."""
    k: tuple[int, ...] = (32,)
    """Latents a token; in jumprelu the aim."""
    kind: Literal["topk", "batchtopk", "matryoshka", "jumprelu"] = "topk"
    """How latents are chosen, and with that what is trained for."""
    rates: tuple[float, ...] = (1e-3,)
    """Highest learning rates of Adam."""
    site: str = "resid_post"
    """What is read."""
    out_site: str | None = None
    """What is reconstructed, for a transcoder; None is what is read."""
    tokens: int = 1_000_000
    """To train on; passes over the texts are repeated as needed."""
    context: int = 128
    """Tokens that the model reads together."""
    bos: Bos = "auto"
    """Whether a token begins each stretch of text; auto does as the tokenizer does."""
    batch_size: int = 2048
    """Tokens a step."""
    buffer: int = 32_768
    """Tokens that are shuffled among each other."""
    rows: int = 16
    """Stretches of text that the model reads at a time."""
    dead_after: int = 250_000
    """Tokens without being on after which a latent counts as dead."""
    seeds: tuple[int, ...] = (0,)
    """Of the dictionaries' starts."""
    seed: int = 0
    """Of the order of the texts."""
    save_every: int = 200
    """Steps between checkpoints."""
    fresh: bool = False
    """Start over, forgetting what --out holds of an earlier run."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> Any:
        """How each dictionary stood at the end."""
        from selfx.features.training.objective import Objective
        from selfx.features.training.settings import SaeTraining
        from selfx.features.training.train import train
        from selfx.progress import progress

        training = SaeTraining(
            **{name: getattr(self, name) for name in _SHARED},
            ks=self.k,
            objective=Objective(self.kind),
        )
        training.check()
        positive(save_every=self.save_every)
        lm, text = _model_and_text(self.model, self.data, self.context, self.bos)
        with progress("training") as report:
            trained = train(
                lm,
                text,
                self.out,
                training,
                fresh=self.fresh,
                save_every=self.save_every,
                log_every=min(_LOG_EVERY, self.save_every),
                report=report,
            )
        return Dictionaries(str(trained.path), trained.steps, trained.resumed_at, trained.rows)


_LOG_EVERY = 20
_SHARED = (
    "layers",
    "widths",
    "rates",
    "seeds",
    "site",
    "out_site",
    "tokens",
    "batch_size",
    "dead_after",
    "buffer",
    "rows",
    "seed",
)


@dataclasses.dataclass(frozen=True)
class Dictionaries:
    """What was trained: a row each, as a table or as JSON."""

    run: str
    steps: int
    resumed_at: int
    saes: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return dataclasses.asdict(self)

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table(title=f"{self.run}/sae, {self.steps:,} steps")
        names = ("", "variance left (FVU)", "latents on (L0)", "dead")
        for name in names:
            table.add_column(name, justify="right" if name else "left")
        for row in self.saes:
            table.add_row(row["sae"], f"{row['fvu']:.4g}", f"{row['l0']:.4g}", f"{row['dead']:.1%}")
        return table


@dataclasses.dataclass(frozen=True)
class SaeInspect:
    """Say how a dictionary does on given text, and what contradicts its own files.

    Latents on (L0), variance left (FVU), dead share, loss recovered.

    For example:
      selfx sae inspect runs/sae/sae/layer6-n4096-k32 --model smollm2-135m-instruct --data text.txt
      selfx sae inspect google/gemma-scope-2b-pt-res layer_20/width_16k/average_l0_71 \
--model google/gemma-2-2b --data texts.parquet
    """

    sae: Annotated[str, tyro.conf.Positional]
    """A file, a folder or a hub id, in any of the published layouts."""
    inside: Annotated[str, tyro.conf.Positional] = ""
    """The folder or file in it."""
    _: dataclasses.KW_ONLY
    model: Model
    """The model that it is for."""
    data: Path
    """Texts, as `selfx sae train` takes them; not those that it was trained on."""
    layout: str | None = None
    """What the files are to be read as, if what they hold should not decide."""
    site: str | None = None
    """What it reads, if its files do not say or say it wrongly."""
    layer: int | None = None
    """Of which layer; likewise."""
    out_site: str | None = None
    """What it reconstructs; likewise."""
    scale: float | None = None
    """What activations were multiplied by in training; likewise."""
    k: int | None = None
    """How many latents are on; likewise."""
    context: int = 128
    """Tokens that the model reads together."""
    bos: Bos = "auto"
    """Whether a token begins each stretch of text; auto does as the tokenizer does."""
    limit: int = 64
    """Stretches of text to read, from all over the data."""
    first: int = 1
    """The first position in each that counts."""
    batch_size: int = 8
    """Stretches at once."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> Any:
        """What was measured."""
        import numpy as np

        from selfx.features.dictionaries.inspect import inspect_sae
        from selfx.features.dictionaries.load import load_sae
        from selfx.progress import progress

        positive(limit=self.limit, batch_size=self.batch_size)
        if self.first < 0:
            raise SelfxError(f"--first {self.first}", expected="0 or more")
        lm, text = _model_and_text(self.model, self.data, self.context, self.bos)
        given = {name: getattr(self, name) for name in _GIVEN}
        sae = load_sae(self.sae, self.inside, model=lm.model, **given)
        rows = np.unique(np.linspace(0, len(text) - 1, self.limit).round().astype(int))
        with progress("inspecting") as report:
            return inspect_sae(
                sae,
                lm.model,
                text.tokens[rows],
                text.mask[rows],
                bos=lm.tokenizer.bos_token_id,
                first=self.first,
                batch=self.batch_size,
                report=report,
            )


_GIVEN = ("layout", "site", "layer", "out_site", "scale", "k")


def _model_and_text(model: str, data: Path, context: int, bos: Bos) -> tuple[Any, Any]:
    """A model, and texts as it reads them; the texts first, as reading them takes less time."""
    from selfx.features.exemplars.texts import read_texts
    from selfx.features.training.packing import pack
    from selfx.models.decoder import check_length
    from selfx.weights.load import load

    texts = read_texts(data)
    lm = load(model)
    begins = None if bos == "auto" else bos == "yes"
    text = pack(lm.tokenizer, texts, context=context, bos=begins)
    check_length(lm.config, text.tokens, text.mask)
    return lm, text


@dataclasses.dataclass(frozen=True)
class ExportNeuronpedia:
    """Write a trace's features as Neuronpedia's export has them, a folder for each layer.

    Texts with activations, promoted and suppressed tokens, directions, descriptions.

    For example:
      selfx export neuronpedia --data traces/features --out export
    """

    data: Path
    """A trace folder of feature-description."""
    out: Path
    """Where `v1` is to be."""
    model: str | None = None
    """The target's id at Neuronpedia; none given takes the last part of its name."""
    name: str = "selfx"
    """Of the set of features; sources are LAYER-NAME-DICTIONARY."""
    split: tuple[Literal["train", "test"], ...] = ("train", "test")
    """Which examples."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> dict[str, Any]:
        """Where they are, and how many."""
        from selfx.interop.neuronpedia import export_trace

        return export_trace(
            self.data, self.out, model=self.model, name=self.name, splits=self.split
        )
