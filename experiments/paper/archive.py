"""The published feature descriptions as a trace: directions, labels and exemplars of the archive.

Nothing is run on the target. A description is scored on the archive's own texts: those of the
highest activations and of those taken at random, of the test third; the paper scores on twenty of
the train third with the highest activations alone. Of each layer as many features are taken as the
limit leaves it, in the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import selfx
from selfx.errors import SelfxError
from selfx.features.descriptions.archive import (
    BY,
    Labelled,
    read_directions,
    read_excerpts,
    read_labels,
    read_places,
)
from selfx.features.exemplars.excerpts import Excerpt, Pieces
from selfx.files import write_json
from selfx.progress import progress
from selfx.tasks.evidence import excerpt_row
from selfx.tasks.published import feature_cell
from selfx.tasks.schema import FEATURES, SCHEMAS
from selfx.tasks.store import TRACE, write_shards
from selfx.weights.load import LanguageModel

SPLITS = {"train": "train", "test": "test"}
"""The archive's name of each of our splits."""
TEXTS = ("test", "random_test")
EXCERPTS = 10
"""Of either kind."""


def trace_of_archive(folder: str | Path, out: Path, target: LanguageModel, *, limit: int) -> Path:
    """The trace in `out`, made of the archive.

    Args:
      folder: the archive, unpacked.
      out: the trace folder.
      target: the model that it is of.
      limit: training examples to take, evenly from all layers; the test split is taken whole.

    Raises:
      SelfxError: a file of the archive is missing or is not what it should be, or a training
        direction is in the test split as well.
    """
    labels = {ours: read_labels(folder, theirs) for ours, theirs in SPLITS.items()}
    held_out = {(one.layer, one.index) for one in labels["test"]}
    both = [one for one in labels["train"] if (one.layer, one.index) in held_out]
    if both:
        raise SelfxError(
            f"feature {both[0].index} of layer {both[0].layer} in both splits of {folder}",
            expected="a feature in one split only",
        )
    chosen = {"train": _evenly(labels["train"], limit), "test": labels["test"]}
    tables = {}
    for split, some in chosen.items():
        with progress(f"reading the {split} split") as report:
            rows = list(_rows(Path(folder), split, some, target))
            report(len(rows), len(some), "features")
        tables[split] = [pa.Table.from_pylist(rows, SCHEMAS[FEATURES])]
    counts = write_shards(out, SCHEMAS[FEATURES], tables)
    config = target.config
    record = {
        "version": selfx.__version__,
        "task": FEATURES,
        "target": target.name,
        "target_hash": target.hash,
        "shape": {"d_model": config.d_model, "n_layers": config.n_layers},
        "counts": counts,
        "settings": {"archive": Path(folder).name, "limit": limit},
        "seed": None,
    }
    write_json(out / TRACE, record)
    return out


def _evenly(labels: Sequence[Labelled], limit: int) -> list[Labelled]:
    """As many of each layer as `limit` leaves it, in their order."""
    layers = sorted({one.layer for one in labels})
    share, taken = -(-limit // max(len(layers), 1)), dict.fromkeys(layers, 0)
    kept = []
    for one in labels:
        taken[one.layer] += 1
        if taken[one.layer] <= share:
            kept.append(one)
    return kept


def _rows(
    folder: Path, split: str, labels: Sequence[Labelled], target: LanguageModel
) -> Iterator[dict[str, Any]]:
    """Rows of a split, layer by layer: a layer's directions are many."""
    pieces, pad = Pieces(target.tokenizer), _pad(target)
    places = read_places(folder, SPLITS[split]) if split == "test" else {}
    for layer in sorted({one.layer for one in labels}):
        directions = read_directions(folder, layer, target.config.d_model)
        for one in labels:
            if one.layer == layer:
                row = places.get((layer, one.index))
                texts = () if row is None else _texts(folder, layer, row, pieces, pad)
                yield _row(one, split, directions[one.index], texts, target)


def _texts(folder: Path, layer: int, row: int, pieces: Pieces, pad: int) -> tuple[Excerpt, ...]:
    kinds = (read_excerpts(folder, name, layer, row, pieces, pad, most=EXCERPTS) for name in TEXTS)
    return tuple(excerpt for kind in kinds for excerpt in kind)


def _row(
    one: Labelled,
    split: str,
    direction: np.ndarray,
    texts: Sequence[Excerpt],
    target: LanguageModel,
) -> dict[str, Any]:
    name = f"layer {one.layer} feature {one.index}"
    said = [description.text for description in one.descriptions]
    return {
        "layer": one.layer,
        "feature_idx": one.index,
        "chosen_label": said[0],
        "all_labels": said,
        "vector": direction,
        "site": "resid_post",
        "dictionary": f"archive-layer{one.layer}",
        "describer": BY,
        "peak": max((text.peak for text in texts), default=None),
        "excerpts": [excerpt_row(text) for text in texts],
        "id": name.replace(" ", "-"),
        "group": name,
        "cell": feature_cell(one.layer),
        "split": split,
        "changed": False,
        "target_hash": target.hash,
    }


def _pad(target: LanguageModel) -> int:
    """The token that rows of the archive are filled with on the left.

    Llama 3 has none of its own; its archive takes the end of text.
    """
    own = target.tokenizer.pad_token_id
    return int(own if own is not None else target.tokenizer.eos_token_id)
