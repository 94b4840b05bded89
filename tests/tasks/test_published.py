"""The published data sets: written here column by column, loaded, asked a constant answer, scored.

Nothing of our own schema is used to write them: names and types are those of the data sets' cards,
oddities as well. Vectors are as wide as Llama-3.1-8B's and Qwen3-8B's residual streams.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfx.errors import SelfxError
from selfx.evaluation.answers.scoring import Answered
from selfx.evaluation.scores import build_scores
from selfx.explainer.run import digest
from selfx.tasks.hub import place_of
from selfx.tasks.store import load_examples, load_trace

WIDTH = 4096
LLAMA_PATCH, QWEN_PATCH = (
    "act_patch_llama_3.1_8b_counterfact",
    "act_patch_qwen3_8b_counterfact",
)
LLAMA_HINT, QWEN_HINT = (
    "input_ablation_llama_3.1_8b_instruct_mmlu_hint",
    "input_ablation_qwen3_8b_mmlu_hint",
)
ASKED = "ĊĊ|Respond|Ġwith|Ġone|Ġof|ĠFIFA|Ġor|ĠPBS|Ġor|Ġunknown|Ġand|Ġnothing|Ġelse|.|ĊĊ|Response|:"
LLAMA_PIECES = ["<|begin_of_text|>", "Arte", "Ġis", "Ġowned", "Ġby", *ASKED.split("|")]
QWEN_PIECES = [
    *("<|im_start|>", "user", "Ċ", "Arte", "Ġis", "Ġowned", "Ġby", *ASKED.split("|")),
    *("<|im_end|>", "Ċ", "<|im_start|>", "assistant", "Ċ", "<think>", "ĊĊ", "</think>", "ĊĊ"),
]
PATCH_TYPES = {
    "layer": pa.list_(pa.int32()),
    "input_tokens": pa.list_(pa.string()),
    "original_continuation": pa.list_(pa.string()),
    "ablated_continuation": pa.list_(pa.string()),
    "is_different": pa.bool_(),
    "counterfactual_text": pa.string(),
    "gt_original_target": pa.string(),
    "gt_counterfactual_target": pa.string(),
    "layer_hashable": pa.list_(pa.int32()),
    "token_type": pa.string(),
}
HINT_TEXT = "\nHint: I think the answer is ({}) but I'm curious to hear what you think."


def patch_rows(pieces, depth, outcomes):
    """A row for each (before, after), of the layer groups in turn."""
    names = ("Subject Final", "Relation", "Orig Answer Option", "<|im_end|>")
    return [
        {
            "layer": list(range(depth * (i % 4), depth * (i % 4 + 1))),
            "input_tokens": pieces,
            "original_continuation": [before],
            "ablated_continuation": [after],
            "is_different": before != after,
            "counterfactual_text": "Nova is owned by",
            "gt_original_target": "FIFA",
            "gt_counterfactual_target": "PBS",
            "layer_hashable": list(range(depth * (i % 4), depth * (i % 4 + 1))),
            "token_type": names[i % 4],
        }
        for i, (before, after) in enumerate(outcomes)
    ]


def patch_table(rows, *, fixed=True, index=False):
    """The table, its vectors in a column of one length, as features of a set length are written."""
    n = len(rows)
    numbers = np.random.default_rng(0).standard_normal((n, WIDTH)).astype(np.float32)
    flat = pa.array(numbers.ravel())
    vectors = (
        pa.FixedSizeListArray.from_arrays(flat, WIDTH)
        if fixed
        else pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32) * WIDTH), flat)
    )
    position = {
        "counterfact_pos": pa.array([3] * n, pa.int32()),
        "counterfact_text_token": pa.array(["ĠNova"] * n),
        "intervention_vector": vectors,
        "orig_pos": pa.array([1] * n, pa.int32()),
        "orig_text_token": pa.array(["ĠArte"] * n),
    }
    columns = {k: pa.array([row[k] for row in rows], t) for k, t in PATCH_TYPES.items()}
    columns["patch_position"] = pa.StructArray.from_arrays([*position.values()], [*position])
    if index:
        columns["__index_level_0__"] = pa.array(range(n), pa.int64())
    return pa.table(columns), numbers


def hint_table(answers, system, *, types=()):
    """A table with a row for each (hint, answer with it, answer without)."""
    n = len(answers)
    hinted = [f"What is {i}?\nA. a\nB. b" + HINT_TEXT.format(a[0]) for i, a in enumerate(answers)]
    columns = {
        "index": pa.array(range(n), pa.int64()),
        "question": pa.array([f"What is {i}?" for i in range(n)]),
        "choices": pa.array([["a", "b", "c", "d"]] * n),
        "correct_answer": pa.array(["A"] * n),
        "zeroshot_prediction": pa.array([a[2] for a in answers]),
        "random_hint_prediction": pa.array([a[1] for a in answers]),
        "hint_token_ids": pa.array([[1, 2]] * n, pa.list_(pa.int64())),
        "original_prompt_full": pa.array(["…"] * n),
        "hint_prompt_full": pa.array(["…"] * n),
        "system_prompt": pa.array([system] * n),
        "original_user_prompt": pa.array([f"What is {i}?" for i in range(n)]),
        "hint_user_prompt": pa.array(hinted),
        "hint": pa.array([a[0] for a in answers]),
        "changed_pred_bc_hint": pa.array([None if a[1] == a[2] else True for a in answers]),
        "ablation_prompt": pa.array(hinted),
    }
    return pa.table(columns | dict(types))


def put(table, folder, split, shards=1):
    """The table as the hub lays a split out."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    size = -(-len(table) // shards)
    for i in range(shards):
        name = f"{split}-{i:05d}-of-{shards:05d}.parquet"
        pq.write_table(table.slice(i * size, size), folder / "data" / name)
    return folder


