"""How a target's vectors enter the explainer, at the placeholders that stand for them.

Every way is one file and one entry of `INJECTIONS`: a function from a direction and a length to an
edit. What they share: a vector is split into a direction, which a `Reader` may turn, and a length,
which the injection may keep or replace.

    vector [d] ── direction ── reader ── × length ── edit at the placeholder
               └─ length ───────────────────┘
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from selfx.errors import SelfxError
from selfx.explainer.injection import addition, embedding, marker, overwrite
from selfx.explainer.injection.slots import Held
from selfx.explainer.projection.files import same_depth
from selfx.explainer.reader import Reader, length, unit
from selfx.interventions.edits import Edits
from selfx.models.decoder import Decoder
from selfx.models.tap import Array

Name = Literal["embedding", "marker", "add", "overwrite"]
OWN = -1
"""The layer that stands for the one each vector was taken after."""


@dataclasses.dataclass(frozen=True)
class Injection:
    """A way in.

    Attributes:
      edit: from the explainer, what is held at the placeholders, and a strength, to edits.
      strength: the one that it takes where none is chosen.
      layered: whether it acts after a layer rather than at the embeddings.
      about: what it does, in a line.
    """

    edit: Callable[[Decoder, Held, jax.Array], Edits]
    strength: float
    layered: bool
    about: str


INJECTIONS: dict[str, Injection] = {
    "embedding": Injection(embedding.edit, 1.0, False, embedding.ABOUT),
    "marker": Injection(marker.edit, 50.0, False, marker.ABOUT),
    "add": Injection(addition.edit, 1.0, True, addition.ABOUT),
    "overwrite": Injection(overwrite.edit, 1.0, True, overwrite.ABOUT),
}


@dataclasses.dataclass(frozen=True)
class Way:
    """Which injection, how strong, and where.

    Attributes:
      injection: a name in `INJECTIONS`.
      strength: in the injection's own measure; 0 takes its default.
      at: the layer of the explainer after which it acts, `OWN` for the one that each vector was
        taken after; of no use to those that act at the embeddings.
      latest: where it goes in after its own layer, the last one that it may go in after: what comes
        later has the fewer layers to be read in. -1 for no such bound.
      blind: zeros enter whatever the vectors are, so that nothing of them can be read.
    """

    injection: Name = "marker"
    strength: float = 0.0
    at: int = OWN
    latest: int = -1
    blind: bool = False

    def check(self) -> None:
        """Raises SelfxError for a way that there is not."""
        if self.injection not in get_args(Name):
            raise SelfxError(
                f"injection {self.injection!r}", expected=f"one of {', '.join(INJECTIONS)}"
            )
        if not 0 <= self.strength < math.inf:
            raise SelfxError(f"strength {self.strength}", expected="a positive number")
        for layer in (self.at, self.latest):
            if layer < OWN:
                raise SelfxError(f"layer {layer} to inject after", expected="a layer from 0, or -1")

    @property
    def own(self) -> bool:
        """Whether every vector goes where it came from."""
        return INJECTIONS[self.injection].layered and self.at == OWN


def inject(
    way: Way,
    model: Decoder,
    reader: Reader | None,
    vectors: Array,
    slots: Array,
    layers: Array,
    depth: int | None = None,
) -> Edits:
    """The edits that let rows read `vectors` `[b, m, d]` at positions `slots` `[b, m]`.

    Args:
      way: how they enter.
      model: the explainer's weights.
      reader: what turns their directions first, or None.
      vectors: as the target had them; zeros stay zeros.
      slots: int `[b, m]`, -1 for none: of the vector there nothing is read.
      layers: int `[b, m]`, after which layer of the target each was taken, -1 if unknown.
      depth: the target's layers; None for as many as the explainer has. A vector that goes in
        after its own layer goes in at the same share of another depth.
    """
    chosen = INJECTIONS[way.injection]
    vectors, layers = jnp.asarray(vectors, jnp.float32), jnp.asarray(layers, jnp.int32)
    seen = jnp.zeros_like(slots, bool) if way.blind else jnp.asarray(slots) >= 0
    vectors = jnp.where(seen[..., None], vectors, 0)
    directions = unit(vectors)
    if reader is not None:
        directions = reader(directions, layers)
    at = jnp.full_like(layers, way.at)
    if way.own:
        at = _as_deep(layers, depth, model.config.n_layers)
        at = at if way.latest == OWN else jnp.minimum(at, way.latest)
    held = Held(directions, length(vectors), jnp.asarray(slots, jnp.int32), at)
    return chosen.edit(model, held, jnp.float32(way.strength or chosen.strength))


def _as_deep(layers: jax.Array, depth: int | None, n_layers: int) -> jax.Array:
    """`layers` of a model of `depth` layers, at the same share of `n_layers`."""
    if depth is None or depth == n_layers:
        return layers
    table = jnp.asarray(same_depth(depth, n_layers), jnp.int32)
    return jnp.where(layers < 0, layers, table[jnp.maximum(layers, 0)])
