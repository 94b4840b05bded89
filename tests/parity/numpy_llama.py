"""The Llama layout in NumPy float64, written from the papers: the oracle of the parity tests.

One unpadded row, every layer and head in a plain loop, nothing shared with the library but the
parameter arrays, which are read by path. Sources: the transformer block of Llama (arXiv
2302.13971), RMSNorm (1910.07467), SwiGLU (2002.05202), grouped queries (2305.13245), rotary
positions (2104.09864) and their stretchings: linear (2306.15595), dynamic NTK, YaRN (2309.00071),
Llama 3.1.

`hook(site, layer, array)` may return another array for any site; `layer` is 0 outside the layers.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np

Hook = Callable[[str, int, np.ndarray], np.ndarray]


@dataclasses.dataclass
class Run:
    """`sites` holds `[l, t, ...]` in the layers and `[t, ...]` outside; `logits` is `[t, v]`."""

    sites: dict[str, np.ndarray]

    @property
    def logits(self):
        return self.sites["logits"]


def weights(model):
    """`{path: float64 array}`, such as `blocks.q.w` `[l, in, out]`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(model)
    named = {}
    for path, leaf in leaves:
        words = jax.tree_util.keystr(path, simple=True, separator=".").split(".")
        named[".".join(word for word in words if word != "value")] = np.asarray(leaf, np.float64)
    return named


def run(model, tokens, hook: Hook | None = None, w=None) -> Run:
    """Every site of every layer for the tokens of one row; `w` is `weights(model)`, if at hand."""
    config, w = model.config, weights(model) if w is None else w
    heads, groups, width = config.n_heads, config.n_kv_heads, config.d_head
    length = len(tokens)
    turns = rotary(config, length)
    future = np.triu(np.ones((length, length), bool), 1)
    sites: dict[str, list[np.ndarray]] = {}

    def see(site, layer, x, where=True):
        x = x if hook is None else np.where(where, np.asarray(hook(site, layer, x), np.float64), 0)
        sites.setdefault(site, []).append(x)
        return x

    def linear(x, name, layer):
        y = x @ w[f"blocks.{name}.w"][layer]
        bias = w.get(f"blocks.{name}.b")
        return y if bias is None else y + bias[layer]

    x = see("embeddings", 0, w["embed"][np.asarray(tokens)])
    for layer in range(config.n_layers):
        x = see("resid_pre", layer, x)
        y = see("attn_in", layer, rms_norm(x, w["blocks.attn_norm.w"][layer], config.norm_eps))
        query = see("query", layer, linear(y, "q", layer).reshape(length, heads, width))
        key = see("key", layer, linear(y, "k", layer).reshape(length, groups, width))
        value = see("value", layer, linear(y, "v", layer).reshape(length, groups, width))
        turned_query, turned_key = turn(query, turns), turn(key, turns)
        scores = np.empty((length, heads, length))
        for head in range(heads):
            group = head // (heads // groups)
            scores[:, head] = turned_query[:, head] @ turned_key[:, group].T / math.sqrt(width)
        scores = see("attn_scores", layer, scores)
        probs = softmax(np.where(future[:, None, :], -np.inf, scores))
        probs = see("attn_probs", layer, probs, where=~future[:, None, :])
        mixed = np.empty((length, heads, width))
        for head in range(heads):
            mixed[:, head] = probs[:, head] @ value[:, head // (heads // groups)]
        mixed = see("z", layer, mixed)
        y = see("attn_out", layer, linear(mixed.reshape(length, -1), "o", layer))
        x = see("resid_mid", layer, x + see("attn_out_post", layer, y))
        y = see("mlp_in", layer, rms_norm(x, w["blocks.mlp_norm.w"][layer], config.norm_eps))
        gate = see("mlp_pre", layer, linear(y, "gate", layer))
        y = see("mlp_act", layer, gate / (1 + np.exp(-gate)) * linear(y, "up", layer))
        y = see("mlp_out", layer, linear(y, "down", layer))
        x = see("resid_post", layer, x + see("mlp_out_post", layer, y))
    x = see("final_norm", 0, rms_norm(x, w["final_norm.w"], config.norm_eps))
    see("logits", 0, x @ (w["embed"].T if config.tied else w["unembed.w"]))
    outside = ("embeddings", "final_norm", "logits")
    return Run({site: xs[0] if site in outside else np.stack(xs) for site, xs in sites.items()})


def greedy(model, tokens, steps, hook: Hook | None = None, w=None):
    """The likeliest next token, `steps` times, the whole text run anew for each."""
    text, w = list(map(int, tokens)), weights(model) if w is None else w
    for _ in range(steps):
        text.append(int(run(model, text, hook, w).logits[-1].argmax()))
    return text[len(tokens) :]


def rms_norm(x, weight, eps):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * weight


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def turn(x, turns):
    """Each pair (coordinate j, coordinate j + e/2) as a complex number, times its turn."""
    half = x.shape[-1] // 2
    pairs = (x[..., :half] + 1j * x[..., half:]) * turns[:, None, :]
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def rotary(config, length):
    """Complex `[t, e/2]`: by how much each pair is turned, and stretched, at each position."""
    speeds = [_speed(config, pair, length) for pair in range(config.d_head // 2)]
    scaling = config.ropes[0].scaling
    size = 1.0 if scaling is None else scaling.attention_factor
    return size * np.exp(1j * np.outer(np.arange(length), speeds))


def _speed(config, pair, length):
    """Radians a position by which one pair of coordinates is turned."""
    width, base, scaling = config.d_head, config.ropes[0].theta, config.ropes[0].scaling
    plain = base ** (-2 * pair / width)
    if scaling is None:
        return plain
    original, factor = scaling.original_max_positions, scaling.factor
    if scaling.kind == "linear":  # positions are interpolated: m becomes m / factor
        return plain / factor
    if scaling.kind == "dynamic":  # the base grows once the text is longer than the original
        stretch = max(length, original) / original
        grown = base * (factor * stretch - (factor - 1)) ** (width / (width - 2))
        return grown ** (-2 * pair / width)
    if scaling.kind == "llama3":
        wavelength = 2 * math.pi / plain
        if wavelength < original / scaling.high_freq_factor:
            return plain
        if wavelength > original / scaling.low_freq_factor:
            return plain / factor
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        smooth = (original / wavelength - low) / (high - low)
        return (1 - smooth) * plain / factor + smooth * plain
    if scaling.kind == "yarn":  # a ramp between the pairs that make beta_fast and beta_slow turns
        first = _pair_that_makes(scaling.beta_fast, original, width, base)
        last = _pair_that_makes(scaling.beta_slow, original, width, base)
        if scaling.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, width - 1)
        ramp = (pair - first) / ((last - first) or 0.001)
        interpolated = min(max(ramp, 0.0), 1.0)
        return interpolated * plain / factor + (1 - interpolated) * plain
    raise ValueError(scaling.kind)


def _pair_that_makes(turns, length, width, base):
    """The (fractional) pair that makes so many full turns over `length` positions."""
    # length * base ** (-2 pair / width) = 2 pi turns, solved for pair
    return width / 2 * math.log(length / (2 * math.pi * turns), base)
