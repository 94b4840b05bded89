"""Commands that train explainers and score them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from selfx.cli.arguments import Injected, Model, Part, positive


@dataclasses.dataclass(frozen=True)
class Train:
    """Teach an explainer to answer a trace's questions; resumes where it stopped.

    For example:
      selfx train --data traces/patching --explainer smollm2-135m-instruct --out runs/patching
      selfx train --data traces/reading traces/patching --times 1 3 \
        --explainer smollm2-135m-instruct --injection add --out runs/both
      selfx train --data traces/patching --start runs/reading --explainer smollm2-135m-instruct \
        --injection add --out runs/patching
      selfx train --data traces/features --explainer smollm2-135m-instruct --trains scale bias \
        --out runs/selfie-adapter
    """

    data: tuple[Path, ...]
    """Trace folders."""
    explainer: Model
    """The model to adapt."""
    out: Path
    """The run folder."""
    times: tuple[float, ...] = ()
    """How often an epoch sees each example of each trace; none given is once."""
    trains: tuple[Part, ...] = ("lora",)
    """lora or full, of the explainer; scale, bias, low_rank, projection, of what vectors go
    through before it reads them."""
    injection: Injected = "marker"
    """How vectors enter: in place of an embedding, as they are (embedding, the paper) or at one
    length (marker); after a layer, added (add) or in place of the residual (overwrite)."""
    strength: float = 0.0
    """Embedding lengths for marker, residual lengths for add, times their own for the others; 0
    takes 50 for marker, else 1."""
    at: int = -1
    """The layer after which add and overwrite act; -1 is the one that each vector is from."""
    latest: int = -1
    """With --at -1, the last layer that a vector may go in after: later ones go in there."""
    blind: bool = False
    """Zeros in place of every vector: an explainer that learns from the text alone, to be named by
    selfx evaluate --text-only."""
    epochs: float = 3.0
    """Passes over the data."""
    batch_size: int = 16
    """Examples a step."""
    accumulate: int = 1
    """Parts in which a step's examples go through the model, to save memory."""
    learning_rate: float = 5e-4
    """AdamW's rate for the explainer."""
    reader_rate: float = 1e-2
    """The same for scale, bias, low_rank and projection."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the rate goes on."""
    warmup: int = 0
    """Steps of linear rise."""
    rank: int = 16
    """Of LoRA."""
    alpha: float = 16.0
    """Adapters are scaled by alpha / rank."""
    rslora: bool = False
    """Scale adapters by alpha / sqrt(rank) instead."""
    dropout: float = 0.0
    """Of what enters LoRA."""
    targets: tuple[str, ...] = ()
    """Maps that get adapters, such as q v; none given is all."""
    reader_rank: int = 16
    """Of low_rank."""
    centred: bool = False
    """Take each layer's mean direction away from vectors before they are read."""
    probed: float = 0.0
    """Show in vectors' place what a ridge regression reads of the outcome in them; the share of
    the training groups that it is fitted to, the explainer learning from the others. With
    --injection marker --strength 1; 0 shows vectors."""
    projection: str = ""
    """Where target and explainer differ in width: random, kaiming (the paper's start), or the
    folder of one that was fitted."""
    style: Literal["chat", "plain"] = "chat"
    """Questions in the chat template, or as plain text."""
    withhold: tuple[str, ...] = ()
    """Parts of questions that are never told, in training or after: text, layer, token, hint or
    question."""
    start: str = ""
    """A finished run to start from."""
    soften: float = 0.0
    """Learn each answer's share instead of the one that came out ahead, where a trace keeps the
    target's scores (input-ablation): the temperature, in nats, that they are divided by; 0 learns
    that one alone."""
    held_out: float = 0.05
    """Share of the training groups that is kept back to watch the lift by."""
    evaluate_every: int = 50
    """Steps between looks at them."""
    patience: int = 0
    """End after so many looks without a lower loss, and keep the best; 0 goes on to the end."""
    quantize: Literal["", "int8", "nf4"] = ""
    """Keep the explainer's own weights in 8 or 4 bits; needs selfx[qlora]."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the explainer's weights; what is trained is in float32."""
    remat: bool = False
    """Less memory, more time."""
    seed: int = 0
    """Of every draw."""
    save_every: int = 50
    """Steps between checkpoints."""
    wandb: str = ""
    """Log to this project of Weights & Biases as well as to TensorBoard."""
    fresh: bool = False
    """Start over, forgetting what --out holds of an earlier run."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> dict[str, Any]:
        """What was done."""
        from selfx.explainer.fit import fit
        from selfx.explainer.optimization import Optimization
        from selfx.explainer.training import Training
        from selfx.progress import progress
        from selfx.weights.load import load

        settings = dataclasses.asdict(self)
        own = {field.name for field in dataclasses.fields(Training)} - {"optimization"}
        rates = ("learning_rate", "reader_rate", "schedule", "warmup")
        training = Training(
            **{name: settings[name] for name in own},
            optimization=Optimization(**{name: settings[name] for name in rates}),
        )
        training.check()
        positive(save_every=self.save_every)
        with progress("training") as report:
            fitted = fit(
                load(self.explainer, dtype=self.dtype, quantize=self.quantize),
                self.data,
                self.out,
                training,
                times=self.times,
                fresh=self.fresh,
                save_every=self.save_every,
                wandb=self.wandb,
                report=report,
            )
        told = {"run": str(fitted.path), "steps": fitted.steps, "loss": fitted.loss}
        return told | ({} if fitted.lift is None else {"lift": fitted.lift})


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score an explainer on a trace's held-out questions, with controls, baselines and intervals.

    For example:
      selfx evaluate --data traces/patching --explainer runs/patching --out scores/patching
      selfx evaluate --data traces/patching --explainer smollm2-135m-instruct --out scores/untrained
      selfx evaluate --data traces/patching --explainer runs/patching --text-only runs/blind \
        --other-vectors models/sibling --out scores/patching
    """

    data: Path
    """A trace folder."""
    explainer: Annotated[str, tyro.conf.arg(metavar="RUN|MODEL")]
    """A run folder, or a model as it is."""
    out: Path
    """The evaluation folder."""
    controls: tuple[str, ...] | None = None
    """What is taken away: zero, shuffled, rotated for the vector; no-vector, no-text, no-layer,
    no-token, no-hint, no-question out of the question. None given runs all that change anything;
    each asks all questions again."""
    text_only: str = ""
    """A run that was trained with --blind: what the text alone teaches."""
    other_vectors: str = ""
    """A model that reads the same texts, and whose vectors at the same places are given too."""
    other_projection: str = ""
    """The folder of a fitted projection from its width to the target's; none draws one."""
    baselines: tuple[str, ...] | None = None
    """What it is compared with; none given runs all that fit the task. For verdicts: untrained,
    few-shot, selfie, majority, majority-per-cell, majority-verdict-per-cell, nearest-vector,
    nearest-text, probe, shifted-scores; for words: the same without majority-verdict-per-cell and
    shifted-scores, majority-per-ask, logit-lens; for descriptions: untrained, few-shot, majority,
    nearest-cosine, nearest-dot, selfie, selfie-oracle, logit-lens, gold."""
    limit: int = 0
    """Ask this many test questions, contrast sets whole; 0 asks all."""
    max_new_tokens: int = 0
    """Where an answer is cut; 0 takes 40, and 80 where it is a description."""
    beams: int = 0
    """Answers written at once, of which the likeliest counts; 1 is greedy, 0 is 4 for a run that
    learned shares (--soften) and greedy for all others."""
    confidence: bool = True
    """Measure how sure the explainer is of its answers, and how far that can be believed."""
    other_target: bool = False
    """Ask even where the trace is of another target than the run learned to explain."""
    simulator: str = ""
    """A model that predicts activations from descriptions; none takes the built-in one."""
    batch_size: int = 32
    """Questions at once."""
    seed: int = 0
    """Of the controls and the bootstrap."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> dict[str, Any]:
        """What scores.json holds."""
        from selfx.evaluation.controls import ALL
        from selfx.evaluation.run import Evaluation, evaluate
        from selfx.progress import progress

        settings = Evaluation(
            controls=ALL if self.controls is None else self.controls,
            baselines=self.baselines,
            limit=self.limit,
            max_new_tokens=self.max_new_tokens,
            beams=self.beams,
            confidence=self.confidence,
            batch_size=self.batch_size,
            seed=self.seed,
            simulator=self.simulator,
            other_target=self.other_target,
            text_only=self.text_only,
            other_vectors=self.other_vectors,
            other_projection=self.other_projection,
        )
        settings.check()
        explainer = _explainer(self.explainer)
        with progress("evaluating") as report:
            return evaluate(explainer, self.data, self.out, settings, report=report)


def _explainer(source: str) -> Any:
    """The explainer of a run folder, or a model as it is."""
    from selfx.explainer.answer import load_explainer, untrained
    from selfx.explainer.run import Run
    from selfx.explainer.training import Training
    from selfx.weights.load import load

    if Run(Path(source)).exists():
        return load_explainer(source)
    return untrained(load(source), Training())
