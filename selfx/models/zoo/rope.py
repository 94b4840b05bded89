"""How a Hugging Face `config.json` declares rotary embeddings, in its old spelling and its new one.

Old: `rope_theta`, and what stretches it in `rope_scaling`. New, since transformers 5: all of it in
`rope_parameters`, with a table for each kind of layer where kinds differ.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from selfx.errors import SelfxError
from selfx.models.config import Rope, RopeScaling
from selfx.models.zoo.fields import Fields

ROPE_KEYS = frozenset(
    ["rope_parameters", "rope_scaling", "rope_theta", "original_max_position_embeddings"]
)
"""Keys of a config that this file reads."""

_ORIGINAL = "original_max_position_embeddings"
_YARN = "factor attention_factor beta_fast beta_slow mscale mscale_all_dim truncate"
_SCALING_KEYS = {
    "default": frozenset[str](),
    "linear": frozenset({"factor"}),
    "dynamic": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor"}),
    "yarn": frozenset(_YARN.split()),
    "longrope": frozenset({"factor", "attention_factor", "short_factor", "long_factor"}),
}
_KEYS = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor", _ORIGINAL})


@dataclasses.dataclass(frozen=True)
class RopeRules:
    """What a family's own reading of these fields is.

    Attributes:
      partial: whether `partial_rotary_factor` is honoured, in the config or beside the base.
      share: how much of a head is turned if nothing says so.
      longrope: other names for `longrope`.
      original: the original length where `longrope` is declared without, or None if it must be.
      theta: the base of files from before the field was, or None if it must be given.
    """

    partial: bool = False
    share: float = 1.0
    longrope: tuple[str, ...] = ()
    original: int | None = None
    theta: float | None = None


PLAIN_ROPE = RopeRules()


def read_rope(
    fields: Fields, max_positions: int, d_head: int, rules: RopeRules = PLAIN_ROPE, kind: str = ""
) -> Rope:
    """The rotary embedding that a config declares.

    Args:
      fields: the config's.
      max_positions: the longest text.
      d_head: the width of a head.
      rules: what the family's reading is.
      kind: the key in `rope_parameters` of the layers in question, where they have one each.

    Raises:
      SelfxError: a missing base, an unknown scaling, a field that is not honoured.
    """
    declared = _declared(fields, kind)
    base = {"rope_theta": fields.values.get("rope_theta")}
    rope = Fields({**base, **declared}, "the rope of config.json")
    name = declared.get("rope_type") or declared.get("type") or "default"
    name = "longrope" if name in rules.longrope else name
    if not isinstance(name, str) or name not in _SCALING_KEYS:
        known = ", ".join(_SCALING_KEYS)
        raise SelfxError(f"config.json scales its rope by {name!r}", expected=f"one of {known}")
    rope.refuse_unknown(_SCALING_KEYS[name] | _KEYS)
    theta = rope.number("rope_theta", rules.theta)
    share = _share(fields, rope, rules)
    if name == "default":
        return Rope(theta, None, share)
    width = int(d_head * share)
    return Rope(theta, _scaling(name, fields, rope, max_positions, width, rules), share)


def _declared(fields: Fields, kind: str) -> Mapping[str, Any]:
    """The table that counts, of those a config may hold."""
    scaling, parameters = (fields.values.get(key) for key in ("rope_scaling", "rope_parameters"))
    if scaling and parameters:
        raise SelfxError("config.json has both rope_scaling and rope_parameters", expected="one")
    declared = scaling or parameters or {}
    if isinstance(parameters, Mapping) and kind in parameters:
        declared = parameters[kind]
    if not isinstance(declared, Mapping):
        raise SelfxError(f"config.json has the rope {declared!r}", expected="an object")
    return declared


def _share(fields: Fields, rope: Fields, rules: RopeRules) -> float:
    if not rules.partial:
        rope.refuse_values({"partial_rotary_factor": (None, 1)})
        return 1.0
    share = rope.number(
        "partial_rotary_factor", fields.number("partial_rotary_factor", rules.share)
    )
    if share > 1:
        raise rope.wrong("partial_rotary_factor", "a share of a head, at most 1")
    return share


def _scaling(
    name: Any, fields: Fields, rope: Fields, max_positions: int, width: int, rules: RopeRules
) -> RopeScaling:
    absent = rules.original if name == "longrope" and rules.original else max_positions
    original = fields.size(_ORIGINAL, rope.size(_ORIGINAL, absent))
    if name in ("linear", "dynamic") and original != max_positions:
        raise SelfxError(
            f"config.json has {_ORIGINAL} {original} with {name} scaling",
            expected=f"max_position_embeddings, {max_positions}: {name} scaling reads no other",
        )
    if name == "llama3":
        low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
        if low >= high:
            raise SelfxError(f"llama3 rope with low_freq_factor {low}", expected=f"below {high}")
        return RopeScaling(name, rope.number("factor"), original, low, high)
    if name == "longrope":
        return _longrope(rope, max_positions, original, width)
    if name == "yarn":
        return _yarn(rope, max_positions, original)
    return RopeScaling(name, rope.number("factor"), original)


def _yarn(rope: Fields, max_positions: int, original: int) -> RopeScaling:
    factor = rope.number("factor", max_positions / original)
    given = [key for key in ("mscale", "mscale_all_dim") if rope.values.get(key)]
    weights = [rope.number(key) for key in given] if len(given) == 2 else []
    return RopeScaling(
        "yarn",
        factor,
        original,
        beta_fast=rope.number("beta_fast", 32),
        beta_slow=rope.number("beta_slow", 1),
        attention_factor=rope.number("attention_factor", yarn_attention_factor(factor, *weights)),
        truncate=rope.flag("truncate", True),
    )


def _longrope(rope: Fields, max_positions: int, original: int, width: int) -> RopeScaling:
    factor = rope.number("factor", max_positions / original)
    usual = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    short, long = (_factors(rope, key, width // 2) for key in ("short_factor", "long_factor"))
    return RopeScaling(
        "longrope",
        factor,
        original,
        attention_factor=rope.number("attention_factor", usual),
        short=short,
        long=long,
    )


def _factors(rope: Fields, key: str, length: int) -> tuple[float, ...]:
    values = rope.values.get(key)
    numbers = values if isinstance(values, list) else []
    real = all(isinstance(value, int | float) and value > 0 for value in numbers)
    if not real or len(numbers) != length:
        raise rope.wrong(key, f"{length} numbers above zero, one for each pair of coordinates")
    return tuple(float(value) for value in numbers)


def yarn_attention_factor(
    factor: float, mscale: float | None = None, mscale_all_dim: float | None = None
) -> float:
    """What YaRN scales cosines and sines by if a file does not say (arXiv 2309.00071, eq. 22)."""

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

    if mscale and mscale_all_dim:
        return scale(mscale) / scale(mscale_all_dim)
    return scale(1)
