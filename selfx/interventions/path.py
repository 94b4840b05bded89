"""Path patching: what some components send to some others directly, and through nothing else.

Wang et al. 2022 (arXiv 2211.00593), Goldowsky-Dill et al. 2023 (arXiv 2304.05969). Four runs: the
source text; the base text; the base text with what the senders had in the source run and with every
frozen component held at what it had in the base run, so that a change travels only by the residual
stream; and the base text once more, with what the receivers then had and nothing else changed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from selfx.errors import SelfxError
from selfx.interventions.edits import Edits
from selfx.interventions.recorded import replay
from selfx.interventions.select import check_numbers, layer_lists, position_lists
from selfx.models.config import Config
from selfx.models.decoder import Decoder, Output, check_text, forward
from selfx.models.sites import find
from selfx.models.tap import Array, check_outside_layers

FROZEN = {"attention": "z", "mlp": "mlp_out"}
"""Where a component is held: the last place before what it adds to the residual is fixed."""

_BEFORE = {
    "attention": ("attn_in", "query", "key", "value", "attn_scores", "attn_probs"),
    "mlp": ("mlp_in", "router_logits", "mlp_pre", "mlp_act"),
}
_AFTER = {
    "attention": ("z", "attn_out", "attn_out_post"),
    "mlp": ("mlp_out", "mlp_out_post"),
}


@struct.dataclass
class Place:
    """Some layers, positions and heads of a site: a sender, or a receiver.

    Attributes:
      site: a name in `selfx.models.sites`.
      layers: as in `selfx.replay`; None is every layer.
      positions: as in `selfx.replay`; None is every position.
      part: as in `selfx.replay`; for head 3 of 12 `np.arange(12)[:, None] == 3`.
    """

    site: str = struct.field(pytree_node=False)
    layers: Any = None
    positions: Any = None
    part: Any = None


Places = Place | Sequence[Place]


def path_patch(
    model: Decoder,
    tokens: Array,
    source: Array,
    *,
    senders: Places,
    receivers: Places = (),
    freeze: Iterable[str] = ("attention", "mlp"),
    mask: Array | None = None,
    source_mask: Array | None = None,
    logits_at: Array | None = None,
) -> Output:
    """The base run, changed by what the senders send to the receivers from the source run.

    Args:
      model: the weights.
      tokens: int `[b, t]`, the base texts.
      source: int `[b, t]`, the source texts, position for position.
      senders: where the source run is put in. Senders within a frozen component must be at its
        output: `z`, `attn_out`, `mlp_out`; the residual sites and `embeddings` always can be.
      receivers: what takes it up, at what it reads: `query`, `key`, `value`, `attn_in`, `mlp_in`,
        a residual site; none is the logits.
      freeze: components held at their base values between them: `attention`, `mlp`, both (only
        the residual stream carries the change) or neither.
      mask: bool `[b, t]`, True at real tokens.
      source_mask: the same of `source`.
      logits_at: as in `selfx.forward`.

    Raises:
      SelfxError: no senders; a site that is frozen over; layers that the model does not have.
    """
    check_text(tokens, mask)
    check_text(source, source_mask)
    width = min(np.shape(tokens)[-1], np.shape(source)[-1])
    senders, receivers, freeze = _checked(model, width, senders, receivers, freeze)
    texts = (tokens, mask, source, source_mask)
    out = _third_run(model, *texts, senders, receivers, logits_at, freeze=freeze)
    if not receivers:
        return Output(out.logits, {})
    return _last_run(model, tokens, mask, _taken_up(out, receivers, mask), logits_at)


def path_edits(
    model: Decoder,
    tokens: Array,
    source: Array,
    *,
    senders: Places,
    receivers: Places,
    freeze: Iterable[str] = ("attention", "mlp"),
    mask: Array | None = None,
    source_mask: Array | None = None,
) -> Edits:
    """What the receivers had in the third run of `path_patch`, as edits of the base run.

    For `selfx.generate`, for captures of the last run, or to add to other edits; arguments as in
    `path_patch`.

    Raises:
      SelfxError: as in `path_patch`; no receivers.
    """
    check_text(tokens, mask)
    check_text(source, source_mask)
    width = min(np.shape(tokens)[-1], np.shape(source)[-1])
    senders, receivers, freeze = _checked(model, width, senders, receivers, freeze)
    if not receivers:
        raise SelfxError("no receivers", expected="at least one Place(site, ...)")
    texts = (tokens, mask, source, source_mask)
    out = _third_run(model, *texts, senders, receivers, None, freeze=freeze)
    return _taken_up(out, receivers, mask)


@functools.partial(jax.jit, static_argnames="freeze")
def _third_run(
    model: Decoder,
    tokens: jax.Array,
    mask: jax.Array | None,
    source: jax.Array,
    source_mask: jax.Array | None,
    senders: tuple[Place, ...],
    receivers: tuple[Place, ...],
    logits_at: jax.Array | None,
    *,
    freeze: tuple[str, ...],
) -> Output:
    """The base run with senders from the source run and the frozen held; receivers captured."""
    sent = forward(model, source, mask=source_mask, capture=_sites(senders)).captures
    held = tuple(FROZEN[name] for name in freeze)
    base = forward(model, tokens, mask=mask, capture=held).captures if held else {}
    edits = Edits()
    for site in held:
        edits = edits | replay(site, base[site], mask=mask)
    for place in senders:  # after what is held, so that a sender may be one of them
        edits = edits | _replay(place, sent[place.site], source_mask)
    return forward(
        model, tokens, mask=mask, edits=edits, capture=_sites(receivers), logits_at=logits_at
    )


@jax.jit
def _last_run(
    model: Decoder,
    tokens: jax.Array,
    mask: jax.Array | None,
    edits: Edits,
    logits_at: jax.Array | None,
) -> Output:
    return forward(model, tokens, mask=mask, edits=edits, logits_at=logits_at)


def _taken_up(out: Output, receivers: tuple[Place, ...], mask: Array | None) -> Edits:
    edits = Edits()
    for place in receivers:
        edits = edits | _replay(place, out.captures[place.site], mask)
    return edits


def _replay(place: Place, values: jax.Array, mask: Array | None) -> Edits:
    where = {"layers": place.layers, "positions": place.positions, "part": place.part}
    return replay(place.site, values, mask=mask, **where)


def _sites(places: tuple[Place, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(place.site for place in places))


def _checked(
    model: Decoder, width: int, senders: Places, receivers: Places, freeze: Iterable[str]
) -> tuple[tuple[Place, ...], tuple[Place, ...], tuple[str, ...]]:
    """The three as tuples; raises SelfxError where they cannot be meant."""
    senders = (senders,) if isinstance(senders, Place) else tuple(senders)
    receivers = (receivers,) if isinstance(receivers, Place) else tuple(receivers)
    freeze = (freeze,) if isinstance(freeze, str) else tuple(dict.fromkeys(freeze))
    unknown = [name for name in freeze if name not in FROZEN]
    if unknown:
        raise SelfxError(f"freeze={unknown[0]!r}", expected=f"among {', '.join(FROZEN)}")
    if not senders:
        raise SelfxError("no senders", expected="at least one Place(site, ...)")
    for place in senders:
        _check_open(place, "sender", _BEFORE, _AFTER, freeze)
    for place in receivers:
        _check_open(place, "receiver", _AFTER, _BEFORE, freeze)
    arrays = [
        tuple(_canonical(place, model.config, width) for place in places)
        for places in (senders, receivers)
    ]
    return arrays[0], arrays[1], freeze


def _check_open(
    place: Place,
    role: str,
    hidden: dict[str, tuple[str, ...]],
    open_: dict[str, tuple[str, ...]],
    freeze: tuple[str, ...],
) -> None:
    """Raises SelfxError for a site that is frozen over."""
    for name in freeze:
        if find(place.site).name in hidden[name]:
            raise SelfxError(
                f"a {role} at {place.site!r} while {name} is frozen at {FROZEN[name]!r}",
                expected=f"one of {', '.join(open_[name])}, or a residual site",
                hint=f"or leave {name!r} out of freeze=",
            )


def _canonical(place: Place, config: Config, width: int) -> Place:
    """The same place in arrays; raises SelfxError for layers and positions that are not there."""
    layers, positions = place.layers, place.positions
    if layers is not None:
        check_outside_layers(find(place.site))
        layers = layer_lists(layers)
        check_numbers(layers, config.n_layers, "layer")
    if positions is not None:
        positions = position_lists(positions)
        check_numbers(positions, width, "position")
    part = None if place.part is None else jnp.asarray(place.part, bool)
    return Place(place.site, layers, positions, part)
