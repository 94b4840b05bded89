"""What the vectors come from: the target's shape, which an explainer of another shape must know."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from selfx.errors import SelfxError
from selfx.models.config import Config
from selfx.tasks.example import Example


@dataclasses.dataclass(frozen=True)
class Origin:
    """A target's shape.

    Attributes:
      width: of its vectors.
      layers: how many it has.
    """

    width: int
    layers: int


def origin_of(
    traces: Iterable[dict[str, Any]], examples: Sequence[Example], explainer: Config
) -> Origin:
    """The shape of the target that traces were made with.

    Published traces do not tell of it: then the width is that of the vectors, and the layers are
    the explainer's, where it is as wide, or else up to the deepest one met.

    Raises:
      SelfxError: targets or vectors of several shapes.
    """
    told = {(shape["d_model"], shape["n_layers"]) for t in traces if (shape := t.get("shape"))}
    widths = {example.vectors.shape[1] for example in examples if example.vectors is not None}
    widths |= {width for width, _ in told} if widths else set()
    if len(told) > 1 or len(widths) > 1:
        found = told if len(told) > 1 else widths
        raise SelfxError(
            f"targets of different shapes: {', '.join(map(str, sorted(found)))}",
            expected="traces of one target, or of targets of one width and depth",
        )
    if told:
        return Origin(*told.pop())
    width = widths.pop() if widths else explainer.d_model
    deepest = max((layer for e in examples for layer in e.layers), default=-1) + 1
    return Origin(width, max(explainer.n_layers if width == explainer.d_model else 1, deepest))


def check_layers(
    examples: Sequence[Example], origin: Origin, explainer: Config, own: bool, at: int
) -> None:
    """Raises SelfxError where vectors cannot go in after the layer that is meant.

    Args:
      examples: whose vectors go in.
      origin: what they come from.
      explainer: what they go into.
      own: whether each goes in after the layer that it was taken after.
      at: the layer for all, if not.
    """
    if not own and at >= explainer.n_layers:
        raise SelfxError(
            f"vectors after layer {at}", expected=f"a layer from 0 to {explainer.n_layers - 1}"
        )
    for example in examples if own else ():
        lost = [layer for layer in example.layers if not 0 <= layer < origin.layers]
        if example.vectors is not None and (lost or not example.layers):
            raise SelfxError(
                f"example {example.id} with a vector of layer {lost[0] if lost else 'unknown'}",
                expected=f"a layer from 0 to {origin.layers - 1} to add it after",
                hint="let vectors replace the placeholder's embedding: --injection marker",
            )
