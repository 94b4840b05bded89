"""Torch models run in different ways, for the script that writes the golden files."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import torch
import transformers

PREFILL = 7
Model = transformers.PreTrainedModel


def layers(model: Model) -> list[torch.nn.Module]:
    """The decoder's layers."""
    lists = {k: v for k, v in model.named_modules() if isinstance(v, torch.nn.ModuleList)}
    return list(
        next(v for k, v in lists.items() if re.search(r"\.(layers|h)$", k) and "vision" not in k)
    )


def run(model: Model, row: np.ndarray, **more: Any) -> Any:
    """What the model returns for one row, or for several of one length."""
    with torch.no_grad():
        return model(torch.from_numpy(np.atleast_2d(row)), **more)


def alone(model: Model, row: np.ndarray, attention: bool = False) -> dict[str, np.ndarray]:
    """A row's logits, embeddings, residuals and, if wanted, attention weights."""
    model, seen, entered = copy.deepcopy(model), [], []
    for layer in layers(model):
        layer.register_forward_hook(lambda _, __, out: seen.append(out))
    layers(model)[0].register_forward_pre_hook(
        lambda _, args, more: entered.append(args[0] if args else more["hidden_states"]),
        with_kwargs=True,
    )
    out = run(model, row, output_attentions=attention)
    found = {
        "logits": out.logits[0],
        "embeddings": entered[0][0],
        "residuals": torch.stack([one[0] for one in seen]),
    }
    if attention:
        found["attention"] = torch.stack([one[0] for one in out.attentions])
    return {kind: value.numpy() for kind, value in found.items()}


def padded(model: Model, rows: list[np.ndarray], side: str) -> list[np.ndarray]:
    """Every row's logits from one batch, padded on one side."""
    longest = max(map(len, rows))
    fill = [
        ((longest - len(row)) * (side == "left"), (longest - len(row)) * (side == "right"))
        for row in rows
    ]
    batch = np.stack([np.pad(row, one) for row, one in zip(rows, fill, strict=True)])
    mask = np.stack([np.pad(np.ones_like(row), one) for row, one in zip(rows, fill, strict=True)])
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    out = run(
        copy.deepcopy(model),
        batch,
        attention_mask=torch.from_numpy(mask),
        position_ids=torch.from_numpy(positions),
    )
    return [out.logits[i].numpy()[mask[i] == 1] for i in range(len(rows))]


def cached(model: Model, row: np.ndarray) -> np.ndarray:
    """A row's logits, its first tokens at once and the rest one by one."""
    model, past, found = copy.deepcopy(model), None, []
    for start, stop in [(0, PREFILL), *((i, i + 1) for i in range(PREFILL, len(row)))]:
        places = torch.arange(start, stop)[None]
        out = run(model, row[start:stop], position_ids=places, past_key_values=past, use_cache=True)
        past = out.past_key_values
        found.append(out.logits[0].numpy())
    return np.concatenate(found)


def distance(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The largest difference, relative to the largest value, to two digits; NaN if there is one."""
    rows = zip(found, wanted, strict=True)
    far = np.max([np.abs(a - b).max() / np.abs(b).max() for a, b in rows])
    return float(f"{far:.1e}")
