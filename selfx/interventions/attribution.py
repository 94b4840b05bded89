"""Attribution patching: every cell of every grid estimated from one backward pass.

The effect of putting a source run's activation in, to first order: the metric's gradient in the
base run times the difference of the two runs (Nanda 2023; Syed et al. 2023, arXiv 2310.10348).
Averaged over runs whose input embeddings go from the source's to the base's, it is EAP-IG's
integrated gradients (Hanna et al. 2024, arXiv 2403.17806). An estimate can be far off where the
model saturates (AtP*, arXiv 2403.00745), so some exact cells are run to say how far.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct

from selfx.errors import SelfxError
from selfx.interventions.attribution_check import Check, compare
from selfx.interventions.cells import UNITS
from selfx.interventions.edits import Edits
from selfx.interventions.metric import Metric, as_tree, check_metric
from selfx.models.decoder import Decoder, check_text, forward
from selfx.models.sites import find
from selfx.models.tap import Address, Array, gather_positions


@struct.dataclass
class Added:
    """`x + values`, slot by slot: what a gradient is taken by.

    Attributes:
      values: float32 `[l, b, t, *feature]`; `l` is 1 at sites outside the layers.
    """

    values: jax.Array

    def __call__(self, x: jax.Array, at: Address) -> jax.Array:
        """The changed `x` `[b, t, *feature]`."""
        layer = at.layer if self.values.shape[0] > 1 else 0
        here = jax.lax.dynamic_index_in_dim(self.values, layer, 0, keepdims=False)
        return x + here.astype(x.dtype)


@struct.dataclass
class Attribution:
    """Estimated effects of patching the source run in.

    Attributes:
      effects: `{site: float32 [b, l, t]}`, or `[b, l, t, units]` at sites with heads or neurons;
        `t` counts real tokens, `l` is 1 outside the layers. 0 where a row has no such position.
      base: float32 `[b]`, the metric of the base run.
      source: float32 `[b]`, the metric of the source run.
      check: the estimates beside exact cells, if asked for.
    """

    effects: dict[str, jax.Array]
    base: jax.Array
    source: jax.Array
    check: Check | None = None


def attribute(
    model: Decoder,
    tokens: Array,
    metric: Metric,
    *,
    source: Array,
    sites: Sequence[str] = ("resid_post",),
    steps: int = 1,
    check: int = 0,
    seed: int = 0,
    mask: Array | None = None,
    source_mask: Array | None = None,
    batch_size: int = 64,
) -> Attribution:
    """The grids that `selfx.sweep` would give for several sites, estimated.

    Without `check` it is pure, and can stand inside jit, vmap and grad.

    Args:
      model: the weights.
      tokens: int `[b, t]`, the base texts.
      metric: as in `selfx.sweep`; it must treat rows apart.
      source: int `[b, t]`, the texts that would be patched in, position for position.
      sites: names in `selfx.models.sites`, all in one backward pass.
      steps: backward passes; more than 1 averages gradients between the source's embeddings and
        the base's, and ends with the base's own.
      check: how many cells, drawn from all grids, to run exactly in every row.
      seed: of the draw.
      mask: bool `[b, t]`, True at real tokens.
      source_mask: the same of `source`.
      batch_size: rows of one exact run.

    Raises:
      SelfxError: an unknown site, steps below 1, texts or a metric that do not fit.
    """
    sites = (sites,) if isinstance(sites, str) else tuple(dict.fromkeys(sites))
    if steps < 1 or not sites:
        raise SelfxError(f"steps={steps}, sites={sites}", expected="at least one of each")
    check_text(tokens, mask)
    check_text(source, source_mask)
    if len(tokens) != len(source):
        raise SelfxError(f"{len(source)} source rows for {len(tokens)} base rows", expected="equal")
    check_metric(metric, len(tokens), model.config.vocab_size)
    for site in sites:
        find(site, model.config)
    _check_source_axes(sites, tokens, source, mask, source_mask)
    texts = [
        (text, jnp.ones(text.shape, bool) if real is None else jnp.asarray(real, bool))
        for text, real in ((tokens, mask), (source, source_mask))
    ]
    found = _estimate(model, as_tree(metric), *texts, sites=sites, steps=steps)
    if not check:
        return found
    several = {"source": source, "mask": mask, "source_mask": source_mask}
    how = {"count": check, "seed": seed, "batch_size": batch_size}
    return found.replace(check=compare(model, tokens, metric, several, found.effects, **how))


Text = tuple[jax.Array, jax.Array]


@functools.partial(jax.jit, static_argnames=("sites", "steps"))
def _estimate(
    model: Decoder,
    metric: Metric,
    base: Text,
    source: Text,
    *,
    sites: tuple[str, ...],
    steps: int,
) -> Attribution:
    (tokens, mask), (others, others_mask) = base, source
    capture = tuple(dict.fromkeys((*sites, "embeddings")))
    here = forward(model, tokens, mask=mask, capture=capture, logits_at=_last(mask))
    there = forward(model, others, mask=others_mask, capture=capture, logits_at=_last(others_mask))
    gaps = {
        site: _gap(site, here.captures[site], there.captures[site], mask, others_mask)
        for site in capture
    }

    def judged(deltas: dict[str, jax.Array], share: jax.Array) -> jax.Array:
        """The metric, summed over rows, with embeddings `share` of the way to the source's."""
        edits = Edits({"embeddings": (Added(share * gaps["embeddings"]),)})
        edits = edits | {site: (Added(delta),) for site, delta in deltas.items()}
        out = forward(model, tokens, mask=mask, edits=edits, logits_at=_last(mask))
        return metric(out.logits[:, 0]).sum()

    def step(total: dict[str, jax.Array], share: jax.Array) -> tuple[dict[str, jax.Array], None]:
        slopes = jax.grad(judged)(jax.tree.map(jnp.zeros_like, total), share)
        return jax.tree.map(jnp.add, total, slopes), None

    zeros = {site: jnp.zeros(gaps[site].shape, jnp.float32) for site in sites}
    shares = 1 - jnp.arange(1, steps + 1, dtype=jnp.float32) / steps
    total, _ = jax.lax.scan(step, zeros, shares)
    effects = {site: _summed(site, total[site] / steps * gaps[site], mask) for site in sites}
    return Attribution(effects, metric(here.logits[:, 0]), metric(there.logits[:, 0]))


