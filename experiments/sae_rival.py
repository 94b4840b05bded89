"""The dictionaries of `sae.py` trained in torch: the same start, batches and rates."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch

from experiments.benchmarks.torch_sae import TorchSae
from selfx.features.dictionaries.sae import Sae
from selfx.features.training.grid import Scales
from selfx.features.training.optimise import first_state
from selfx.features.training.settings import SaeTraining
from selfx.features.training.stream import Stream
from selfx.progress import progress


def theirs(
    training: SaeTraining, batches: Stream, scales: Scales, found: dict[str, Sae]
) -> tuple[dict[str, Sae], dict[str, Any]]:
    """The rival's dictionaries in the common form; its threads, and seconds after the first step.

    Args:
      training: of selfx's dictionaries.
      batches: that these were trained on.
      scales: of the layers, at the start.
      found: what came out, by name.
    """
    start = first_state(batches, training, scales)
    (rate,), trainers = training.rates, {}
    for width in training.widths:
        enc = np.asarray(start.grids[str(width)].weights.enc)
        for i, (name,) in enumerate(training.names(width)):
            begun = torch.from_numpy(enc[i, 0].copy())
            trainers[name] = i, TorchSae(begun, training.ks[0], training.batch_size, rate, True)
    factor, seconds = training.schedule(), 0.0
    turns = zip(range(training.steps), batches.batches(), strict=False)
    with progress("torch") as report:
        for step, (buffer, places) in turns:
            x, _ = scales(*buffer.take(jnp.asarray(places)))
            x = torch.from_numpy(np.array(x))
            now, began = rate * float(factor(step)), time.perf_counter()
            for i, trainer in trainers.values():
                trainer.step(x[i], now)
            seconds += (time.perf_counter() - began) if step else 0.0
            report(step + 1, training.steps, "")
    layers = {layer: i for i, layer in enumerate(training.layers)}
    saes = {
        name: as_sae(trainer, scales, layers[found[name].layer], found[name])
        for name, (_, trainer) in trainers.items()
    }
    return saes, {"torch threads": torch.get_num_threads(), "torch seconds": round(seconds, 1)}


def as_sae(trainer: TorchSae, scales: Scales, layer: int, ours: Sae) -> Sae:
    """The rival's dictionary in the common form."""
    enc, b_enc, dec, b_dec = (jnp.asarray(p.detach().numpy()) for p in trainer.parameters)
    centre, scale = scales.centre[layer], scales.scale[layer]
    w_enc = enc.T
    b_enc = scale * b_enc - centre @ w_enc
    return dataclasses.replace(
        ours, w_enc=w_enc, b_enc=b_enc, w_dec=dec, b_dec=scale * b_dec + centre
    )
