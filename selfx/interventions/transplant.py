"""A hidden state carried into another prompt, or another model, which then says what it reads.

Patchscopes (Ghandeharioun et al. 2024, arXiv 2401.06102): source text, layer and position; a map;
target prompt, layer and position.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from selfx.errors import SelfxError
from selfx.interventions.build import patch
from selfx.interventions.edits import Edits
from selfx.models.decoder import Decoder, check_text, forward
from selfx.models.generate import Generated, generate
from selfx.models.sites import find
from selfx.models.tap import Array, At, check_layers


@struct.dataclass
class LinearMap:
    """`x @ w + b`, from the residual of one model to that of another.

    Attributes:
      w: `[d of the source, d of the target]`.
      b: `[d of the target]`, or 0.
    """

    w: jax.Array
    b: jax.Array | float = 0.0

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, d of the target]` for `[b, d of the source]`."""
        return jnp.matmul(x, self.w, precision=jax.lax.Precision.HIGHEST) + self.b


def read_state(
    model: Decoder,
    tokens: Array,
    *,
    layer: Any,
    position: Any,
    mask: Array | None = None,
    site: str = "resid_post",
) -> jax.Array:
    """`[b, *feature]`: what each row has at a layer and position.

    Args:
      model: the weights.
      tokens: int `[b, t]`.
      layer: one, or int `[b]` for one in each row.
      position: one, or int `[b]` for one in each row, counting its real tokens.
      mask: bool `[b, t]`, True at real tokens.
      site: a name in `selfx.models.sites`, in the layers.

    Raises:
      SelfxError: a layer or position that is not there.
    """
    check_text(tokens, mask)
    rows, width = tokens.shape
    about = find(site)
    layers, positions = _each(layer, rows, "layer"), _each(position, rows, "position")
    if not isinstance(layers, jax.core.Tracer):
        check_layers(np.unique(layers).tolist(), model.config, about.layered, site)
    if not any(isinstance(x, jax.core.Tracer) for x in (positions, mask)):
        lengths = np.full(rows, width) if mask is None else np.asarray(mask).sum(axis=1)
        wrong = np.flatnonzero((positions < 0) | (positions >= lengths))
        if wrong.size:
            raise SelfxError(
                f"position {positions[wrong[0]]} of row {wrong[0]}",
                expected=f"a position from 0 to {lengths[wrong[0]] - 1}",
            )
    return _read(model, tokens, mask, jnp.asarray(layers), jnp.asarray(positions), site=site)


def transplant(
    state: Any,
    model: Decoder,
    *,
    layer: Any,
    position: Any,
    map: LinearMap | None = None,
    site: str = "resid_post",
) -> Edits:
    """An edit that puts a state, mapped, into a run of `model`.

    Args:
      state: `[b, d]`, of `read_state` with this model or another.
      model: the weights that the edit is for.
      layer: where to put it: one layer, or int `[b]` for one in each row.
      position: one, or int `[b]`.
      map: from the width of the source to that of the target; None leaves it as it is.
      site: a name in `selfx.models.sites`, in the layers.

    Raises:
      SelfxError: widths that do not fit, a layer that is not there.
    """
    state = jnp.asarray(state)
    wanted = find(site).feature_shape(model.config)
    if map is not None:
        state = _check_map(map, state)(state)
    if state.shape[1:] != wanted:
        raise SelfxError(
            f"a state of shape {list(state.shape)} for {site!r}",
            expected=f"[b, {', '.join(str(size) for size in wanted)}]",
            hint="between models of different width: map=LinearMap(w), w of [d_source, d_target]",
        )
    layers = layer if np.ndim(layer) == 0 else _column(layer)
    return patch(site, state, layers=layers, positions=position)


def patchscope(
    model: Decoder,
    source: Array,
    prompt: Array,
    *,
    source_layer: Any,
    source_position: Any,
    layer: Any,
    position: Any,
    max_new_tokens: int,
    map: LinearMap | None = None,
    reader: Decoder | None = None,
    source_mask: Array | None = None,
    mask: Array | None = None,
    end_ids: Sequence[int] = (),
    site: str = "resid_post",
    **settings: Any,
) -> Generated:
    """What a model writes after a prompt in which one state is that of another text.

    Args:
      model: of the source texts.
      source: int `[b, t]`, the texts whose states are read.
      prompt: int `[b, t]`, or `[1, t]` for all, such as "cat -> cat; 135 -> 135; hello -> ?".
      source_layer: where to read: one, or int `[b]` for one in each row.
      source_position: likewise.
      layer: where to write, in the prompt: one, or int `[b]`.
      position: likewise.
      max_new_tokens: the limit.
      map: from state to state; needed where the two models differ in width.
      reader: the model that reads the prompt, if another.
      source_mask: bool, the real tokens of `source`.
      mask: bool, the real tokens of `prompt`.
      end_ids: tokens that end a row.
      site: a name in `selfx.models.sites`, in the layers.
      **settings: of `selfx.generate`.

    Raises:
      SelfxError: a layer or position that is not there, widths or rows that do not fit.
    """
    reader = model if reader is None else reader
    state = read_state(
        model, source, layer=source_layer, position=source_position, mask=source_mask, site=site
    )
    prompt = _rows(prompt, len(state))
    mask = None if mask is None else _rows(mask, len(state))
    edits = transplant(state, reader, layer=layer, position=position, map=map, site=site)
    settings = {"max_new_tokens": max_new_tokens, "end_ids": end_ids, **settings}
    return generate(reader, prompt, mask=mask, edits=edits, **settings)


@functools.partial(jax.jit, static_argnames="site")
def _read(
    model: Decoder,
    tokens: jax.Array,
    mask: jax.Array | None,
    layers: jax.Array,
    positions: jax.Array,
    *,
    site: str,
) -> jax.Array:
    first = jnp.zeros((tokens.shape[0], 1), jnp.int32)
    capture = {site: At(positions[:, None])}
    seen = forward(model, tokens, mask=mask, capture=capture, logits_at=first).captures[site]
    return seen[layers, jnp.arange(tokens.shape[0]), 0]


def _check_map(map: LinearMap, state: jax.Array) -> LinearMap:
    shape = jnp.shape(map.w)
    if len(shape) != 2 or shape[0] != state.shape[-1] or jnp.shape(map.b) not in ((), shape[1:]):
        raise SelfxError(
            f"a map of shape {list(shape)} with a bias of {list(jnp.shape(map.b))} for states of "
            f"width {state.shape[-1]}",
            expected="[d_source, d_target] and [d_target]",
            hint="transpose it" if shape[-1:] == state.shape[-1:] else "",
        )
    return map


def _each(number: Any, rows: int, what: str) -> Array:
    """int32 `[b]`."""
    number = number if isinstance(number, jax.Array) else np.asarray(number, np.int32)
    if number.shape not in ((), (1,), (rows,)):
        raise SelfxError(f"a {what} of shape {list(number.shape)}", expected=f"1 or {rows} of them")
    xp = jnp if isinstance(number, jax.Array) else np
    return xp.broadcast_to(number.reshape(-1), (rows,))


def _column(numbers: Any) -> Array:
    return (jnp if isinstance(numbers, jax.Array) else np).asarray(numbers)[:, None]


def _rows(array: Array, rows: int) -> Array:
    """`[b, t]`: the one row for all, or as it is."""
    if array.shape[0] not in (1, rows):
        raise SelfxError(f"{array.shape[0]} prompts for {rows} states", expected=f"1 or {rows}")
    return array if array.shape[0] == rows else jnp.repeat(jnp.asarray(array), rows, axis=0)
