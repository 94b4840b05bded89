"""Which tokens a feature's output raises, read by the model's own head (the logit lens)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from selfx.errors import SelfxError
from selfx.features.descriptions.candidates import quotable
from selfx.features.exemplars.excerpts import Pieces
from selfx.models.decoder import Decoder, read_out
from selfx.models.tap import Array


def promoted_tokens(model: Decoder, outputs: Array, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """int32 `[n, k]` and `[n, k]`: the tokens whose logits rise most, and those that fall most.

    Final norm and unembedding of the direction alone, less what they give for no direction. No
    layer in between is run: of a late layer this is what it writes, of an early one a guess.

    Args:
      model: the weights.
      outputs: `[n, d]`, what each feature writes to the residual stream: decoder rows, say.
      k: how many tokens.

    Raises:
      SelfxError: directions of another width.
    """
    outputs = jnp.asarray(outputs, jnp.float32)
    if outputs.ndim != 2 or outputs.shape[1] != model.config.d_model:
        raise SelfxError(
            f"output directions of shape {list(outputs.shape)}",
            expected=f"[n, {model.config.d_model}], what the residual stream is wide",
        )
    parts = [_extremes(model, outputs[at : at + 64], k) for at in range(0, len(outputs), 64)]
    high, low = zip(*parts, strict=True) if parts else ([np.zeros((0, k), np.int32)],) * 2
    return np.concatenate(high), np.concatenate(low)


def named(pieces: Pieces, ids: Sequence[int], most: int = 4) -> tuple[str, ...]:
    """The texts of the first tokens that can be quoted, each once."""
    texts = (text.strip() for text in pieces(ids))
    return tuple(dict.fromkeys(text for text in texts if quotable(text)))[:most]


def _extremes(model: Decoder, outputs: jax.Array, k: int) -> tuple[np.ndarray, np.ndarray]:
    high, low = _ranked(model, outputs, k)
    return np.asarray(high), np.asarray(low)


def _ranked(model: Decoder, outputs: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    logits = read_out(model, outputs) - read_out(model, jnp.zeros_like(outputs[:1]))
    return jax.lax.top_k(logits, k)[1], jax.lax.top_k(-logits, k)[1]
