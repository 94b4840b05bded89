"""What adds up over a text while a dictionary runs beside its model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from selfx.features.dictionaries.sae import Sae, decode, encode
from selfx.features.dictionaries.splice import Put
from selfx.interventions.edits import Edits
from selfx.models.decoder import Decoder, forward
from selfx.models.sites import find
from selfx.models.tap import Array, At


@struct.dataclass
class Sums:
    """Of some texts, what adds up.

    Attributes:
      tokens: how many count.
      predicted: how many of them are followed by another.
      on: latents on.
      fired: `[n]`, at how many tokens each latent is on.
      error: the squared error.
      deviation: `[d]`, of the activation from the decoder's bias: sums about a place in their
        midst lose fewer digits.
      square: of its square.
      losses: `[3]`, of the model as it is, with the reconstruction, with zeros.
      length: of activations.
      starts: how many first tokens there are, counted or not.
      start_length: of their activations.
      start_on: latents on at them.
    """

    tokens: jax.Array
    predicted: jax.Array
    on: jax.Array
    fired: jax.Array
    error: jax.Array
    deviation: jax.Array
    square: jax.Array
    losses: jax.Array
    length: jax.Array
    starts: jax.Array
    start_length: jax.Array
    start_on: jax.Array


@jax.jit
def measured(model: Decoder, sae: Sae, tokens: Array, mask: Array, first: int) -> Sums:
    """The sums of one batch, tokens and mask `[b, t]`, from position `first` on."""
    one = At(layers=(sae.layer,) if find(sae.site).layered else None)
    out = forward(model, tokens, mask=mask, capture={sae.site: one, sae.target: one})
    x, y = (_flat(out.captures[site], tokens) for site in (sae.site, sae.target))
    position = jnp.where(mask, jnp.cumsum(mask, axis=1) - 1, -1)
    counted, start = position >= first, position == 0
    f = encode(sae, x)
    guess = decode(sae, f, x)
    away = jnp.where(counted[..., None], y - sae.b_dec, 0.0)
    on = (f > 0) & counted[..., None]
    length = jnp.linalg.norm(x, axis=-1)
    predicted = counted[:, :-1] & mask[:, 1:]
    logits = [out.logits, *_swapped(model, sae, tokens, mask, guess, first)]
    return Sums(
        tokens=counted.sum(),
        predicted=predicted.sum(),
        on=on.sum(),
        fired=on.sum(axis=(0, 1)),
        error=jnp.where(counted[..., None], jnp.square(y - guess), 0.0).sum(),
        deviation=away.sum(axis=(0, 1)),
        square=jnp.square(away).sum(),
        losses=jnp.stack([_loss(each, tokens, predicted) for each in logits]),
        length=jnp.where(counted, length, 0.0).sum(),
        starts=start.sum(),
        start_length=jnp.where(start, length, 0.0).sum(),
        start_on=((f > 0) & start[..., None]).sum(),
    )


def _flat(capture: jax.Array, tokens: Array) -> jax.Array:
    """float32 `[b, t, d]`: the one layer that was captured, heads side by side."""
    return capture.reshape(*tokens.shape, -1).astype(jnp.float32)


def _swapped(
    model: Decoder, sae: Sae, tokens: Array, mask: Array, guess: jax.Array, first: int
) -> list[jax.Array]:
    """Logits with the reconstruction, and with zeros, in the activation's place."""
    feature = find(sae.target).feature_shape(model.config)
    values = guess.reshape(*tokens.shape, *feature)
    values = jnp.concatenate([values, jnp.zeros_like(values)])  # both in one pass
    put = Put(values, jnp.asarray(sae.layer, jnp.int32), jnp.asarray(first))
    rows, real = (jnp.concatenate([each, each]) for each in (tokens, mask))
    logits = forward(model, rows, mask=real, edits=Edits({sae.target: (put,)})).logits
    return jnp.split(logits, 2)


def _loss(logits: jax.Array, tokens: Array, predicted: jax.Array) -> jax.Array:
    """The sum of nats over the tokens that stand after those in `predicted` `[b, t-1]`."""
    each = jax.nn.log_softmax(logits[:, :-1].astype(jnp.float32))
    nats = -jnp.take_along_axis(each, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.where(predicted, nats, 0.0).sum()
