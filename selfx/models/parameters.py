"""A decoder's weights by path, such as `blocks.q.w`: their shapes before any is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from selfx.models.config import Config
from selfx.models.decoder import Decoder


def parameter_shapes(config: Config, dtype: Any = jnp.float32) -> dict[str, jax.ShapeDtypeStruct]:
    """`{path: shape and dtype}` of every weight, e.g. `blocks.q.w`; nothing is allocated."""
    leaves, _ = _flatten(config, dtype)
    return {parameter_path(path): leaf for path, leaf in leaves}


def parameter_count(config: Config) -> int:
    """The number of weights, a tied head counted once."""
    return sum(leaf.size for leaf in parameter_shapes(config).values())


def from_parameters(config: Config, parameters: Mapping[str, jax.Array], dtype: Any) -> Decoder:
    """The decoder whose weights are `parameters`, by the paths of `parameter_shapes`."""
    leaves, treedef = _flatten(config, dtype)
    return jax.tree.unflatten(treedef, [parameters[parameter_path(path)] for path, _ in leaves])


def parameter_path(path: tuple[Any, ...]) -> str:
    """The name of a leaf of a decoder, from its key path."""
    names = (getattr(part, "name", getattr(part, "key", None)) for part in path)
    return ".".join(str(name) for name in names if name not in (None, "value"))


def _flatten(config: Config, dtype: Any) -> tuple[list[tuple[Any, Any]], Any]:
    model = jax.eval_shape(lambda key: Decoder(config, key, dtype), jax.random.key(0))
    return jax.tree_util.tree_flatten_with_path(model)