def _last(mask: jax.Array) -> jax.Array:
    return mask.sum(axis=1, keepdims=True, dtype=jnp.int32) - 1


def _positions(mask: jax.Array) -> jax.Array:
    return jnp.where(mask, jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1, -1)


def _gap(
    site: str, here: jax.Array, there: jax.Array, mask: jax.Array, others_mask: jax.Array
) -> jax.Array:
    """float32 `[l, b, t, *feature]` by the base's slots: source less base, 0 where either lacks."""
    if not find(site).layered:
        here, there = here[None], there[None]
    wanted = _positions(mask)
    moved = jax.vmap(gather_positions, in_axes=(0, None, None))(
        there, _positions(others_mask), wanted
    )
    known = (wanted >= 0) & (wanted <= _last(others_mask))
    known = known.reshape(*known.shape, *(1,) * (here.ndim - 3))
    return jnp.where(known, moved.astype(jnp.float32) - here.astype(jnp.float32), 0)


def _summed(site: str, product: jax.Array, mask: jax.Array) -> jax.Array:
    """`[b, l, t]` or `[b, l, t, units]` by real position, from `[l, b, t, *feature]` by slot."""
    keep = 4 if find(site).axes[0] in UNITS else 3
    product = product.sum(axis=tuple(range(keep, product.ndim)))
    position = _positions(mask)
    moved = jax.vmap(gather_positions, in_axes=(0, None, None))(
        product, position, jnp.arange(mask.shape[1])
    )
    return moved.swapaxes(0, 1)


def _check_source_axes(
    sites: tuple[str, ...], tokens: Array, source: Array, *masks: Array | None
) -> None:
    """Raises SelfxError where attention sites of the two runs would not line up."""
    alike = tokens.shape == source.shape and all(mask is None for mask in masks)
    wrong = [site for site in sites if "s" in find(site).axes and not alike]
    if wrong:
        raise SelfxError(
            f"{wrong[0]!r} of texts {list(tokens.shape)} and {list(source.shape)}, or padded",
            expected="texts of one length without a mask: its last axis counts slots",
            hint="run texts of each length by themselves",
        )
