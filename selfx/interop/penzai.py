"""A decoder as a Penzai model, over the same buffers, and back.

Penzai (Johnson 2024, arXiv 2408.00211) shows models and lets them be cut up interactively:

    theirs = to_penzai(lm.model)
    attention = pz.select(theirs).at_instances_of(pz.nn.Attention).pick_nth_selected(3)
    cut, weights = pz.unbind_params(attention.apply(change), freeze=True)

    @jax.jit
    def run(weights, tokens):
        model = pz.bind_variables(cut, weights, unfreeze_as_copy=True)
        return model(pz.nx.wrap(tokens).tag("batch", "seq")).unwrap("batch", "seq", "vocabulary")

Nothing is copied: Penzai lets anything with a `value` be a parameter, and here most are `View`s of
the weights that a decoder stacks over its layers. What a view does (to take its layer, to part the
heads) happens whenever Penzai computes. That costs time: see `apart`. `pz.variable_jit` is shorter
than the above, but comes back from every call with a copy of all parameters.

Padding is `token_positions` of -1. Penzai's arithmetic needs JAX's standard promotion of dtypes,
not the strict one.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from penzai import pz
from penzai.models.transformer.model_parts import TransformerLM, TransformerMetadata

from selfx.errors import SelfxError
from selfx.interop.named import captures_to_named
from selfx.interop.penzai_variants import skeleton
from selfx.models.config import Config
from selfx.models.decoder import Decoder
from selfx.models.parameters import from_parameters, parameter_path

__all__ = ["View", "captures_to_named", "from_penzai", "to_penzai"]

BLOCKS = "blocks"
"""The axis of the layers in weights stacked over them, as Penzai calls it too."""

Axes = tuple[tuple[tuple[str, int], ...], ...]
"""For every axis of a weight of ours, the names and sizes of the axes that Penzai has instead."""

_LABEL = re.compile(
    r"transformer/(?:block_(\d+)/)?(.+?)(?:/Linear|/AddBias|/scale|/shift)?"
    r"\.(weights|bias|embeddings)"
)
_OURS = {
    "embedder": "embed",
    "pre_attention_norm": "blocks.attn_norm",
    "attention/query": "blocks.q",
    "attention/key": "blocks.k",
    "attention/value": "blocks.v",
    "attention/output": "blocks.o",
    "post_attention_norm": "blocks.attn_post_norm",
    "pre_ffw_norm": "blocks.mlp_norm",
    "mlp/gating_linear": "blocks.gate",
    "mlp/value_linear": "blocks.up",
    "mlp/in": "blocks.up",
    "mlp/out_linear": "blocks.down",
    "mlp/out": "blocks.down",
    "post_ffw_norm": "blocks.mlp_post_norm",
    "final_norm": "final_norm",
    "lm_head": "unembed",
}
"""`{a layer's name in Penzai's labels: the path of its weights here}`."""


@pz.pytree_dataclass
class View(pz.Struct):
    """A parameter of `pz.nn` that reads a weight of ours where it stands.

    Attributes:
      whole: the weight, `[l, ...]` if it is stacked over the layers, its axes named.
      layer: which layer to read, or None of a weight outside the layers.
      axes: those of `value`, by the axes of `whole` (without its layers).
      plus: what is added to what is stored: 1 for a norm whose weight is the distance from 1.
    """

    whole: Any
    layer: int | None = dataclasses.field(metadata={"pytree_node": False})
    axes: Axes = dataclasses.field(metadata={"pytree_node": False})
    plus: float = dataclasses.field(metadata={"pytree_node": False})

    @property
    def stored(self) -> pz.nx.NamedArray:
        """The weight as it is stored, its axes named as Penzai does."""
        array = self.array
        array = array if self.layer is None else array[self.layer]
        named = [axis for group in self.axes for axis in group]
        shape = tuple(size for _, size in named)
        return pz.nx.wrap(array.reshape(shape)).tag(*(name for name, _ in named))

    @property
    def value(self) -> pz.nx.NamedArray:
        """The weight as Penzai multiplies by it."""
        return self.stored + self.plus if self.plus else self.stored

    @property
    def array(self) -> jax.Array:
        """The whole weight, the array itself."""
        return self.whole.value.unwrap(*_whole_names(self.layer, self.axes))


_PARAMETERS = (View, pz.Parameter, pz.ParameterValue, pz.ParameterSlot)


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a weight of Penzai's stands here.

    Attributes:
      path: as in `parameter_shapes`.
      layer, axes, plus: as in `View`.
    """

    path: str
    layer: int | None
    axes: Axes
    plus: float


