"""Every step of a forward pass, recomputed in float64 from what the model had just before it.

Each is a function of the layer's `Spec`, its weights in the checkpoint, and what was captured at
earlier sites `{site: [b, t, ...]}`, so an error shows where it is made and nowhere after. Rows are
texts of one length without padding: the token in slot `i` is at position `i`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from selfx.doctor.parts import ACTIVATIONS, Layer, capped, mixture, normed, softmax
from selfx.doctor.spec import Spec
from selfx.doctor.turning import turned

Seen = Mapping[str, np.ndarray]
Recompute = Callable[[Spec, Layer, Seen], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Step:
    """One site, and how what stands there follows from what stood before.

    Attributes:
      site: where the result stands.
      about: what is recomputed, from what.
      compute: the recomputation, `[b, t, ...]`.
    """

    site: str
    about: str
    compute: Recompute


def embeddings(spec: Spec, layer: Layer, seen: Seen) -> np.ndarray:
    """Rows of the embedding, scaled, and learned positions."""
    tokens = seen["tokens"].astype(int)
    x = spec.embed_scale * layer.rows("embed", tokens)
    if spec.first_place is None:
        return x
    places = np.maximum(spec.first_place + np.arange(tokens.shape[1]), 0)
    return x + layer.rows("places", places)


def _heads(name: str) -> Recompute:
    def compute(spec: Spec, layer: Layer, seen: Seen) -> np.ndarray:
        x = layer.linear(name, seen["attn_in"])
        by_head = x.reshape(*x.shape[:2], -1, spec.d_head)
        if name == "v" or spec.qk_norm is None:
            return by_head
        if spec.qk_norm == "head":
            return normed(spec, layer, f"{name}_norm", by_head)
        return normed(spec, layer, f"{name}_norm", x).reshape(by_head.shape)

    return compute


def scores(spec: Spec, layer: Layer, seen: Seen) -> np.ndarray:
    """Products of turned queries and keys, scaled, then capped."""
    query, key = turned(seen["query"], spec.turn), turned(seen["key"], spec.turn)
    return capped(spec.scale * np.einsum("bthe,bshe->bths", query, _spread(spec, key)), spec.cap)


def probs(spec: Spec, layer: Layer, seen: Seen) -> np.ndarray:
    """The softmax of what a token sees."""
    back = np.subtract.outer(*2 * (np.arange(seen["attn_scores"].shape[1]),))
    visible = back >= 0 if spec.causal else np.full(back.shape, True)
    if spec.window is not None:
        visible = visible & (back < spec.window)
    return softmax(np.where(visible[:, None, :], seen["attn_scores"], -np.inf))


def mixed(spec: Spec, layer: Layer, seen: Seen) -> np.ndarray:
    """Values weighted and summed."""
    return np.einsum("bths,bshe->bthe", seen["attn_probs"], _spread(spec, seen["value"]))


def _spread(spec: Spec, x: np.ndarray) -> np.ndarray:
    """Keys or values `[b, s, k, e]`, one for every query head."""
    heads, groups = np.arange(spec.heads), spec.kv_heads
    own = heads // (spec.heads // groups) if spec.grouping == "neighbours" else heads % groups
    return x[:, :, own]


def attn_out(spec: Spec, layer: Layer, seen: Seen) -> np.ndarray:
    """The output map over all heads side by side."""
    return layer.linear("o", seen["z"].reshape(*seen["z"].shape[:2], -1))


def mlp_in(spec: Spec, layer: Layer, seen: Seen) -> np.ndarray:
    """The residual, normed."""
    return normed(spec, layer, "mlp_norm", seen["resid_pre" if spec.parallel else "resid_mid"])


def mlp_pre(spec: Spec, layer: Layer, seen: Seen) -> np.ndarray:
    """The gate before its activation, or the only map there is."""
    return layer.linear("gate" if spec.gated else "up", seen["mlp_in"])


def router_logits(spec: Spec, layer: Layer, seen: Seen) -> np.ndarray:
    """What the router gives to each expert."""
    return layer.linear("router", seen["mlp_in"])


def mlp_act(spec: Spec, layer: Layer, seen: Seen) -> np.ndarray:
    """Neurons, activated and multiplied."""
    y = ACTIVATIONS[spec.activation](seen["mlp_pre"])
    return y * layer.linear("up", seen["mlp_in"]) if spec.gated else y


def mlp_out(spec: Spec, layer: Layer, seen: Seen) -> np.ndarray:
    """The down map, or the mixture of experts from its input on."""
    if spec.router is not None:
        return mixture(spec, spec.router, layer, seen["mlp_in"], seen["router_logits"])
    return layer.linear("down", seen["mlp_act"])


def logits(spec: Spec, layer: Layer, seen: Seen) -> np.ndarray:
    """The head, capped."""
    return capped(layer.head(seen["final_norm"]), spec.logit_cap)


def _norm(name: str, site: str) -> Recompute:
    return lambda spec, layer, seen: normed(spec, layer, name, seen[site])


FIRST = (
    Step("embeddings", "rows of the embedding table, scaled, with learned positions", embeddings),
)
LAYERED = (
    Step("attn_in", "the norm before attention", _norm("attn_norm", "resid_pre")),
    Step("query", "map, bias and norm of queries", _heads("q")),
    Step("key", "map, bias and norm of keys", _heads("k")),
    Step("value", "map and bias of values", _heads("v")),
    Step("attn_scores", "rotary embedding, scale and cap of attention scores", scores),
    Step("attn_probs", "causal mask, window and softmax", probs),
    Step("z", "values weighted by attention, and which heads share them", mixed),
    Step("attn_out", "the attention's output map", attn_out),
    Step("attn_out_post", "the norm after attention", _norm("attn_post_norm", "attn_out")),
    Step("mlp_in", "the norm before the MLP, and what it reads", mlp_in),
    Step("mlp_pre", "the MLP's gate", mlp_pre),
    Step("router_logits", "the router's map", router_logits),
    Step("mlp_act", "the activation function, and what it multiplies", mlp_act),
    Step("mlp_out", "the MLP's down map, or its mixture of experts", mlp_out),
    Step("mlp_out_post", "the norm after the MLP", _norm("mlp_post_norm", "mlp_out")),
)
LAST = (
    Step("final_norm", "the norm before the head", _norm("final_norm", "resid_post")),
    Step("logits", "the head and its cap", logits),
)
