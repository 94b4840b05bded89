"""The columns of trace shards: the published ones by name and type, and our own after them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from selfx.errors import SelfxError

PATCHING = "activation-patching"
ABLATION = "input-ablation"
HINTED_ANSWER = "random_hint_prediction"
"""The column of the letter that a target answers with a hint."""
FEATURES = "feature-description"
READING = "activation-reading"
CONTRAST = "contrast-patching"
"""How activation patching by contrast sets is asked for; its traces are of activation patching."""

_TEXTS = pa.list_(pa.string())
_OWN = [
    ("id", pa.string()),
    ("group", pa.string()),
    ("cell", pa.string()),
    ("split", pa.string()),
    ("changed", pa.bool_()),
    ("target_hash", pa.string()),
    ("seed", pa.int64()),
    ("format", pa.string()),
]

EXCERPT = pa.struct(
    [
        ("pieces", _TEXTS),
        ("ids", pa.list_(pa.int32())),
        ("activations", pa.list_(pa.float32())),
        ("kind", pa.string()),
        ("skip", pa.int32()),
        ("document", pa.int32()),
        ("start", pa.int32()),
    ]
)
"""A stretch of text with a feature's activations, as `selfx.features` has it."""

PART = pa.struct(
    [
        ("text", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("position", pa.int32()),
        ("weight", pa.float32()),
    ]
)
"""Of what a vector is the weighted sum: states at places of texts."""

POSITION = pa.struct(
    [
        ("counterfact_pos", pa.int64()),
        ("counterfact_text_token", pa.string()),
        ("intervention_vector", pa.list_(pa.float32())),
        ("orig_pos", pa.int64()),
        ("orig_text_token", pa.string()),
    ]
)

PUBLISHED: dict[str, list[tuple[str, pa.DataType]]] = {
    PATCHING: [
        ("layer", pa.list_(pa.int32())),
        ("input_tokens", _TEXTS),
        ("original_continuation", _TEXTS),
        ("ablated_continuation", _TEXTS),
        ("is_different", pa.bool_()),
        ("patch_position", POSITION),
        ("counterfactual_text", pa.string()),
        ("gt_original_target", pa.string()),
        ("gt_counterfactual_target", pa.string()),
        ("layer_hashable", pa.list_(pa.int32())),
        ("token_type", pa.string()),
    ],
    ABLATION: [
        ("index", pa.int64()),
        ("question", pa.string()),
        ("choices", _TEXTS),
        ("correct_answer", pa.string()),
        ("zeroshot_prediction", pa.string()),
        ("random_hint_prediction", pa.string()),
        ("hint_token_ids", pa.list_(pa.int64())),
        ("original_prompt_full", pa.string()),
        ("hint_prompt_full", pa.string()),
        ("system_prompt", pa.string()),
        ("original_user_prompt", pa.string()),
        ("hint_user_prompt", pa.string()),
        ("hint", pa.string()),
        ("changed_pred_bc_hint", pa.bool_()),
        ("ablation_prompt", pa.string()),
    ],
    FEATURES: [
        ("layer", pa.int32()),
        ("feature_idx", pa.int32()),
        ("chosen_label", pa.string()),
        ("all_labels", _TEXTS),
    ],
    READING: [],
}
"""What the datasets under `Transluce/` hold; of descriptions, what the published archive says.

Of activation reading nothing is published."""

NEEDED: dict[str, tuple[str, ...]] = {
    PATCHING: (
        "layer",
        "input_tokens",
        "original_continuation",
        "ablated_continuation",
        "is_different",
        "patch_position",
        "token_type",
    ),
    ABLATION: (
        "zeroshot_prediction",
        "random_hint_prediction",
        "system_prompt",
        "hint_user_prompt",
    ),
    FEATURES: ("layer", "chosen_label", "vector"),
    READING: ("ask", "layers", "vectors", "shown", "answer"),
}
"""Without which a row is no example."""

SCHEMAS = {
    PATCHING: pa.schema(
        [
            *PUBLISHED[PATCHING],
            ("input_ids", pa.list_(pa.int32())),
            ("source_ids", pa.list_(pa.int32())),
            ("original_id", pa.int32()),
            ("ablated_id", pa.int32()),
            ("margin", pa.float32()),
            ("set", pa.string()),
            ("parts", pa.list_(PART)),
            *_OWN,
        ]
    ),
    ABLATION: pa.schema(
        [
            *PUBLISHED[ABLATION],
            ("zeroshot_scores", pa.list_(pa.float32())),
            ("random_hint_scores", pa.list_(pa.float32())),
            ("layers", pa.list_(pa.int32())),
            ("vectors", pa.list_(pa.list_(pa.float32()))),
            ("input_ids", pa.list_(pa.int32())),
            *_OWN,
        ]
    ),
    FEATURES: pa.schema(
        [
            *PUBLISHED[FEATURES],
            ("vector", pa.list_(pa.float32())),
            ("site", pa.string()),
            ("dictionary", pa.string()),
            ("describer", pa.string()),
            ("label_correlation", pa.float32()),
            ("peak", pa.float32()),
            ("frequency", pa.float32()),
            ("promoted", _TEXTS),
            ("suppressed", _TEXTS),
            ("excerpts", pa.list_(EXCERPT)),
            *_OWN,
        ]
    ),
    READING: pa.schema(
        [
            ("ask", pa.string()),
            ("layers", pa.list_(pa.int32())),
            ("vectors", pa.list_(pa.list_(pa.float32()))),
            ("shown", _TEXTS),
            ("answer", pa.string()),
            ("input_ids", pa.list_(pa.int32())),
            ("position", pa.int32()),
            ("text", pa.string()),
            ("site", pa.string()),
            *_OWN,
        ]
    ),
}
"""What we write."""


def task_of(schema: pa.Schema, path: Path) -> str:
    """The task whose columns a file has.

    Raises:
      SelfxError: a needed column is missing or holds something else; of others, which are kept
        but not read, the type does not matter.
    """
    task = _task_like(schema.names)
    types = dict(SCHEMAS_BY_NAME[task])
    missing = [name for name in NEEDED[task] if name not in schema.names]
    if missing:
        raise SelfxError(
            f"{path} lacks column {', '.join(missing)} (it has {', '.join(schema.names)})",
            expected=f"the columns of a trace of {task}: {', '.join(NEEDED[task])}",
        )
    read = {*NEEDED[task], *dict(_OWN)}
    for field in schema:
        if field.name in read and _kind(field.type) != _kind(types[field.name]):
            raise SelfxError(
                f"{path}: column {field.name} is {_kind(field.type)}",
                expected=_kind(types[field.name]),
            )
    return task


def _task_like(names: Sequence[str]) -> str:
    """The task that columns remind of most."""
    if "hint_user_prompt" not in names and ("ask" in names or "vectors" in names):
        return READING
    if "chosen_label" in names or "feature_idx" in names:
        return FEATURES
    return PATCHING if "patch_position" in names or "layer" in names else ABLATION


def is_list(type_: pa.DataType) -> bool:
    """Whether a column holds lists, be they of one length, as the hub writes vectors, or of any."""
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(kind(type_) for kind in kinds)


def _kind(type_: pa.DataType) -> str:
    """A type's name, widths of numbers and texts left out; what a struct holds is part of it."""
    if is_list(type_):
        return f"a list of {_kind(type_.value_type)}"
    if pa.types.is_struct(type_):
        fields = (f"{field.name}: {_kind(field.type)}" for field in sorted(type_, key=_name))
        return f"a struct of {', '.join(fields)}"
    tests = {
        "text": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t),
        "whole numbers": pa.types.is_integer,
        "numbers": pa.types.is_floating,
        "true or false": pa.types.is_boolean,
    }
    return next((name for name, test in tests.items() if test(type_)), str(type_))


def _name(field: pa.Field) -> str:
    return field.name


SCHEMAS_BY_NAME = {
    task: {field.name: field.type for field in schema} for task, schema in SCHEMAS.items()
}
