"""From outcomes to contrast sets, and from a set to the rows of a trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfx.tasks.contrast_draws import Blend, Cell
from selfx.tasks.patching import sayable
from selfx.tasks.published import patching_cell
from selfx.tasks.schema import CONTRAST
from selfx.tasks.split import short_hash
from selfx.weights.load import LanguageModel


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a patch.

    Attributes:
      before, after: next tokens.
      said: their texts.
      margin: by how much the logit of the one after exceeds the next.
    """

    before: int
    after: int
    said: tuple[str, str]
    margin: float

    @property
    def shown(self) -> tuple[str, str]:
        """The texts as answers have them."""
        return self.said[0].strip(), self.said[1].strip()

    @property
    def changed(self) -> bool:
        """Whether they differ as answers have them."""
        return self.shown[0] != self.shown[1]


def outcome(tokenizer: Any, before: float, after: float, margin: float) -> Outcome:
    """The outcome of next tokens."""
    ids = int(before), int(after)
    said = [str(tokenizer.decode([token])) for token in ids]
    return Outcome(*ids, (said[0], said[1]), margin)


def distinct(
    outcomes: Sequence[Outcome], rows: int, margin: float, rng: np.random.Generator
) -> list[int]:
    """Indices of `rows` outcomes that all differ, one of them no change; none where there are none.

    Any that qualify are as likely as others, whatever their order.

    Args:
      outcomes: of patches of one place.
      rows: how many to take.
      margin: of less sure ones none is taken.
      rng: draws.
    """
    found: dict[str, int] = {}
    kept: dict[bool, list[int]] = {False: [], True: []}
    for index in rng.permutation(len(outcomes)):
        one = outcomes[index]
        good = one.margin >= margin and all(map(sayable, one.said))
        if good and found.setdefault(one.shown[1], int(index)) == index:
            kept[one.changed].append(int(index))
    if not kept[False] or len(kept[True]) < rows - 1:
        return []
    return sorted([kept[False][0], *kept[True][: rows - 1]])


def row(
    target: LanguageModel,
    cell: Cell,
    blend: Blend,
    vector: np.ndarray,
    found: Outcome,
    *,
    number: int,
    seed: int,
) -> dict[str, Any]:
    """The row of one patch, in the published columns and ours; its first part is the source.

    `number` tells two sets of one place apart.
    """
    layers, first = list(cell.layers), blend.parts[0]
    text, source = (
        target.tokenizer.convert_ids_to_tokens(list(ids)) for ids in (cell.ids, first.spot[0])
    )
    name = short_hash(CONTRAST, target.hash, cell.ids, cell.position, cell.layers, number)
    return {
        "layer": layers,
        "layer_hashable": layers,
        "token_type": cell.token_type,
        "input_tokens": text,
        "input_ids": list(cell.ids),
        "source_ids": list(first.spot[0]),
        "patch_position": {
            "counterfact_pos": first.spot[1],
            "counterfact_text_token": source[first.spot[1]],
            "intervention_vector": vector,
            "orig_pos": cell.position,
            "orig_text_token": text[cell.position],
        },
        "counterfactual_text": first.text,
        "gt_original_target": cell.fact.attribute,
        "gt_counterfactual_target": first.says,
        "original_continuation": [found.said[0]],
        "ablated_continuation": [found.said[1]],
        "is_different": found.changed,
        "original_id": found.before,
        "ablated_id": found.after,
        "margin": found.margin,
        "changed": found.changed,
        "set": name,
        "parts": [
            {
                "text": part.text,
                "ids": list(part.spot[0]),
                "position": part.spot[1],
                "weight": part.weight,
            }
            for part in blend.parts
        ],
        "id": short_hash(name, vector.tobytes()),
        "group": cell.fact.subject,
        "cell": patching_cell(cell.token_type, layers),
        "split": cell.split,
        "target_hash": target.hash,
        "seed": seed,
        "format": "contrast",
    }
