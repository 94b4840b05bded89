"""Patches a second: selfx against a hand-batched torch hook loop, same model, same interventions.

    python -m experiments.benchmarks.patching --out experiments/benchmarks/patching.json

The rival sorts by length, runs each distinct text once, reads only the source position, keeps the
head to the last token, and patches a whole batch through one hook a layer.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM

import selfx
from experiments.benchmarks.reference import interleaved, summary, torch_model
from experiments.command import command
from selfx.files import write_json
from selfx.interventions.pairs import Pair, run_pairs


@dataclasses.dataclass(frozen=True)
class Config:
    """What to time."""

    model: str = "smollm2-135m-instruct"
    n: int = 256
    """Interventions."""
    lengths: tuple[int, int] = (6, 24)
    """The shortest and longest text, in tokens."""
    batch_size: int = 64
    rounds: int = 5
    seed: int = 0
    out: Path | None = None


def random_pairs(config: Config, vocab: int, layers: int) -> list[Pair]:
    """Interventions of every length, layer chunk and place."""
    rng = np.random.default_rng(config.seed)
    chunks = np.array_split(np.arange(layers), 4)
    pairs = []
    for _ in range(config.n):
        base, source = (
            tuple(rng.integers(20, vocab, rng.integers(*config.lengths)).tolist()) for _ in "ab"
        )
        chunk = tuple(chunks[rng.integers(4)].tolist())
        places = int(rng.integers(len(base))), int(rng.integers(len(source)))
        pairs.append(Pair(base, source, chunk, *places, "mean"))
    return pairs


class TorchPatcher:
    """The rival."""

    def __init__(self, model: LlamaForCausalLM, batch_size: int):
        self.model, self.batch_size = model, batch_size

    @torch.no_grad()
    def __call__(self, pairs: list[Pair]) -> tuple[np.ndarray, np.ndarray]:
        """Next tokens before and after."""
        texts = sorted({pair.base_ids for pair in pairs}, key=len)
        base: dict[tuple[int, ...], int] = {}
        for group in self._groups(texts):
            base |= dict(zip(group, self._run(group, None).tolist(), strict=True))
        patched = np.zeros(len(pairs), np.int64)
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].base_ids))
        values = self._sources(pairs)
        for group in self._groups(order):
            rows = [pairs[i] for i in group]
            patched[group] = self._run([p.base_ids for p in rows], (rows, values[group])).numpy()
        return np.array([base[pair.base_ids] for pair in pairs]), patched

    def _groups(self, items: list) -> list[list]:
        return [items[i : i + self.batch_size] for i in range(0, len(items), self.batch_size)]

    def _pad(self, texts: list[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        width = max(map(len, texts))
        ids = torch.zeros(len(texts), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        return ids, mask, mask.sum(1) - 1

    def _sources(self, pairs: list[Pair]) -> torch.Tensor:
        """The mean over the chunk of the source's residuals, [n, d]."""
        values = torch.zeros(len(pairs), self.model.config.hidden_size)
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].source_ids))
        for group in self._groups(order):
            rows = [pairs[i] for i in group]
            ids, mask, _ = self._pad([p.source_ids for p in rows])
            at = torch.tensor([p.source_pos for p in rows])
            seen: list[torch.Tensor] = []
            reader = _reader(at, seen)
            hooks = [layer.register_forward_hook(reader) for layer in self.model.model.layers]
            self.model.model(ids, attention_mask=mask, use_cache=False)
            for hook in hooks:
                hook.remove()
            stack = torch.stack(seen)
            for row, index in enumerate(group):
                values[index] = stack[list(rows[row].layers), row].mean(0)
        return values

    def _run(self, texts: list[tuple[int, ...]], patch: tuple | None) -> torch.Tensor:
        ids, mask, last = self._pad(texts)
        hooks = []
        if patch is not None:
            rows, values = patch
            at = torch.tensor([p.base_pos for p in rows])
            for number, layer in enumerate(self.model.model.layers):
                on = torch.tensor([number in p.layers for p in rows]).nonzero()[:, 0]
                if len(on):
                    hooks.append(layer.register_forward_hook(_writer(on, at[on], values[on])))
        hidden = self.model.model(ids, attention_mask=mask, use_cache=False).last_hidden_state
        for hook in hooks:
            hook.remove()
        return self.model.lm_head(hidden[torch.arange(len(texts)), last]).argmax(-1)


def _hidden(output: torch.Tensor | tuple) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def _reader(at: torch.Tensor, seen: list[torch.Tensor]):
    def read(module, inputs, output):
        seen.append(_hidden(output)[torch.arange(len(at)), at])

    return read


def _writer(rows: torch.Tensor, at: torch.Tensor, values: torch.Tensor):
    def write(module, inputs, output):
        _hidden(output)[rows, at] = values
        return output

    return write


def main(config: Config) -> None:
    """Prints and keeps the figures."""
    lm = selfx.load(config.model)
    pairs = random_pairs(config, lm.config.vocab_size, lm.config.n_layers)
    rival = TorchPatcher(torch_model(lm), config.batch_size)

    def ours():
        return run_pairs(lm.model, pairs, batch_size=config.batch_size)

    results, (base, patched) = ours(), rival(pairs)
    sure = results.margin > 0.01
    agree = ((results.patched == patched) | ~sure).all() and (results.base == base).mean() > 0.99
    seconds = interleaved(ours, lambda: rival(pairs), config.rounds)
    figures = {"agree": bool(agree), **summary(seconds, config.n, "patches")}
    print(json.dumps(figures, indent=2))
    if config.out:
        write_json(config.out, figures)


if __name__ == "__main__":
    command(main, Config)
