"""The glossary: every place in a decoder that can be read or changed, and its axes.

Axes: `b` batch, `t` target position, `s` source position, `d` residual width, `h` query head,
`k` key/value head, `e` head width, `f` MLP width, `x` expert, `l` layer, `v` vocabulary, `r` rank.

Every site's array begins with `[b, t]`; a capture of a site inside the layers gains a leading `l`.
Positions count real tokens: padding is -1 and no edit or capture ever addresses it. Only the source
axis counts slots, as the run has them: padding included, and a cache's empty room.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from selfx.errors import SelfxError

if TYPE_CHECKING:
    from selfx.models.config import Config


@dataclasses.dataclass(frozen=True)
class Site:
    """A place in the forward pass.

    Attributes:
      name: what it is called everywhere.
      axes: the letters of its axes after `b` and `t`.
      layered: whether each layer has one (else there is one in the whole model).
      about: what is found there.
    """

    name: str
    axes: str
    layered: bool
    about: str

    def feature_shape(self, config: Config) -> tuple[int, ...]:
        """Sizes of the axes after `b` and `t`; 1 for the source axis `s`, which a run decides."""
        sizes = {
            "d": config.d_model,
            "h": config.n_heads,
            "k": config.n_kv_heads,
            "e": config.d_head,
            "f": config.d_ff,
            "v": config.vocab_size,
            "s": 1,
            "x": config.experts.n_experts if config.experts is not None else 0,
        }
        return tuple(sizes[axis] for axis in self.axes)

    def broadcasts(self, shape: Sequence[int], config: Config) -> bool:
        """Whether an array of this shape, aligned at the last axis, fits the site's features."""
        axes = zip(shape[::-1], self.feature_shape(config)[::-1], self.axes[::-1], strict=False)
        return len(shape) <= len(self.axes) and all(
            size in (1, wanted) or axis == "s" for size, wanted, axis in axes
        )

    def describe_shape(self, config: Config) -> str:
        """The feature shape in words, such as `[h=9, e=64]`."""
        sizes = zip(self.axes, self.feature_shape(config), strict=True)
        named = (f"{axis}={'any' if axis == 's' else size}" for axis, size in sizes)
        return f"[{', '.join(named)}]"


SITES: dict[str, Site] = {
    site.name: site
    for site in (
        Site("embeddings", "d", False, "what enters the first layer"),
        Site("resid_pre", "d", True, "the residual stream as it enters a layer"),
        Site("attn_in", "d", True, "what the attention reads: the residual, normed"),
        Site("query", "he", True, "queries, before the rotary embedding"),
        Site("key", "ke", True, "keys, before the rotary embedding"),
        Site("value", "ke", True, "values"),
        Site("attn_scores", "hs", True, "scaled products of query and key, before the mask"),
        Site("attn_probs", "hs", True, "attention weights: the softmax of the masked scores"),
        Site("z", "he", True, "values mixed by the attention weights, a head apart"),
        Site("attn_out", "d", True, "what the attention's output map returns"),
        Site("attn_out_post", "d", True, "what the attention adds to the residual"),
        Site("resid_mid", "d", True, "the residual between attention and MLP"),
        Site("mlp_in", "d", True, "what the MLP reads: the residual, normed"),
        Site("mlp_pre", "f", True, "the gate before its activation function"),
        Site("mlp_act", "f", True, "what the MLP's down map reads: a neuron's activation"),
        Site("mlp_out", "d", True, "what the MLP's down map returns"),
        Site("mlp_out_post", "d", True, "what the MLP adds to the residual"),
        Site("resid_post", "d", True, "the residual stream as it leaves a layer"),
        Site("final_norm", "d", False, "the last residual, normed: what the unembedding reads"),
        Site("logits", "v", False, "scores of the next token"),
    )
}


EXPERT_SITES: dict[str, Site] = {
    "router_logits": Site("router_logits", "x", True, "what the router gives to each expert"),
}
"""What a mixture of experts has in the place of `mlp_pre` and `mlp_act`."""

_EVERY = {**SITES, **EXPERT_SITES}


def sites_of(config: Config) -> dict[str, Site]:
    """The sites that a model has, in the order of the forward pass."""
    if config.experts is None:
        return SITES
    inner = {"mlp_pre": EXPERT_SITES["router_logits"], "mlp_act": None}
    found = [inner.get(name, site) for name, site in SITES.items()]
    return {site.name: site for site in found if site is not None}


def find(name: str, config: Config | None = None) -> Site:
    """The site called `name`, of any model, or of this one.

    Raises:
      SelfxError: there is none; the message names the nearest.
    """
    known = _EVERY if config is None else sites_of(config)
    if name in known:
        return known[name]
    near = difflib.get_close_matches(str(name), known, n=1)
    raise SelfxError(
        f"unknown site {name!r}" if name not in _EVERY else f"{name!r} in a model without it",
        expected=f"one of {', '.join(known)}",
        hint=f"did you mean {near[0]!r}?" if near else "see selfx.models.sites",
    )