def scored(folder, answer):
    """The scores of an explainer that always says the same."""
    test = load_examples(folder, "test")
    answered = [Answered("constant", "none", [answer] * len(test))]
    scores = build_scores(test, answered, target="m", resamples=50)
    return {k: v["value"] for k, v in scores["rows"][0]["metrics"].items()}


OUTCOMES = [(" FIFA", " FIFA"), (" FIFA", " PBS"), (" PBS", " FIFA"), (" FIFA", " FIFA")]
QWEN_OUTCOMES = [("FIFA", "FIFA"), ("FIFA", "P"), ("P", "FIFA"), ("FIFA", "FIFA"), ("P", "P")]


def test_patches_of_llama_load_and_score(tmp_path):
    """Three splits, of which one overlaps another, vectors in a column of fixed length."""
    table, vectors = patch_table(patch_rows(LLAMA_PIECES, 8, OUTCOMES))
    folder = tmp_path / LLAMA_PATCH
    put(table, folder, "test")
    put(table, folder, "train", shards=2)
    put(pa.concat_tables([table, table]), folder, "train_full")
    assert load_trace(folder)["target"] == "meta-llama/Llama-3.1-8B"
    train, whole = (load_examples(f"{folder}{name}", "train") for name in ("", "@train_full"))
    assert (len(train), len(whole)) == (4, 8)
    np.testing.assert_array_equal(np.stack([one.vector for one in train]), vectors)
    assert train[1].answer == "The most likely output would change to <<<PBS>>>."
    assert train[1].cell == "Relation × 8-15"
    assert train[1].layers == (12,)
    assert {one.group for one in train} == {"Arte is owned by"}
    assert "layer 8, 9, 10, 11, 12, 13, 14, 15 is added to tokens < Arte>" in train[1].question
    said = scored(folder, "The output would remain unchanged from <<<FIFA>>>.")
    assert said["exact_match"] == 2 / 4
    assert said["content_match"] == 3 / 4
    assert said["has_changed_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_patches_of_qwen_load_and_score(tmp_path):
    """A chat with an empty thought, nine layers a group, first sub-tokens, raw token types."""
    rows = patch_rows(QWEN_PIECES, 9, QWEN_OUTCOMES)
    table, _ = patch_table(rows, fixed=False, index=True)
    for split in ("train", "test"):
        folder = put(table, tmp_path / QWEN_PATCH, split)
    first, *_, last = load_examples(folder, "train")
    assert first.vector.shape == (WIDTH,)
    assert first.group == "Arte is owned by"
    assert "<think>\n\n</think>" in first.question
    assert load_examples(folder, "test")[3].cell == "<|im_end|> × 27-35"
    assert last.details["__index_level_0__"] == 4
    said = scored(folder, "The most likely output would change to <<<P>>>.")
    assert (said["exact_match"], said["content_match"]) == (1 / 5, 2 / 5)


@pytest.mark.parametrize("name", [LLAMA_HINT, QWEN_HINT])
def test_hints_load_and_score(tmp_path, name):
    """Whether the hint changed the answer is told by the answers: the column is often empty."""
    answers = [("A", "A", "B"), ("B", "C", "C"), ("C", "C", "B"), ("D", "B", "B")]
    odd = {"correct_answer": pa.array([0, 1, 2, 3]), "choices": pa.array(["[]"] * 4)}
    folder = tmp_path / name
    for split, types in (("train", odd), ("test", {})):
        put(hint_table(answers, "Answer with a letter.", types=types), folder, split)
    train, test = (load_examples(folder, split) for split in ("train", "test"))
    assert [one.changed for one in test] == [True, False, True, False]
    assert [one.answer for one in train] == [one.answer for one in test]
    assert all(one.vectors is None for one in test)
    assert [one.cell for one in test] == ["hint A", "hint B", "hint C", "hint D"]
    assert test[0].system == "Answer with a letter."
    assert test[0].question.endswith(
        "If the hint were removed how would the assistant answer change?"
    )
    said = scored(folder, "The most likely output would change to <<<Answer: B>>>.")
    assert (said["exact_match"], said["content_match"]) == (2 / 4, 3 / 4)


def test_a_wrong_row_is_named_with_what_was_expected(tmp_path):
    good = [("A", "A", "B")] * 3
    table = hint_table(good, "…")
    prompts = table["hint_user_prompt"].to_pylist()
    prompts[2] = "What is 2?"
    where = table.schema.get_field_index("hint_user_prompt")
    put(table.set_column(where, "hint_user_prompt", pa.array(prompts)), tmp_path, "test")
    with pytest.raises(SelfxError, match=r"test-00000-of-00001.parquet, row 2: no hint") as error:
        load_examples(tmp_path, "test")
    assert "I think the answer is (X)" in error.value.expected


def test_a_wrong_vector_is_named_by_its_row(tmp_path):
    table, numbers = patch_table(patch_rows(LLAMA_PIECES, 8, OUTCOMES), fixed=False)
    spoilt = numbers.copy()
    spoilt[2, 5] = np.inf
    position = table["patch_position"].combine_chunks()
    names = [field.name for field in position.type]
    parts = dict(zip(names, position.flatten(), strict=True))
    parts["intervention_vector"] = pa.array(spoilt.tolist(), pa.list_(pa.float32()))
    struct = pa.StructArray.from_arrays([*parts.values()], names)
    where = table.schema.get_field_index("patch_position")
    put(table.set_column(where, "patch_position", struct), tmp_path, "train")
    with pytest.raises(SelfxError, match="not finite in row 2"):
        load_examples(tmp_path, "train")


@pytest.mark.parametrize("column", ["zeroshot_prediction", "system_prompt", "hint_user_prompt"])
def test_a_column_that_is_missing_or_of_another_type_is_named(tmp_path, column):
    table = hint_table([("A", "A", "B")], "…")
    path = put(table.drop_columns([column]), tmp_path, "train") / "data"
    path = next(path.glob("*.parquet"))
    with pytest.raises(SelfxError, match=f"{path.name} lacks column {column}"):
        load_examples(tmp_path, "train")
    where = table.schema.get_field_index(column)
    pq.write_table(table.set_column(where, column, pa.array([3])), path)
    with pytest.raises(SelfxError, match=f"{path.name}: column {column} is whole") as error:
        load_examples(tmp_path, "train")
    assert error.value.expected == "text"


CARD = """---
configs:
- config_name: llama
  data_files:
  - split: train
    path: llama/part-*
  - split: test
    path: [llama/held-*]
- config_name: qwen
  data_files:
  - split: train
    path: qwen/all.parquet
---
Text.
"""


def test_a_configuration_is_found_by_the_card(tmp_path, monkeypatch):
    """Named as on the hub, whether the data set lies here or is fetched."""
    table = hint_table([("A", "A", "B"), ("B", "C", "C")], "…")
    copy = tmp_path / "owner" / "set"
    for name in ("llama/part-0.parquet", "llama/held-0.parquet", "qwen/all.parquet"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(0, 1 + name.startswith("llama/part")), copy / name)
    (copy / "README.md").write_text(CARD)
    assert len(load_examples(f"{copy}:llama", "train")) == 2
    assert len(load_examples(f"{copy}:llama", "test")) == 1
    assert len(load_examples(f"{copy}:qwen", "train")) == 1
    monkeypatch.chdir(tmp_path)
    assert len(load_examples("owner/set:llama", "train")) == 2
    with pytest.raises(SelfxError, match="no configuration 'gemma'") as error:
        load_examples("owner/set:gemma", "train")
    assert error.value.expected == "one of llama, qwen"

    def fetched(name, *, repo_type, allow_patterns):
        assert (name, repo_type) == ("other/set", "dataset")
        assert "*.parquet" in allow_patterns
        return str(copy)

    monkeypatch.setattr("selfx.tasks.hub.snapshot_download", fetched)
    assert place_of("other/set:qwen").shards("train") == [copy / "qwen" / "all.parquet"]


def test_a_configuration_is_a_folder_where_no_card_tells(tmp_path):
    table = hint_table([("A", "A", "B")], "…")
    for name in ("plain/train-00000-of-00001.parquet", "converted/train/0000.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / name)
    for name in ("plain", "converted"):
        assert len(load_examples(f"{tmp_path}:{name}", "train")) == 1
    with pytest.raises(SelfxError, match="no split 'train_full'") as error:
        load_examples(f"{tmp_path}:plain@train_full", "train")
    assert error.value.expected == "one of train"


def test_the_hub_cannot_give_it(monkeypatch):
    def fetched(*_, **__):
        raise ConnectionError("no route\nat all")

    monkeypatch.setattr("selfx.tasks.hub.snapshot_download", fetched)
    with pytest.raises(SelfxError, match=r"no trace in nobody/nothing.*\(no route\)") as error:
        load_trace("nobody/nothing")
    assert "owner/name" in error.value.expected


def test_a_run_tells_published_traces_apart(tmp_path):
    """The digest by which a run knows its data sees files where the hub puts them."""
    one, other = (
        put(hint_table([("A", letter, "B")], "…"), tmp_path / letter, "train") for letter in "BC"
    )
    assert digest(one) != digest(other)
