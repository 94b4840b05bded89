"""The likeliest continuations rather than the greedy one: a beam search in one compiled loop.

Greedy writing commits to a first word before it knows what must follow. Where an answer opens with
a verdict and ends in a word, the likeliest answer may open otherwise than the likeliest verdict.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import struct

from selfx.errors import SelfxError
from selfx.models import cache as caches
from selfx.models.cache import Cache
from selfx.models.decoder import Decoder, check_length, check_text, forward, with_layers
from selfx.models.generate import prefill
from selfx.models.layers import Adapter
from selfx.models.stack import Apart
from selfx.models.tap import Array, Edits, check_edits


@struct.dataclass
class Beams:
    """Continuations of every row, the likeliest first.

    Attributes:
      tokens: int32 `[b, k, n]`; from a continuation's end token on, -1.
      log_probabilities: float32 `[b, k]`, summed over its tokens and its end.
      ended: bool `[b, k]`; the others were cut, where the likeliest ended or at the limit.
    """

    tokens: jax.Array
    log_probabilities: jax.Array
    ended: jax.Array


@struct.dataclass
class _State:
    """What the loop carries; `token` `[b, k]` is the last one written, -1 in beams that ended."""

    step: jax.Array
    token: jax.Array
    found: Beams
    cache: Cache


def beams(
    model: Decoder,
    tokens: Array,
    *,
    width: int,
    max_new_tokens: int,
    mask: Array | None = None,
    edits: Edits | None = None,
    lora: Mapping[str, Adapter] | None = None,
    end_ids: Sequence[int] = (),
    layers: Apart | None = None,
) -> Beams:
    """Writes `width` continuations of every row at once and keeps the likeliest.

    A continuation that has ended stays among them until likelier ones push it out; being short is
    not made up for. It stops when the likeliest of every row has ended, since others only get less
    likely.

    Args:
      model: the weights.
      tokens: int `[b, t]`, padded on either side.
      width: how many, at least 1; of 1 it is the greedy continuation.
      max_new_tokens: the limit, at least 1.
      mask: bool `[b, t]`, True at real tokens.
      edits: as in `forward`, of the text; what is written goes on unedited.
      lora: as in `forward`.
      end_ids: tokens that end a continuation.
      layers: `selfx.apart(model)`, to write tokens faster on CPU for twice the memory.

    Raises:
      SelfxError: a width or a limit below 1, or wider than the vocabulary.
    """
    if not 1 <= width <= model.embed.shape[0]:
        raise SelfxError(f"{width} beams", expected="1 or more, not more than there are tokens")
    if max_new_tokens < 1:
        raise SelfxError(f"max_new_tokens={max_new_tokens}", expected="at least 1")
    check_text(tokens, mask)
    check_length(model.config, tokens, mask, max_new_tokens - 1)
    check_edits(edits or {}, model.config, *tokens.shape)
    return _search(
        model,
        tokens,
        jnp.ones(tokens.shape, bool) if mask is None else jnp.asarray(mask, bool),
        edits,
        lora,
        jnp.asarray(list(end_ids) or [-1], jnp.int32),
        layers,
        width=width,
        limit=max_new_tokens,
    )


@functools.partial(jax.jit, static_argnames=("width", "limit"))
def _search(
    model: Decoder,
    tokens: jax.Array,
    mask: jax.Array,
    edits: Edits | None,
    lora: Mapping[str, Adapter] | None,
    end_ids: jax.Array,
    layers: Apart | None,
    *,
    width: int,
    limit: int,
) -> Beams:
    rows, text = tokens.shape
    writer = model if layers is None else with_layers(model, layers)

    def write(state: _State, logits: jax.Array) -> _State:
        """The state with one more token in every beam that has not ended."""
        found, token, parents = _best(state.found, logits, state.step, end_ids)
        flat = (jnp.arange(rows)[:, None] * width + parents).reshape(-1)
        return _State(state.step + 1, token, found, caches.reordered(state.cache, flat, text))

    def advance(state: _State) -> _State:
        real = ~state.found.ended.reshape(-1, 1)
        last = jnp.maximum(state.token, 0).reshape(-1, 1)
        out = forward(writer, last, mask=real, cache=state.cache, lora=lora)
        assert out.cache is not None
        logits = out.logits[:, 0].reshape(rows, width, -1)
        return write(_State(state.step, state.token, state.found, out.cache), logits)

    def unfinished(state: _State) -> jax.Array:
        return (state.step < limit) & ~state.found.ended[:, 0].all()

    run = functools.partial(forward, edits=edits, lora=lora)
    out = prefill(run, model, tokens, mask, text + limit - 1)
    assert out.cache is not None
    cache = out.cache if layers is None else caches.apart(out.cache, model.config.n_layers)
    start = _State(
        jnp.int32(0),
        jnp.full((rows, width), -1, jnp.int32),
        Beams(
            jnp.full((rows, width, limit), -1, jnp.int32),
            jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf) * jnp.ones((rows, 1)),
            jnp.zeros((rows, width), bool),
        ),
        caches.repeated(cache, width),
    )
    start = write(start, jnp.repeat(out.logits, width, axis=1))
    return jax.lax.while_loop(unfinished, advance, start).found


def _best(
    found: Beams, logits: jax.Array, step: jax.Array, end_ids: jax.Array
) -> tuple[Beams, jax.Array, jax.Array]:
    """The likeliest of all beams with one more token; that token, and which beam each comes from,
    both int32 `[b, k]`. A beam that has ended goes on as it is."""
    rows, width, _ = logits.shape
    scores, choices = _likeliest(jax.nn.log_softmax(logits.astype(jnp.float32)), width)
    as_it_is = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf)
    scores = jnp.where(found.ended[..., None], as_it_is, scores)
    total = (found.log_probabilities[..., None] + scores).reshape(rows, -1)
    total, places = jax.lax.top_k(total, width)
    parents = places // width
    token = jnp.take_along_axis(choices.reshape(rows, -1), places, axis=1)
    # A row whose likeliest has ended is done, whatever the rows beside it still write.
    done = found.ended[:, :1]
    parents = jnp.where(done, jnp.arange(width), parents)
    total = jnp.where(done, found.log_probabilities, total)
    over = jnp.take_along_axis(found.ended, parents, axis=1) | done
    ends = jnp.isin(token, end_ids)
    token = jnp.where(over | ends, -1, token).astype(jnp.int32)
    ended = jnp.where(done, found.ended, over | ends)
    tokens = jnp.take_along_axis(found.tokens, parents[..., None], axis=1)
    return Beams(tokens.at[:, :, step].set(token), total, ended), token, parents


def _likeliest(scores: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The highest `count` of scores `[..., v]` and their places; a sort of all costs much more."""

    def take(left: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        place = left.argmax(axis=-1)
        score = jnp.take_along_axis(left, place[..., None], axis=-1)[..., 0]
        here = jnp.arange(left.shape[-1]) == place[..., None]
        return jnp.where(here, -jnp.inf, left), (score, place)

    _, (best, places) = jax.lax.scan(take, scores, None, length=count)
    return jnp.moveaxis(best, 0, -1), jnp.moveaxis(places, 0, -1)
