"""LoRA training, examples a second: selfx against HF + PEFT on a trace's own examples.

    python -m experiments.benchmarks.training --data traces/patching

Both sides see the same batches in the same order, rank, maps and optimiser. The rival pads each
batch to its longest row and computes logits from the first answer position on.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

import selfx
from experiments.benchmarks.reference import interleaved, summary, torch_model
from experiments.command import command
from selfx.explainer.batches import Batch, Plan
from selfx.explainer.injection import Way
from selfx.explainer.optimization import Optimization
from selfx.explainer.prompts import make_prompter
from selfx.explainer.step import Frozen, How, init_state, make_step
from selfx.explainer.trained import begin
from selfx.explainer.training import Training
from selfx.files import write_json


@dataclasses.dataclass(frozen=True)
class Config:
    """What to time."""

    data: Path
    """A trace folder."""
    model: str = "smollm2-135m-instruct"
    steps: int = 6
    """Steps a round."""
    batch_size: int = 16
    rank: int = 16
    rounds: int = 4
    seed: int = 0
    out: Path | None = None


class Ours:
    """Steps of selfx."""

    def __init__(self, config: Config, lm: selfx.LanguageModel):
        settings = Training(rank=config.rank, alpha=config.rank, seed=config.seed)
        trained = begin(lm.config, lm.model, settings, lm.config.n_layers, lm.config.d_model)
        optimizer = Optimization().build(1000)
        self.frozen, self.state = Frozen(lm.model), init_state(trained, optimizer)
        self.step = make_step(optimizer, How(Way("marker", 5.0)))

    def __call__(self, batches: list[Batch]) -> float:
        """The last loss."""
        for batch in batches:
            self.state, metrics = self.step(self.state, self.frozen, batch)
        return float(metrics["loss"])


class Theirs:
    """Steps of HF + PEFT; the vector is written into the embeddings as selfx does."""

    def __init__(self, config: Config, lm: selfx.LanguageModel):
        settings = LoraConfig(
            r=config.rank,
            lora_alpha=config.rank,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        self.model = get_peft_model(torch_model(lm), settings).train()
        self.embed = self.model.get_input_embeddings()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.trained = trained
        self.optimizer = torch.optim.AdamW(trained, lr=5e-4, weight_decay=0.01)
        self.length = 5.0 * float(self.embed.weight.norm(dim=-1).mean())

    def __call__(self, batches: list[Batch]) -> float:
        """The last loss."""
        for batch in batches:
            loss = self._loss(batch)
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimizer.step()
        return float(loss)

    def _loss(self, batch: Batch) -> torch.Tensor:
        width = int(batch.mask.sum(1).max())
        tokens = torch.from_numpy(batch.tokens[:, :width]).long()
        embeds = self.embed(tokens).detach()
        rows, held = np.nonzero(batch.slots >= 0)
        vectors = torch.from_numpy(batch.vectors[rows, held])
        scaled = vectors * (self.length / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-12))
        embeds[torch.from_numpy(rows), torch.from_numpy(batch.slots[rows, held]).long()] = scaled
        first = int(batch.ask[batch.ask >= 0].min())
        logits = self.model(
            inputs_embeds=embeds,
            attention_mask=torch.from_numpy(batch.mask[:, :width]).long(),
            logits_to_keep=width - first,
            use_cache=False,
        ).logits
        labels = torch.full((len(tokens), width - first), -100)
        for row, (ask, answers, weights) in enumerate(
            zip(batch.ask, batch.answers, batch.weights, strict=True)
        ):
            real = weights > 0
            labels[row, ask[real] - first] = torch.from_numpy(answers[real]).long()
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


def main(config: Config) -> None:
    """Prints and keeps the figures."""
    lm = selfx.load(config.model)
    prompter = make_prompter(lm.tokenizer, lm.eos_ids, "plain")
    plan = Plan(
        selfx.load_examples(config.data, "train"),
        prompter,
        width=lm.config.d_model,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    batches = [plan.batch(step) for step in range(config.steps)]
    ours, theirs = Ours(config, lm), Theirs(config, lm)
    first = {"selfx": ours(batches[:1]), "torch": theirs(batches[:1])}
    seconds = interleaved(lambda: ours(batches), lambda: theirs(batches), config.rounds)
    amount = sum(int((batch.weights.sum(1) > 0).sum()) for batch in batches)
    figures = {
        "first loss": first,
        "widths": sorted({b.tokens.shape[1] for b in batches}),
        **summary(seconds, amount, "examples"),
    }
    print(json.dumps(figures, indent=2))
    if config.out:
        write_json(config.out, figures)


if __name__ == "__main__":
    command(main, Config)