def to_penzai(model: Decoder, *, activations: Any = None, apart: bool = False) -> TransformerLM:
    """Penzai's decoder with this one's weights: the same logits, from Penzai's own code.

    Args:
      model: a decoder of a family that Penzai knows.
      activations: the dtype that it computes in; None is that of the weights.
      apart: give every layer parameters of its own, sliced now instead of in every run. The layers
        then take their memory a second time, and Penzai computes several times faster.

    Raises:
      SelfxError: the model has something that Penzai would leave out.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(model)
    weights = {parameter_path(path): leaf for path, leaf in leaves}
    dtype = weights["embed"].dtype
    empty = skeleton(model.config, dtype, jnp.dtype(activations or dtype))
    wholes: dict[str, pz.Parameter] = {}

    def fill(slot: pz.ParameterSlot) -> Any:
        at = _place(slot.label, empty.metadata, model.config)
        if at.path not in wholes:
            wholes[at.path] = _parameter(at.path, weights[at.path], at.layer, at.axes)
        whole, layer = wholes[at.path], at.layer
        if layer is None and not at.plus:
            return whole
        if apart and layer is not None:
            label = f"{at.path}[{layer}]"
            whole, layer = _parameter(label, weights[at.path][layer], None, at.axes), None
        return View(whole, layer, at.axes, at.plus)

    return pz.select(empty).at_instances_of(pz.ParameterSlot).apply(fill)


def _parameter(label: str, array: jax.Array, layer: int | None, axes: Axes) -> pz.Parameter:
    return pz.Parameter(label=label, value=pz.nx.wrap(array).tag(*_whole_names(layer, axes)))


def from_penzai(model: TransformerLM, config: Config) -> Decoder:
    """The decoder with a Penzai model's weights: what `to_penzai` was given, buffers and all.

    Weights that were replaced in Penzai are taken as they are now, so a model from Penzai's own
    loaders comes over too (of Gemma's norms, which those store with 1 added, up to rounding).

    Args:
      model: a Penzai model of this architecture, its layers neither cut up nor in a `LayerStack`.
      config: the architecture.

    Raises:
      SelfxError: its layers or weights are not those of the config.
    """
    leaves, structure = _flatten(model)
    dtype = next(leaf for leaf in leaves if isinstance(leaf, _PARAMETERS)).value.dtype
    empty = skeleton(config, dtype, model.metadata.activation_dtype)
    slots, wanted = _flatten(empty)
    # As text: activation functions are made anew with every model, and none equals another.
    if str(structure) != str(wanted) or not all(map(_fits, leaves, slots)):
        raise SelfxError(
            "a Penzai model whose layers are not those of the config",
            expected=f"a {config.family} model as to_penzai builds it; its weights may be others",
            hint="what Penzai's surgery put between layers is an edit here: see selfx.patch",
        )
    found: dict[str, list[tuple[_Place, Any]]] = {}
    for leaf, slot in zip(leaves, slots, strict=True):
        if isinstance(slot, pz.ParameterSlot):
            at = _place(slot.label, empty.metadata, config)
            found.setdefault(at.path, []).append((at, leaf))
    return from_parameters(config, {path: _whole(found[path]) for path in found}, dtype)


def _flatten(model: TransformerLM) -> tuple[list[Any], Any]:
    """Parameters and constants in order, and the layers around them."""
    return jax.tree_util.tree_flatten(model.body, is_leaf=lambda x: isinstance(x, _PARAMETERS))


def _fits(leaf: Any, wanted: Any) -> bool:
    """Whether a leaf of a model is what the skeleton has there: a parameter, or this constant."""
    if isinstance(wanted, pz.ParameterSlot) or isinstance(leaf, _PARAMETERS):
        return isinstance(wanted, pz.ParameterSlot) and isinstance(leaf, _PARAMETERS)
    traced = isinstance(leaf, jax.core.Tracer)  # its value is then nobody's to compare
    return traced or bool(np.allclose(leaf, wanted, rtol=1e-6, atol=0))


def _place(label: str, metadata: TransformerMetadata, config: Config) -> _Place:
    """Where the weight that Penzai calls `label` stands here."""
    match = _LABEL.fullmatch(label)
    assert match is not None, label
    layer, layer_name, kind = match.groups()
    path = _OURS[layer_name]
    axes = _axes(path.removeprefix("blocks."), kind, metadata)
    plus = 1.0 if path.endswith("norm") and config.norm == "rms_plus_one" else 0.0
    path += {"weights": ".w", "bias": ".b", "embeddings": ""}[kind]
    return _Place(path, None if layer is None else int(layer), axes, plus)


def _axes(name: str, kind: str, metadata: TransformerMetadata) -> Axes:
    """What Penzai has in the place of every axis of a layer's weight, or of its bias."""
    d, f = (("embedding", metadata.embedding_dim),), (("neurons", metadata.mlp_hidden_dim),)
    v, e = (("vocabulary", metadata.vocab_size),), ("projection", metadata.projection_dim)
    keys = (*metadata.common_head_axes.items(), e)
    queries = (*metadata.common_head_axes.items(), *metadata.query_only_head_axes.items(), e)
    maps = {
        "embed": (v, d),
        "q": (d, queries),
        "k": (d, keys),
        "v": (d, keys),
        "o": (queries, d),
        "gate": (d, f),
        "up": (d, f),
        "down": (f, d),
        "unembed": (d, v),
    }
    if name not in maps:
        return (d,)
    return maps[name][1:] if kind == "bias" else maps[name]


def _whole_names(layer: int | None, axes: Axes) -> list[str]:
    """Names of the axes of a whole weight; one that is several in Penzai has all their names."""
    names = ["/".join(name for name, _ in group) for group in axes]
    return names if layer is None else [BLOCKS, *names]


def _whole(found: list[tuple[_Place, Any]]) -> jax.Array:
    """A weight from where Penzai has it: the very array that was viewed, or a new one."""
    places = {at.layer: (at, leaf) for at, leaf in found}
    views = [leaf for at, leaf in places.values() if isinstance(leaf, View) and _as_made(at, leaf)]
    if len(views) == len(places) and all(view.array is views[0].array for view in views):
        return views[0].array
    arrays = [_stored(at, leaf) for at, leaf in places.values()]
    return arrays[0] if None in places else jnp.stack(arrays)


def _as_made(at: _Place, view: View) -> bool:
    return (view.layer, view.axes, view.plus) == (at.layer, at.axes, at.plus)


def _stored(at: _Place, leaf: Any) -> jax.Array:
    """One layer's weight `[...]` as it is stored here.

    Raises:
      SelfxError: its axes are not those of the config.
    """
    sizes = dict(axis for group in at.axes for axis in group)
    exact = isinstance(leaf, View) and leaf.plus == at.plus
    value = leaf.stored if exact else leaf.value
    if dict(value.named_shape) != sizes:
        raise SelfxError(
            f"a Penzai model with axes {dict(value.named_shape)} at {at.path}",
            expected=f"{sizes}, as the config has them",
        )
    if at.plus and not exact:
        value = value - at.plus
    array = value.unwrap(*sizes)
    shape = tuple(math.prod(size for _, size in group) for group in at.axes)
    return array if array.shape == shape else array.reshape(shape)
