"""Shards: ours, published ones without our columns, and everything that can be wrong with them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfx.errors import SelfxError
from selfx.files import write_json
from selfx.tasks.example import SLOT
from selfx.tasks.schema import ABLATION, PATCHING, PUBLISHED, SCHEMAS
from selfx.tasks.store import load_examples, load_trace, write_shards

POSITION = {
    "counterfact_pos": 2,
    "counterfact_text_token": "ĠParis",
    "intervention_vector": [0.5, -1.0, 2.0],
    "orig_pos": 1,
    "orig_text_token": "ĠRome",
}
PATCH = {
    "layer": [8, 9, 10],
    "input_tokens": [
        "<|begin_of_text|>",
        "In",
        "ĠRome",
        "Ċ",
        "Ċ",
        "Respond",
        "Ġwith",
        "Ġone",
        "Ġof",
    ],
    "original_continuation": ["ĠItaly"],
    "ablated_continuation": ["ĠFrance"],
    "is_different": True,
    "patch_position": POSITION,
    "counterfactual_text": "In Paris",
    "gt_original_target": "Italy",
    "gt_counterfactual_target": "France",
    "layer_hashable": [8, 9, 10],
    "token_type": "Subject Final",
}
HINT = {
    "index": 4,
    "question": "Why?",
    "choices": ["a", "b", "c", "d"],
    "correct_answer": "A",
    "zeroshot_prediction": "B",
    "random_hint_prediction": "C",
    "hint_token_ids": [1, 2],
    "original_prompt_full": "…",
    "hint_prompt_full": "…",
    "system_prompt": "Answer with a letter.",
    "original_user_prompt": "Why?",
    "hint_user_prompt": "Why?\nHint: I think the answer is (C) but I'm curious.",
    "hint": "C",
    "changed_pred_bc_hint": None,
    "ablation_prompt": "…",
}


def publish(folder, task, rows, split="train", name="{}-00000-of-00001.parquet"):
    path = folder / name.format(split)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(PUBLISHED[task])), path)
    return path


def test_a_published_patch(tmp_path):
    other = {**PATCH, "ablated_continuation": ["ĠItaly"], "is_different": False}
    publish(tmp_path, PATCHING, [PATCH, other])
    first, second = load_examples(tmp_path, "train")
    assert first.content == "France"
    assert first.answer == "The most likely output would change to <<<France>>>."
    assert second.answer == "The output would remain unchanged from <<<Italy>>>."
    assert (first.changed, second.changed) == (True, False)
    assert first.cell == "Subject Final × 8-10"
    assert first.id != second.id
    assert first.group == second.group == "In Rome"
    assert (first.split, first.task, first.system) == ("train", PATCHING, "")
    assert f"feature {SLOT} at layer 8, 9, 10 is added to tokens < Rome>" in first.question
    assert "<<<<|begin_of_text|>In Rome\n\nRespond with one of>>>" in first.question
    np.testing.assert_array_equal(first.vector, np.float32([0.5, -1, 2]))
    assert first.vector.dtype == np.float32
    assert first.details["counterfactual_text"] == "In Paris"
    assert "intervention_vector" not in first.details["patch_position"]


def test_published_patches_in_other_widths_and_folders(tmp_path):
    table = pa.Table.from_pylist([{**PATCH, "__index_level_0__": 3}])  # int64 and double throughout
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "test-00000-of-00001.parquet")
    pq.write_table(table, tmp_path / "data" / "train_full-00000-of-00001.parquet")
    assert len(load_examples(tmp_path, "test")) == 1
    with pytest.raises(SelfxError, match=r"no train-\*\.parquet"):
        load_examples(tmp_path, "train")


def test_a_published_hint(tmp_path):
    publish(tmp_path, ABLATION, [HINT, {**HINT, "zeroshot_prediction": "C "}], split="test")
    assert load_trace(tmp_path)["task"] == ABLATION
    first, second = load_examples(tmp_path, "test")
    assert first.answer == "The most likely output would change to <<<Answer: B>>>."
    assert second.answer == "The output would remain unchanged from <<<Answer: C>>>."
    assert first.vector is None
    assert first.cell == "hint C"
    assert first.system == "Answer with a letter."
    assert first.questions[0].startswith(HINT["hint_user_prompt"])
    assert first.group == second.group


def test_several_shards_are_read_in_order(tmp_path):
    for shard in (1, 0):
        rows = [{**PATCH, "ablated_continuation": [f"{shard}{row}"]} for row in range(3)]
        publish(tmp_path, PATCHING, rows, name=f"{{}}-0000{shard}.parquet")
    examples = load_examples(tmp_path, "train")
    assert [example.content for example in examples] == ["00", "01", "02", "10", "11", "12"]
    assert len({example.id for example in examples}) == 6


@pytest.mark.parametrize("column", ["layer", "token_type", "patch_position", "is_different"])
def test_a_missing_column_is_named(tmp_path, column):
    path = publish(tmp_path, PATCHING, [PATCH])
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    with pytest.raises(SelfxError, match=f"train-00000-of-00001.parquet lacks column {column}"):
        load_examples(tmp_path, "train")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("layer", "8, 9"),
        ("layer", [0.5]),
        ("is_different", "yes"),
        ("token_type", 3),
        ("input_tokens", "In Rome"),
        ("original_continuation", "Italy"),
        ("patch_position", {"orig_pos": 3}),
        ("patch_position", {**POSITION, "intervention_vector": "0.5"}),
    ],
)
def test_a_column_of_another_type_is_named(tmp_path, column, value):
    pq.write_table(pa.Table.from_pylist([{**PATCH, column: value}]), tmp_path / "train-0.parquet")
    with pytest.raises(SelfxError, match=f"train-0.parquet: column {column} is") as error:
        load_examples(tmp_path, "train")
    assert error.value.expected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layer": None}, "column layer is empty in 1 rows"),
        ({"patch_position": None}, "column patch_position is empty"),
        ({"layer": []}, "no example"),
        ({"patch_position": {**POSITION, "intervention_vector": [1.0]}}, "different widths"),
        ({"patch_position": {**POSITION, "intervention_vector": None}}, "different widths"),
        ({"patch_position": {**POSITION, "intervention_vector": [1.0, float("nan"), 0]}}, "finite"),
        ({"patch_position": {**POSITION, "orig_text_token": None}}, "no example"),
    ],
)
def test_a_row_that_is_no_example(tmp_path, change, said):
    publish(tmp_path, PATCHING, [PATCH, {**PATCH, **change}])
    with pytest.raises(SelfxError, match=said) as error:
        load_examples(tmp_path, "train")
    assert "train-00000-of-00001.parquet" in str(error.value)


def test_a_hint_without_a_letter(tmp_path):
    publish(tmp_path, ABLATION, [{**HINT, "hint_user_prompt": "Why?"}])
    with pytest.raises(SelfxError, match="no hint"):
        load_examples(tmp_path, "train")


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_shard_that_is_cut_off(tmp_path, cut):
    path = publish(tmp_path, PATCHING, [PATCH])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(SelfxError, match="train-00000-of-00001.parquet is no readable parquet"):
        load_examples(tmp_path, "train")


def test_a_shard_with_a_spoilt_page(tmp_path):
    path = publish(tmp_path, PATCHING, [PATCH] * 50)
    data = bytearray(path.read_bytes())
    data[4:400] = b"\xff" * 396
    path.write_bytes(bytes(data))
    with pytest.raises(SelfxError, match="train-00000-of-00001.parquet"):
        load_examples(tmp_path, "train")


def test_shards_of_two_tasks(tmp_path):
    publish(tmp_path, PATCHING, [PATCH], name="{}-0.parquet")
    publish(tmp_path, ABLATION, [HINT], name="{}-1.parquet")
    with pytest.raises(SelfxError, match="holds input-ablation"):
        load_examples(tmp_path, "train")


def test_ids_are_unique(tmp_path):
    rows = [{**PATCH, "id": "same"}] * 2
    table = pa.Table.from_pylist(rows, SCHEMAS[PATCHING])
    write_shards(tmp_path, SCHEMAS[PATCHING], {"train": [table], "test": []})
    with pytest.raises(SelfxError, match="same twice"):
        load_examples(tmp_path, "train")
    assert load_examples(tmp_path, "test") == []


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"task": "sums"}'])
def test_a_spoilt_record(tmp_path, text):
    publish(tmp_path, PATCHING, [PATCH])
    (tmp_path / "trace.json").write_text(text)
    with pytest.raises(SelfxError, match=r"trace\.json"):
        load_trace(tmp_path)


def test_no_trace_at_all(tmp_path):
    with pytest.raises(SelfxError, match="no trace in") as error:
        load_trace(tmp_path / "none")
    assert "selfx trace" in error.value.hint


def test_an_unknown_split(tmp_path):
    with pytest.raises(SelfxError, match="split 'valid'"):
        load_examples(tmp_path, "valid")


def test_writing_again_leaves_no_stray_shard(tmp_path):
    table = pa.Table.from_pylist([PATCH], SCHEMAS[PATCHING])
    stray = publish(tmp_path, PATCHING, [PATCH], name="{}-00009.parquet")
    counts = write_shards(tmp_path, SCHEMAS[PATCHING], {"train": [table], "test": [table]})
    write_json(tmp_path / "trace.json", {"task": PATCHING, "counts": counts})
    assert counts == {"train": 1, "test": 1}
    assert not stray.exists()
    assert pq.read_schema(tmp_path / "test-00000.parquet").equals(SCHEMAS[PATCHING])
