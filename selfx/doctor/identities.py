"""What holds between sites by definition, in float64, with the model's own weights.

These say that a capture shows what the model computes with. Whether the weights and the rules are
the checkpoint's is for `selfx.doctor.stepwise` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from selfx.doctor.compare import Gap, gap, judged, limit, worst
from selfx.doctor.report import Check
from selfx.doctor.trial import Trial, layer_of
from selfx.models.decoder import Decoder

Seen = Mapping[str, np.ndarray]
AXES = ("row", "position")


def identities(trial: Trial) -> Iterator[Check]:
    """A check for each identity, the worst of all layers."""
    seen = {site: x.astype(np.float64) for site, x in trial.captures.items()}
    most = limit(jnp.dtype(trial.model.embed[...].dtype))
    for name, about, each in _IDENTITIES:
        if name.startswith("down") and trial.model.config.experts is not None:
            continue
        gaps = [_at(found, layer) for layer, found in each(trial.model, seen)]
        yield judged(f"identity: {name}", about, worst(gaps), most, f"it is not so that {about}")


Found = Iterator[tuple[int, Gap]]


def _at(found: Gap, layer: int) -> Gap:
    return Gap(found.size, f"layer {layer}, {found.where}") if found.where else found


def _gap(got: np.ndarray, want: np.ndarray, *parts: np.ndarray) -> Gap:
    """How far `got` is from `want`, relative to it or to the largest term of the sum it is."""
    return gap(got, want, AXES, AXES, scale=np.max([np.abs(x) for x in (want, *parts)], axis=0))


def _sum(total: str, one: str, two: str) -> Callable[[Decoder, Seen], Found]:
    def check(model: Decoder, seen: Seen) -> Found:
        for layer in range(model.config.n_layers):
            parts = seen[one][layer], seen[two][layer]
            yield layer, _gap(seen[total][layer], parts[0] + parts[1], *parts)

    return check


def _stream(model: Decoder, seen: Seen) -> Found:
    yield 0, _gap(seen["resid_pre"][0], seen["embeddings"])
    for layer in range(1, model.config.n_layers):
        yield layer, _gap(seen["resid_pre"][layer], seen["resid_post"][layer - 1])


def _mixed(model: Decoder, seen: Seen) -> Found:
    for layer in range(model.config.n_layers):
        probs, value = seen["attn_probs"][layer], seen["value"][layer]
        shared = np.repeat(value, probs.shape[2] // value.shape[2], axis=2)
        yield layer, _gap(seen["z"][layer], np.einsum("bths,bshe->bthe", probs, shared))


def _map(name: str, reads: str, writes: str) -> Callable[[Decoder, Seen], Found]:
    def check(model: Decoder, seen: Seen) -> Found:
        linear = getattr(model.blocks, name)
        for layer in range(model.config.n_layers):
            x = seen[reads][layer]
            want = x.reshape(x.shape[0] * x.shape[1], -1) @ _of(linear.w, layer)
            want = want if linear.b is None else want + _of(linear.b, layer)
            yield layer, _gap(seen[writes][layer], want.reshape(*x.shape[:2], -1))

    return check


def _of(stacked: nnx.Param, layer: int) -> np.ndarray:
    """A layer's weight on the host in float64, and nothing but that."""
    return np.asarray(layer_of(stacked[...], layer), np.float64)


def _head(model: Decoder, seen: Seen) -> Found:
    x, config = seen["resid_post"][-1], model.config
    w = np.asarray(model.final_norm.w[...], np.float64)
    if config.norm == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + config.norm_eps)
    x = x * (1 + w if config.norm == "rms_plus_one" else w)
    if model.final_norm.b is not None:
        x = x + np.asarray(model.final_norm.b[...], np.float64)
    table = model.embed[...].T if model.unembed is None else model.unembed.w[...]
    found = x @ np.asarray(table, np.float64)
    if config.logit_cap is not None:
        found = config.logit_cap * np.tanh(found / config.logit_cap)
    yield config.n_layers - 1, _gap(seen["logits"], found)


_IDENTITIES: tuple[tuple[str, str, Callable[[Decoder, Seen], Found]], ...] = (
    ("stream", "resid_pre is the embeddings, then the resid_post of the layer before", _stream),
    (
        "resid_mid",
        "resid_pre + attn_out_post = resid_mid",
        _sum("resid_mid", "resid_pre", "attn_out_post"),
    ),
    (
        "resid_post",
        "resid_mid + mlp_out_post = resid_post",
        _sum("resid_post", "resid_mid", "mlp_out_post"),
    ),
    ("z", "attn_probs times value is z", _mixed),
    ("o(z)", "the output map over z is attn_out", _map("o", "z", "attn_out")),
    ("down(mlp_act)", "the down map over mlp_act is mlp_out", _map("down", "mlp_act", "mlp_out")),
    ("head", "the last residual, normed and mapped, is the logits", _head),
)
