"""Greedy generation, tokens a second: selfx against HF `generate`, same prompts, same limits.

python -m experiments.benchmarks.generation
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch

import selfx
from experiments.benchmarks.reference import interleaved, summary, torch_model
from experiments.command import command
from selfx.files import write_json


@dataclasses.dataclass(frozen=True)
class Config:
    """What to time."""

    model: str = "smollm2-135m-instruct"
    batch_size: int = 32
    prompt: tuple[int, int] = (40, 80)
    """The shortest and longest prompt, in tokens; padded on the left, as HF needs it."""
    new_tokens: int = 24
    rounds: int = 5
    seed: int = 0
    out: Path | None = None


def main(config: Config) -> None:
    """Prints and keeps the figures."""
    lm = selfx.load(config.model)
    rng = np.random.default_rng(config.seed)
    width = config.prompt[1]
    tokens = rng.integers(20, lm.config.vocab_size, (config.batch_size, width))
    starts = width - rng.integers(config.prompt[0], width + 1, config.batch_size)
    mask = np.arange(width) >= starts[:, None]
    tokens = np.where(mask, tokens, 0)
    model = torch_model(lm)
    inputs = {
        "input_ids": torch.from_numpy(tokens),
        "attention_mask": torch.from_numpy(mask).long(),
    }
    limit = {"max_new_tokens": config.new_tokens, "min_new_tokens": config.new_tokens}

    layers = selfx.apart(lm.model)

    def ours() -> np.ndarray:
        out = selfx.generate(
            lm.model, tokens, mask=mask, max_new_tokens=config.new_tokens, layers=layers
        )
        return np.asarray(out.tokens)

    def theirs() -> np.ndarray:
        with torch.no_grad():
            model.generation_config.eos_token_id = None
            return model.generate(**inputs, **limit, do_sample=False)[:, width:].numpy()

    same = float((ours() == theirs()).mean())
    seconds = interleaved(ours, theirs, config.rounds)
    amount = config.batch_size * config.new_tokens
    figures = {"same tokens": round(same, 4), **summary(seconds, amount, "tokens")}
    print(json.dumps(figures, indent=2))
    if config.out:
        write_json(config.out, figures)


if __name__ == "__main__":
    command(main, Config)
