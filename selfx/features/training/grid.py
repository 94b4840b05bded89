"""Many dictionaries trained at once: one step over layers, widths, sizes, rates, seeds.

Dictionaries of one width are stacked, `[l, m, ...]`, `l` layers and `m` members that differ in
`k`, rate and seed, and run under two `vmap`s; all members of a layer read the same activations.
Different widths are different arrays in the same programs. Whichever others are trained beside it,
a dictionary comes out the same but for rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.custom_batching import sequential_vmap

from selfx.features.training.objective import Objective, Seen, Weights, loss, row_sums, start, unit
from selfx.features.training.stream import Buffer

BETAS, EPS = (0.9, 0.999), 6.25e-10  # Adam's, as Gao et al. set them: slopes are small


@struct.dataclass
class Scales:
    """What is taken off and divided by before training, for each layer; undone when saved.

    Attributes:
      centre: `[l, d]`, the geometric median of what is read.
      scale: `[l]`, its deviation from there, root mean square over coordinates.
      out_centre, out_scale: the same of what is given.
    """

    centre: jax.Array
    scale: jax.Array
    out_centre: jax.Array
    out_scale: jax.Array

    def __call__(self, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`x` and `y` `[l, b, d]`, centred and scaled; one array if they are one."""
        scaled = (x - self.centre[:, None]) / self.scale[:, None, None]
        if y is x:
            return scaled, scaled
        return scaled, (y - self.out_centre[:, None]) / self.out_scale[:, None, None]


@struct.dataclass
class Members:
    """What tells dictionaries of one layer and width apart, `[m]` each.

    Attributes:
      k: int32, latents a token.
      rate: the highest learning rate.
      seed: int32.
    """

    k: jax.Array
    rate: jax.Array
    seed: jax.Array


@struct.dataclass
class Grid:
    """The dictionaries of one width; every array begins `[l, m]`.

    Attributes:
      weights: of each.
      moments: Adam's running means of gradients and of their squares.
      quiet: int32 `[l, m, n]`, tokens since a latent was last on.
      floor: `[l, m]`, the running mean of a batch's smallest value let through.
    """

    weights: Weights
    moments: tuple[Weights, Weights]
    quiet: jax.Array
    floor: jax.Array


@struct.dataclass
class State:
    """All that training changes.

    Attributes:
      step: int32, steps taken.
      grids: by width.
      scales: set at the first step.
    """

    step: jax.Array
    grids: dict[str, Grid]
    scales: Scales


Metrics = dict[str, dict[str, jax.Array]]


def measure(x: jax.Array, y: jax.Array) -> Scales:
    """The scales of activations `x` and `y` `[l, b, d]`."""
    centre, out_centre = jax.vmap(geometric_median)(x), jax.vmap(geometric_median)(y)

    def deviation(x: jax.Array, centre: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.square(x - centre[:, None]).mean(axis=(1, 2)))

    return Scales(centre, deviation(x, centre), out_centre, deviation(y, out_centre))


def geometric_median(x: jax.Array, steps: int = 20) -> jax.Array:
    """The point `[d]` of least summed distance to the rows of `x` `[b, d]`, by Weiszfeld's steps.

    Unlike the mean, a few tokens of huge norm do not move it far.
    """

    def closer(_: int, point: jax.Array) -> jax.Array:
        weight = 1 / jnp.maximum(jnp.linalg.norm(x - point, axis=1), 1e-6)
        return weight @ x / weight.sum()

    return jax.lax.fori_loop(0, steps, closer, x.mean(axis=0))


def init_grid(
    members: Members,
    n_layers: int,
    n: int,
    widths: tuple[int, int],
    mirrored: bool,
    threshold: float | None,
) -> Grid:
    """The dictionaries before the first step.

    Args:
      members: of each layer.
      n_layers: how many layers.
      n: latents of each.
      widths: of what is read, and of what is given.
      mirrored: whether these are the same thing.
      threshold: where `jumprelu` starts; None for the other kinds.
    """

    def one(layer: jax.Array, seed: jax.Array) -> Weights:
        key = jax.random.fold_in(jax.random.key(seed), layer)
        weights = start(key, n, *widths, mirrored)
        full = None if threshold is None else jnp.full(n, threshold, jnp.float32)
        return dataclasses.replace(weights, threshold=full)

    over = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    weights = over(jnp.arange(n_layers), members.seed)
    shape = (n_layers, len(members.seed))
    moments = tuple(jax.tree.map(jnp.zeros_like, weights) for _ in BETAS)
    return Grid(weights, moments, jnp.zeros((*shape, n), jnp.int32), jnp.zeros(shape))


Step = Callable[[State, Members, Buffer, jax.Array], tuple[State, Metrics]]
Found = tuple[tuple[jax.Array, Seen], Weights]  # losses, what was seen, gradients


