"""The running text that comes with selfx, written by SmolLM2-135M-Instruct.

    python -m experiments.write_text --out selfx/data/text.jsonl.gz

A corpus for the quickstart has to come with the package and be free of others' rights. What the
model writes need not be true, or good: it only has to be text in which features are on and off.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import jax
import numpy as np

import selfx
from experiments.command import command
from selfx import data as own
from selfx.interventions.batching import chunks, pad
from selfx.progress import progress
from selfx.tasks.facts import read_facts

KINDS = (
    "Write an encyclopedia article about {}.",
    "Write a news report that mentions {}.",
    "Write a short story in which {} is mentioned.",
    "Explain to a child what one should know about {}.",
    "Write a letter to a friend about {}.",
    "List ten facts about {}, with years and numbers.",
    "Write a Python program that has to do with {}, and explain it.",
    "Write a dialogue between two people about {}.",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to write."""

    out: Path
    model: str = "smollm2-135m-instruct"
    texts: int = 160
    tokens: int = 256
    """Of each text, at most."""
    batch_size: int = 32
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0


def main(config: Config) -> None:
    """Writes the texts, a line each."""
    lm = selfx.load(config.model)
    rng = np.random.default_rng(config.seed)
    subjects = sorted({fact.subject for fact in read_facts(own.facts_path())})
    chosen = rng.choice(subjects, config.texts, replace=False)
    asked = [KINDS[i % len(KINDS)].format(subject) for i, subject in enumerate(chosen)]
    turns = [[{"role": "user", "content": question}] for question in asked]
    rows = [
        lm.tokenizer.apply_chat_template(t, add_generation_prompt=True, tokenize=True)["input_ids"]
        for t in turns
    ]
    texts: list[str] = []
    with progress("writing") as report:
        for number, some in enumerate(chunks(rows, config.batch_size)):
            tokens, mask = pad(some, config.batch_size)
            out = selfx.generate(
                lm.model,
                tokens,
                mask=mask,
                end_ids=lm.eos_ids,
                max_new_tokens=config.tokens,
                temperature=config.temperature,
                top_p=config.top_p,
                key=jax.random.fold_in(jax.random.key(config.seed), number),
            )
            for row in np.asarray(out.tokens)[: len(some)]:
                texts.append(lm.tokenizer.decode(row[row >= 0], skip_special_tokens=True).strip())
            report(len(texts), len(rows), "texts")
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts if text)
    config.out.write_bytes(gzip.compress(lines.encode(), mtime=0))
    print(f"{config.out}: {len(texts)} texts, {len(lines)} characters")


if __name__ == "__main__":
    command(main, Config)
