"""Rotary embeddings in float64, from the papers and from what Hugging Face's configs say.

Sources: Su et al. 2021 (arXiv 2104.09864); linear, arXiv 2306.15595; YaRN, arXiv 2309.00071;
LongRoPE, arXiv 2402.13753; Llama 3.1's rule by wavelength.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from selfx.doctor.spec import Turn
from selfx.errors import SelfxError


def turned(x: np.ndarray, turn: Turn | None) -> np.ndarray:
    """`x` `[b, t, heads, e]` turned, the first token at position 0."""
    if turn is None:
        return x
    frequencies, factor = rates(turn, x.shape[1])
    angle = np.arange(x.shape[1])[:, None, None] * frequencies
    spin = factor * np.exp(1j * angle)
    y, width = x.copy(), turn.width
    if turn.pairs == "halves":
        first, second = slice(0, width // 2), slice(width // 2, width)
    else:
        first, second = slice(0, width, 2), slice(1, width, 2)
    pairs = (x[..., first] + 1j * x[..., second]) * spin
    y[..., first], y[..., second] = pairs.real, pairs.imag
    return y


def rates(turn: Turn, length: int) -> tuple[np.ndarray, float]:
    """Radians a token `[width / 2]`, and what cosines and sines are multiplied by."""
    if turn.kind not in _KINDS:
        raise SelfxError(f"a rotary embedding of kind {turn.kind!r}", expected=", ".join(_KINDS))
    return _KINDS[turn.kind](turn, turn.settings, length)


Rates = tuple[np.ndarray, float]


def _base(theta: float, width: int) -> np.ndarray:
    return np.array([theta ** (-2 * i / width) for i in range(width // 2)])


def _default(turn: Turn, _: Mapping[str, Any], __: int) -> Rates:
    return _base(turn.theta, turn.width), 1.0


def _linear(turn: Turn, settings: Mapping[str, Any], _: int) -> Rates:
    return _base(turn.theta, turn.width) / settings["factor"], 1.0


def _divided(turn: Turn, settings: Mapping[str, Any], _: int) -> Rates:
    return _base(turn.theta, turn.width) / np.asarray(settings["factors"], np.float64), 1.0


def _dynamic(turn: Turn, settings: Mapping[str, Any], length: int) -> Rates:
    longest, factor, width = settings["max_position_embeddings"], settings["factor"], turn.width
    if length <= longest:
        return _base(turn.theta, width), 1.0
    grown = turn.theta * (factor * length / longest - (factor - 1)) ** (width / (width - 2))
    return _base(grown, width), 1.0


def _llama3(turn: Turn, settings: Mapping[str, Any], _: int) -> Rates:
    original = settings["original_max_position_embeddings"]
    low, high, factor = (settings[k] for k in ("low_freq_factor", "high_freq_factor", "factor"))
    rates = []
    for rate in _base(turn.theta, turn.width):
        wave = 2 * math.pi / rate
        if wave > original / low:
            rate = rate / factor
        elif wave >= original / high:
            smooth = (original / wave - low) / (high - low)
            rate = (1 - smooth) * rate / factor + smooth * rate
        rates.append(rate)
    return np.array(rates), 1.0


def _yarn(turn: Turn, settings: Mapping[str, Any], _: int) -> Rates:
    width, longest = turn.width, settings["max_position_embeddings"]
    original = settings.get("original_max_position_embeddings") or longest
    factor = settings.get("factor") or longest / original

    def where(rotations: float) -> float:
        return width * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(turn.theta))

    low, high = where(settings.get("beta_fast") or 32), where(settings.get("beta_slow") or 1)
    if settings.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    high = high + 0.001 if low == high else high
    ramp = np.clip((np.arange(width // 2) - low) / (high - low), 0, 1)
    base = _base(turn.theta, width)
    return base / factor * ramp + base * (1 - ramp), _yarn_factor(settings, factor)


def _yarn_factor(settings: Mapping[str, Any], factor: float) -> float:
    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if settings.get("attention_factor") is not None:
        return settings["attention_factor"]
    one, all_dims = settings.get("mscale"), settings.get("mscale_all_dim")
    if one and all_dims:
        return mscale(one) / mscale(all_dims)
    return mscale(1)


def _longrope(turn: Turn, settings: Mapping[str, Any], length: int) -> Rates:
    longest = settings["max_position_embeddings"]
    original = settings["original_max_position_embeddings"] or longest
    divisors = settings["long_factor" if length > original else "short_factor"]
    factor = settings.get("attention_factor")
    if factor is None:
        ratio = settings.get("factor") or longest / original
        factor = 1.0 if ratio <= 1 else math.sqrt(1 + math.log(ratio) / math.log(original))
    return _base(turn.theta, turn.width) / np.asarray(divisors, np.float64), factor


_KINDS: dict[str, Callable[[Turn, Mapping[str, Any], int], Rates]] = {
    "default": _default,
    "linear": _linear,
    "divided": _divided,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