def make_step(objective: Objective, k_max: int, dead_after: int, schedule: optax.Schedule) -> Step:
    """The compiled `step(state, members, buffer, places) -> (state, metrics by width)`.

    The state's memory is reused. Metrics are `[l, m]`: `loss`, `error` and `variance` (sums of
    squares), `l0`, `dead` (a share). Gradients are a program of their own: memory for results is
    kept from step to step, memory within a program the system may hand out anew, page by page.

    Args:
      objective: the settings of the loss.
      k_max: static, the largest `k` of any member.
      dead_after: tokens without being on after which a latent counts as dead.
      schedule: what rates are multiplied by at each step.
    """

    look = jax.jit(partial(_look, objective=objective, k_max=k_max, dead_after=dead_after))
    move = jax.jit(partial(_move, dead_after=dead_after, schedule=schedule), donate_argnums=0)

    def step(
        state: State, members: Members, buffer: Buffer, places: jax.Array
    ) -> tuple[State, Metrics]:
        return move(state, members, places, look(state, members, buffer, places))

    return step


def _look(
    state: State,
    members: Members,
    buffer: Buffer,
    places: jax.Array,
    objective: Objective,
    k_max: int,
    dead_after: int,
) -> dict[str, Found]:
    """What a batch says about the dictionaries of each width."""
    x, y = state.scales(*buffer.take(places))
    return {
        width: _slopes(grid, grid.quiet >= dead_after, members.k, x, y, objective, k_max)
        for width, grid in state.grids.items()
    }


def _move(
    state: State,
    members: Members,
    places: jax.Array,
    found: dict[str, Found],
    dead_after: int,
    schedule: optax.Schedule,
) -> tuple[State, Metrics]:
    """The state after a step, and the metrics."""
    rates, eps = _adam(schedule(state.step) * members.rate, state.step)
    update = jax.vmap(jax.vmap(_update, (0, 0, 0, 0, None)), (0, 0, 0, None, None))
    grids, metrics = {}, {}
    for width, grid in state.grids.items():
        (total, seen), grads = found[width]
        weights, moments = update(grid.weights, grads, grid.moments, rates, eps)
        quiet = jnp.where(seen.fired, 0, jnp.minimum(grid.quiet, 2**30) + len(places))
        floor = _running(grid.floor, seen.floor, state.step)
        grids[width] = Grid(weights, moments, quiet, floor)
        metrics[width] = {
            "loss": total,
            "error": seen.error,
            "variance": seen.variance,
            "l0": seen.on / len(places),
            "dead": (grid.quiet >= dead_after).mean(axis=-1),
        }
    return State(state.step + 1, grids, state.scales), metrics


def _slopes(
    grid: Grid,
    dead: jax.Array,
    k: jax.Array,
    x: jax.Array,
    y: jax.Array,
    objective: Objective,
    k_max: int,
) -> Found:
    """Losses `[l, m]`, what was seen, and gradients."""

    def slopes(revive: bool) -> Callable[..., Found]:
        own = partial(loss, objective=objective, k_max=k_max, revive=revive)
        one = in_turns(jax.value_and_grad(own, has_aux=True))
        return jax.vmap(jax.vmap(one, (0, 0, 0, None, None)), (0, 0, None, 0, 0))

    given = (grid.weights, jnp.where(dead, grid.quiet, 0), k, x, y)
    if objective.aux == 0:
        return slopes(False)(*given)
    # Outside of the vmaps a condition is one: while nothing is dead, this costs nothing.
    return jax.lax.cond(dead.any(), slopes(True), slopes(False), *given)


def in_turns(run: Callable[..., Found]) -> Callable[..., Found]:
    """`run`, which on a CPU `vmap` calls again and again instead of stacking what is in it.

    One call alone uses every core, and the next finds the caches and the memory of the last.
    """
    return sequential_vmap(run) if jax.default_backend() == "cpu" else run


def _adam(rates: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Adam's rates and epsilon once the bias of its means is allowed for, as Kingma & Ba give them.

    Numbers rather than arrays as large as the weights (arXiv 1412.6980, end of section 2).
    """
    first, second = (1 - beta ** (step + 1).astype(jnp.float32) for beta in BETAS)
    return rates * jnp.sqrt(second) / first, EPS * jnp.sqrt(second)


def _update(
    weights: Weights,
    grads: Weights,
    moments: tuple[Weights, Weights],
    rate: jax.Array,
    eps: jax.Array,
) -> tuple[Weights, tuple[Weights, Weights]]:
    """One dictionary after a step of Adam; decoder rows move along the sphere and stay on it."""
    along = row_sums(grads.dec * weights.dec)
    grads = dataclasses.replace(grads, dec=grads.dec - along * weights.dec)
    first, second = BETAS
    mean = jax.tree.map(lambda m, g: first * m + (1 - first) * g, moments[0], grads)
    square = jax.tree.map(lambda m, g: second * m + (1 - second) * g * g, moments[1], grads)
    weights = jax.tree.map(
        lambda w, m, s: w - rate * m / (jnp.sqrt(s) + eps), weights, mean, square
    )
    dec = unit(weights.dec)
    threshold = None if weights.threshold is None else jnp.maximum(weights.threshold, 0.0)
    return dataclasses.replace(weights, dec=dec, threshold=threshold), (mean, square)


def _running(old: jax.Array, new: jax.Array, step: jax.Array) -> jax.Array:
    """A running mean over about a hundred steps; a batch in which nothing was on tells nothing."""
    mean = jnp.where(step == 0, new, 0.99 * old + 0.01 * new)
    return jnp.where(jnp.isfinite(new), mean, old)
