"""From a stream of activations to trained dictionaries, step by step; nothing is written here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from selfx.features.dictionaries.sae import Origin, Sae
from selfx.features.training.grid import Metrics, Scales, State, init_grid, make_step, measure
from selfx.features.training.settings import SaeTraining, finished
from selfx.features.training.stream import Buffer, Stream


@struct.dataclass
class Moment:
    """A run between two steps: all that the rest of it depends on.

    Attributes:
      state: of the dictionaries.
      buffer: of the activations.
    """

    state: State
    buffer: Buffer


def moments(
    batches: Stream, training: SaeTraining, last: Moment | None = None, start: int = 0
) -> Iterator[tuple[Moment, Metrics]]:
    """`(moment, metrics)` after every step that is left; a moment is used up by the next.

    Args:
      batches: the activations.
      training: the settings.
      last: where to go on from; None is the start.
      start: the steps taken until there.
    """
    members, k_max = training.members(), max(training.ks)
    step = make_step(training.objective, k_max, training.dead_after, training.schedule())
    state = None if last is None else last.state
    turns = batches.batches(None if last is None else last.buffer, start)
    for _, (buffer, drawn) in zip(range(start, training.steps), turns, strict=False):
        places = jnp.asarray(drawn)
        if state is None:
            state = first_state(batches, training, measure(*buffer.take(places)))
        state, metrics = step(state, members, buffer, places)
        yield Moment(state, buffer), metrics


def first_state(batches: Stream, training: SaeTraining, scales: Scales) -> State:
    """The state before the first step."""
    width, out_width = batches.widths
    widths = (width, out_width or width)
    threshold = training.threshold if training.objective.kind == "jumprelu" else None
    members, layers, mirrored = training.members(), batches.n_layers, out_width is None
    grids = {
        str(n): init_grid(members, layers, n, widths, mirrored, threshold) for n in training.widths
    }
    return State(jnp.int32(0), grids, scales)


def blank(batches: Stream, training: SaeTraining) -> Moment:
    """A moment of the run's shapes, to restore a saved one into."""
    width, out_width = batches.widths
    layers = batches.n_layers
    centre, out_centre = (jnp.zeros((layers, w)) for w in (width, out_width or width))
    scales = Scales(centre, jnp.zeros(layers), out_centre, jnp.zeros(layers))
    return Moment(first_state(batches, training, scales), batches.buffer())


def summary(training: SaeTraining, recent: Sequence[Metrics]) -> list[dict[str, float | str]]:
    """A row for every dictionary: its name, and how it did over some steps.

    `fvu` is the share of the variance that is not reconstructed, `l0` the latents on a token,
    `dead` the share of latents that have long been off.
    """
    rows: list[dict[str, float | str]] = []
    host = jax.device_get(list(recent))
    for width in map(str, training.widths):
        mean = {key: np.mean([m[width][key] for m in host], axis=0) for key in host[0][width]}
        values = {
            "fvu": mean["error"] / mean["variance"],
            "l0": mean["l0"],
            "loss": mean["loss"],
            "dead": np.asarray(host[-1][width]["dead"]),
        }
        names = training.names(int(width))
        for at in np.ndindex(len(names), len(names[0])):
            numbers = {key: float(value[at]) for key, value in values.items()}
            rows.append({"sae": names[at[0]][at[1]], **numbers})
    return rows


def saes(state: State, training: SaeTraining, origin: Origin) -> dict[str, Sae]:
    """Every dictionary of a state by name, for activations as the model has them."""
    found = {}
    for width, grid in state.grids.items():
        names = training.names(int(width))
        for at in np.ndindex(len(names), len(names[0])):
            found[names[at[0]][at[1]]] = finished(training, grid, state.scales, at, origin)
    return found
