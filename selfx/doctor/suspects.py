"""Usual mistakes, each as a change to a layer's `Spec` or weights, to find the one that was made.

A suspicion is confirmed if the step recomputed with the mistake gives what the model has. Numbers
to try are the usual ones and those in the config of the model under examination.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from selfx.doctor.parts import ACTIVATIONS, Layer
from selfx.doctor.spec import Spec, Turn
from selfx.models.config import Config

Suspect = tuple[str, Spec, Layer]
"""What the model would be doing, and the layer as it would then be."""

_THETAS = (1e4, 1e5, 1.3e5, 2.5e5, 5e5, 6.4e5, 1e6, 2e6, 5e6, 1e7)
_CAPS = (30.0, 50.0)
_EPS = (1e-5, 1e-6, 1e-8, 1e-12)
_FIRST = np.zeros(1, int)
_MAPS = {
    "query": "q",
    "key": "k",
    "value": "v",
    "attn_out": "o",
    "mlp_pre": "gate",
    "router_logits": "router",
    "mlp_act": "up",
    "mlp_out": "down",
}
_NORMS = {
    "attn_in": "attn_norm",
    "attn_out_post": "attn_post_norm",
    "mlp_in": "mlp_norm",
    "mlp_out_post": "mlp_post_norm",
    "final_norm": "final_norm",
    "query": "q_norm",
    "key": "k_norm",
}
_NORM_NAMES = {
    "rms": "the norm does not subtract the mean: it is RMSNorm",
    "plus_one": "the norm multiplies by 1 + weight",
    "layer": "the norm subtracts the mean: it is LayerNorm",
    "bare": "the norm's weight is not applied",
}


def suspects(
    site: str, config: Config, specs: tuple[Spec, ...], spec: Spec, layer: Layer
) -> Iterator[Suspect]:
    """What may be wrong at a site, likelier things first.

    Args:
      site: where the step failed.
      config: the model's own architecture, which may differ from the checkpoint's.
      specs: the checkpoint's layers.
      spec: the one that failed.
      layer: its weights.
    """
    if site in _MAPS:
        yield from _maps(site, spec, layer)
    if site in _NORMS:
        yield from _norms(_NORMS[site], spec, layer)
    if site == "embeddings":
        yield from _embeddings(spec, layer)
    if site == "attn_scores":
        yield from _scores(config, specs, spec, layer)
    if site == "attn_probs":
        yield from _masks(config, specs, spec, layer)
    if site == "mlp_in":
        reads = "before" if not spec.parallel else "after"
        change = dataclasses.replace(spec, parallel=not spec.parallel)
        yield f"the MLP reads the residual {reads} the attention", change, layer
    if site == "z":
        yield "heads share keys in turn, not by groups", _with(spec, grouping="strided"), layer
    if site == "mlp_act":
        yield from _activations(spec, layer)
    if site == "mlp_out" and spec.router is not None:
        yield from _routers(config, spec, layer)
    if site == "logits":
        yield from _caps("logit_cap", (config.logit_cap,), spec, layer)
    if site not in ("embeddings", "attn_scores", "attn_probs", "z", "final_norm", "logits"):
        yield from _other_layers(specs, spec, layer)


def _maps(site: str, spec: Spec, layer: Layer) -> Iterator[Suspect]:
    name = _MAPS[site] if spec.gated or site != "mlp_pre" else "up"
    w = layer.get(f"{name}.w") if spec.router is None or site != "mlp_out" else None
    if w is not None and w.shape[0] == w.shape[1]:
        yield (
            f"the weight of {name} is transposed",
            spec,
            dataclasses.replace(layer, transposed=True),
        )
    if w is not None and layer.get(f"{name}.b") is not None:
        yield f"the bias of {name} is not added", spec, dataclasses.replace(layer, unbiased=True)
    other = {"q": "k", "k": "v", "v": "k", "gate": "up", "up": "gate"}.get(name)
    if other is not None and spec.gated and w is not None:
        found = layer.get(f"{other}.w")
        if found is not None and found.shape == w.shape:
            taken = dataclasses.replace(layer, instead={name: other})
            yield f"the weight of {other} stands in the place of {name}", spec, taken
    if site in ("query", "key") and spec.qk_norm is not None:
        yield (
            f"{'queries' if site == 'query' else 'keys'} are not normed",
            _with(spec, qk_norm=None),
            layer,
        )


def _norms(name: str, spec: Spec, layer: Layer) -> Iterator[Suspect]:
    if layer.get(f"{name}.w") is None:
        return
    for kind, words in _NORM_NAMES.items():
        if kind != spec.norm:
            yield words, _with(spec, norm=kind), layer
    if spec.norm == "plus_one":
        yield "the norm multiplies by its weight without adding 1", _with(spec, norm="rms"), layer
    if layer.get(f"{name}.b") is not None:
        yield "the norm's bias is not added", spec, dataclasses.replace(layer, unbiased=True)
    if name not in ("q_norm", "k_norm"):
        yield "nothing is normed", _with(spec, norm="none"), layer
    for other in ("attn_norm", "attn_post_norm", "mlp_norm", "mlp_post_norm", "q_norm", "k_norm"):
        if other != name and _same_shape(layer, f"{other}.w", f"{name}.w"):
            taken = dataclasses.replace(layer, instead={name: other})
            yield f"the weight of {other} stands in the place of {name}", spec, taken
    for eps in _EPS:
        if eps != spec.eps:
            yield (
                f"the norm adds {eps:g}, the checkpoint says {spec.eps:g}",
                _with(spec, eps=eps),
                layer,
            )


def _same_shape(layer: Layer, one: str, two: str) -> bool:
    first, second = layer.get(one), layer.get(two)
    return first is not None and second is not None and first.shape == second.shape


def _embeddings(spec: Spec, layer: Layer) -> Iterator[Suspect]:
    if spec.first_place is not None:
        for step in (1, -1, 2, -2):
            moved = _with(spec, first_place=spec.first_place + step)
            yield f"positions are off by {step:+d}", moved, layer
        yield "learned positions are not added", _with(spec, first_place=None), layer
    width = len(layer.rows("embed", _FIRST)[0])
    if spec.embed_scale != 1:
        yield (
            "embeddings are not multiplied by the root of their width",
            _with(spec, embed_scale=1),
            layer,
        )
    else:
        scaled = _with(spec, embed_scale=width**0.5)
        yield "embeddings are multiplied by the root of their width", scaled, layer


def _scores(config: Config, specs: tuple[Spec, ...], spec: Spec, layer: Layer) -> Iterator[Suspect]:
    yield from _turns(config, specs, spec, layer)
    yield from _caps("cap", (config.score_cap,), spec, layer)
    usual = {"1/sqrt(e)": spec.d_head**-0.5, "1": 1.0, "1/e": 1 / spec.d_head}
    own = {f"{scale:g}": scale for scale in config.score_scales or ()}
    for name, scale in {**usual, **own}.items():
        if scale != spec.scale:
            words = f"scores are multiplied by {name}, the checkpoint says {spec.scale:g}"
            yield words, _with(spec, scale=scale), layer
    if spec.kv_heads < spec.heads:
        yield "heads share keys in turn, not by groups", _with(spec, grouping="strided"), layer


def _turns(config: Config, specs: tuple[Spec, ...], spec: Spec, layer: Layer) -> Iterator[Suspect]:
    turn = spec.turn
    if turn is None:
        for theta in (*(rope.theta for rope in config.ropes if rope), *_THETAS):
            turns = _with(spec, turn=Turn(theta, spec.d_head))
            yield f"queries and keys are turned, base {theta:g}; they should not be", turns, layer
        return
    own = (rope.theta for rope in config.ropes if rope)
    declared = (other.turn.theta for other in specs if other.turn)
    for theta in dict.fromkeys((*own, *declared, *_THETAS)):
        if theta != turn.theta:
            words = f"the rotary base is {theta:g}, the checkpoint says {turn.theta:g}"
            yield words, _with(spec, turn=dataclasses.replace(turn, theta=theta)), layer
    if turn.kind != "default":
        plain = dataclasses.replace(turn, kind="default")
        yield f"the {turn.kind} scaling of positions is ignored", _with(spec, turn=plain), layer
    for other in dict.fromkeys(range(len(specs))):
        if specs[other].turn not in (None, turn):
            words = f"positions are turned as in layer {other}"
            yield words, _with(spec, turn=specs[other].turn), layer
            break
    if turn.width < spec.d_head and turn.kind == "default":
        whole = dataclasses.replace(turn, width=spec.d_head)
        yield "whole heads are turned, not a part of them", _with(spec, turn=whole), layer
    near = dataclasses.replace(turn, pairs="neighbours")
    yield "neighbouring coordinates form the rotary pairs", _with(spec, turn=near), layer
    yield "queries and keys are not turned at all", _with(spec, turn=None), layer


def _masks(config: Config, specs: tuple[Spec, ...], spec: Spec, layer: Layer) -> Iterator[Suspect]:
    says = f"the checkpoint says {spec.window or 'none'}"
    if spec.window is not None:
        yield f"the window is ignored, {says}", _with(spec, window=None), layer
        for step in (1, -1):
            words = f"the window is {spec.window + step}, {says}"
            yield words, _with(spec, window=spec.window + step), layer
    for window in dict.fromkeys((*config.windows, *(other.window for other in specs))):
        if window not in (None, spec.window):
            yield f"the window is {window}, {says}", _with(spec, window=window), layer
    yield "tokens see the future", _with(spec, causal=False), layer


def _activations(spec: Spec, layer: Layer) -> Iterator[Suspect]:
    for name in ACTIVATIONS:
        if name != spec.activation:
            words = f"the activation is {name}, the checkpoint says {spec.activation}"
            yield words, _with(spec, activation=name), layer
    if spec.gated:
        yield "the gate is not multiplied by anything", _with(spec, gated=False), layer


def _routers(config: Config, spec: Spec, layer: Layer) -> Iterator[Suspect]:
    assert spec.router is not None
    said = "are not" if spec.router.normed else "are"
    flipped = dataclasses.replace(spec.router, normed=not spec.router.normed)
    yield (
        f"weights of the chosen experts {said} made to sum to 1",
        _with(spec, router=flipped),
        layer,
    )
    own = config.experts.n_chosen if config.experts is not None else 1
    for chosen in dict.fromkeys((own, 1, 2, 4, 8)):
        if chosen != spec.router.chosen and chosen <= spec.router.experts:
            words = f"a token goes to {chosen} experts, the checkpoint says {spec.router.chosen}"
            yield words, _with(spec, router=dataclasses.replace(spec.router, chosen=chosen)), layer
    yield from _activations(_with(spec, gated=False), layer)


def _caps(name: str, own: tuple[float | None, ...], spec: Spec, layer: Layer) -> Iterator[Suspect]:
    declared = getattr(spec, name)
    what = "scores" if name == "cap" else "logits"
    if declared is not None:
        yield (
            f"{what} are not capped, the checkpoint says {declared:g}",
            _with(spec, **{name: None}),
            layer,
        )
    for cap in dict.fromkeys((*own, *_CAPS)):
        if cap is not None and cap != declared:
            says = "none" if declared is None else f"{declared:g}"
            words = f"{what} are capped at {cap:g}, the checkpoint says {says}"
            yield words, _with(spec, **{name: cap}), layer


def _other_layers(specs: tuple[Spec, ...], spec: Spec, layer: Layer) -> Iterator[Suspect]:
    near = sorted(range(len(specs)), key=lambda other: abs(other - layer.number))
    for other in near[1:]:
        moved = dataclasses.replace(layer, number=other)
        yield f"the weights of layer {other} stand in layer {layer.number}", spec, moved


def _with(spec: Spec, **changes: Any) -> Spec:
    return dataclasses.replace(spec, **changes)
