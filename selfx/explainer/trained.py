"""What a run trains: one tree of the parts that were chosen, the others None.

    trained.lora    adapters beside the explainer's maps, or None
    trained.model   all of the explainer's weights in float32, by path, or None
    trained.reader  what a vector goes through before it is read, or None

A gradient with respect to this tree reaches nothing else.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from selfx.errors import SelfxError
from selfx.explainer import lora
from selfx.explainer.reader import Reader, init_reader
from selfx.explainer.training import Training
from selfx.models.config import Config
from selfx.models.decoder import Decoder
from selfx.models.parameters import from_parameters, parameter_path


@struct.dataclass
class Trained:
    """The parts, as above."""

    lora: Any = None
    reader: Reader | None = None
    model: dict[str, jax.Array] | None = None


def begin(
    config: Config, model: Decoder, training: Training, reader_layers: int, d_target: int
) -> Trained:
    """The parts as training starts with them; together they change nothing yet.

    Args:
      config, model: the explainer's.
      training: what is trained.
      reader_layers: the target's layers.
      d_target: the target's width.
    """
    key, reader_key = jax.random.split(jax.random.key(training.seed))
    adapters = reader = weights = None
    if "lora" in training.trains:
        adapters = lora.init(
            config,
            rank=training.rank,
            alpha=training.lora_scale * training.rank,
            key=key,
            maps=training.targets or None,
        )
    if "full" in training.trains:
        # Copies: a step reuses the memory of what it is given, and the model stays.
        weights = {p: jnp.array(x, jnp.float32, copy=True) for p, x in parameters(model).items()}
    if training.reader_parts:
        reader = init_reader(
            training.reader_parts,
            layers=reader_layers,
            d_target=d_target,
            d_explainer=config.d_model,
            rank=training.reader_rank,
            key=reader_key,
        )
    return Trained(adapters, reader, weights)


def explaining(trained: Trained, model: Decoder) -> Decoder:
    """The explainer's weights: those trained, in the precision that the frozen ones have, if all
    are; else the frozen ones."""
    if trained.model is None:
        return model
    like = parameters(model)
    cast = {path: x.astype(like[path].dtype) for path, x in trained.model.items()}
    return from_parameters(model.config, cast, model.embed[...].dtype)


def parameters(model: Decoder) -> dict[str, jax.Array]:
    """Every weight by its path, such as `blocks.q.w`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(model)
    return {parameter_path(path): leaf for path, leaf in leaves}


def continued(trained: Trained, before: Trained, source: str) -> Trained:
    """The parts of `trained`, those that an earlier run trained as it left them.

    What it read vectors through and is trained no longer is left out: it goes on as given.

    Raises:
      SelfxError: the earlier run's are of other shapes, or would be lost.
    """
    named = {name: _named(getattr(trained, name)) for name in ("lora", "reader", "model")}
    earlier = {name: _named(getattr(before, name)) for name in named}
    earlier["reader"] = {k: x for k, x in earlier["reader"].items() if k in named["reader"]}
    shared = {name for name in named if named[name] and earlier[name]}
    if any(earlier[name] and not named[name] for name in named):
        kinds = ", ".join(name for name in named if earlier[name])
        raise SelfxError(
            f"a start from {source}, which trained {kinds}",
            expected="a run that trains the same parts, or more",
        )
    parts = {
        name: _filled(getattr(trained, name), earlier[name], f"{source}, whose {name}")
        for name in shared
    }
    return dataclasses.replace(trained, **parts)


def _filled(tree: Any, earlier: dict[str, jax.Array], source: str) -> Any:
    """The tree with leaves of that name from `earlier`."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    own = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    for name, leaf in earlier.items():
        if name not in own or own[name].shape != leaf.shape:
            wanted = own[name].shape if name in own else "no such part"
            raise SelfxError(
                f"a start from {source} {name} has shape {leaf.shape}",
                expected=f"{wanted}, by this run's settings",
            )
    return jax.tree.unflatten(treedef, [earlier.get(name, leaf) for name, leaf in own.items()])


def _named(tree: Any) -> dict[str, jax.Array]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
