"""Both tasks on the tiny model: what is written is what the model did."""

import numpy as np
import pytest

import selfx
from selfx.data import questions_path
from selfx.errors import SelfxError
from selfx.interventions.pairs import Pair, run_pairs
from selfx.tasks import ablation, patching
from selfx.tasks.answering import letter_tokens
from selfx.tasks.questions import read_questions
from selfx.tasks.split import split_of
from selfx.tasks.store import load_examples, load_trace
from selfx.tasks.trace import trace


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def both(folder):
    return load_examples(folder, "train") + load_examples(folder, "test")


def test_what_a_patching_trace_says(patching_trace, tiny_lm):
    folder, record = patching_trace
    assert record == load_trace(folder)
    assert record["task"] == "activation-patching"
    assert record["target_hash"] == tiny_lm.hash
    assert record["seed"] == 3
    assert record["version"]
    assert record["columns"][0] == "layer"
    assert record["settings"]["format"] == "completion"
    assert sum(record["counts"].values()) == len(both(folder)) > 0
    kept = record["balance"]["kept"]["train"]
    assert kept["changed"] + kept["unchanged"] == record["counts"]["train"]


def test_patches_can_be_repeated_from_their_rows(patching_trace, tiny_lm):
    for example in both(patching_trace[0]):
        row = example.details
        place = row["patch_position"]
        pair = Pair(
            tuple(row["input_ids"]),
            tuple(row["source_ids"]),
            tuple(row["layer"]),
            place["orig_pos"],
            place["counterfact_pos"],
            "mean",
        )
        again = run_pairs(tiny_lm.model, [pair] * 64, keep_vectors=True)
        if again.margin[0] > 1e-3:
            assert again.patched[0] == row["ablated_id"]
        assert again.base[0] == row["original_id"]
        np.testing.assert_allclose(again.vectors[0], example.vector, atol=1e-4)
        assert example.content == tiny_lm.tokenizer.decode([row["ablated_id"]]).strip()
        assert example.changed == (row["ablated_id"] != row["original_id"])
        assert row["margin"] == pytest.approx(float(again.margin[0]), abs=1e-3)
        break


def test_rows_of_a_patching_trace_hang_together(patching_trace, tiny_lm):
    for example in both(patching_trace[0]):
        row = example.details
        place = row["patch_position"]
        tokens = tiny_lm.tokenizer.convert_ids_to_tokens(row["input_ids"])
        assert row["input_tokens"] == tokens
        assert place["orig_text_token"] == tokens[place["orig_pos"]]
        text = tiny_lm.tokenizer.decode(row["input_ids"])
        assert f"<<<{text}>>>" in example.question
        assert example.group in text
        assert row["is_different"] == row["changed"] == example.changed
        assert example.split == row["split"] == split_of(example.group, 3)
        assert example.cell.startswith(row["token_type"])
        assert row["counterfactual_text"] == tiny_lm.tokenizer.decode(row["source_ids"])
        assert row["gt_original_target"] != row["gt_counterfactual_target"]
        if row["token_type"] == "last":
            assert place["orig_pos"] == len(tokens) - 1


def test_no_subject_of_the_test_split_is_seen_in_training(patching_trace):
    train, test = (load_examples(patching_trace[0], split) for split in ("train", "test"))
    held = {example.group for example in test}
    assert held
    for example in train:
        seen = example.details["counterfactual_text"] + example.question
        assert not any(f"{subject} " in seen for subject in held)


def test_the_published_format(tmp_path, tiny_lm, facts_file, monkeypatch):
    monkeypatch.setattr(patching, "TEXTS_A_BLOCK", 8)
    monkeypatch.setattr(patching, "OVERSAMPLE", 1)
    monkeypatch.setattr(patching, "sayable", bool)  # this model says a control character
    record = trace(
        "activation-patching", tiny_lm, tmp_path / "t", data=facts_file, limit=32, format="options"
    )
    examples = both(tmp_path / "t")
    assert record["settings"]["format"] == "options"
    assert examples
    for example in examples:
        row = example.details
        assert "Respond with one of" in example.question
        assert row["token_type"] in patching.F.TOKEN_TYPES["options"]
        here = pieces(tiny_lm, row["input_ids"], row["patch_position"]["orig_pos"])
        if row["token_type"] == "original_option":
            assert here.endswith(row["gt_original_target"])
        if row["token_type"] == "changed_option":
            assert here.endswith(row["gt_counterfactual_target"])


def pieces(lm, ids, last):
    return lm.tokenizer.decode(ids[: last + 1])


def test_what_an_ablation_trace_says(ablation_trace, tiny_lm):
    folder, record = ablation_trace
    assert record == load_trace(folder)
    assert len(record["letter_offsets"]) == 4
    assert record["skipped_rows"] == []
    examples = both(folder)
    assert len(examples) == sum(record["counts"].values()) > 0
    for example in examples:
        row = example.details
        letters = ["ABCD"[n] for n in np.argmax(scores(row) - record["letter_offsets"], axis=1)]
        assert [row["zeroshot_prediction"], row["random_hint_prediction"]] == letters
        assert example.changed == (letters[0] != letters[1]) == row["changed_pred_bc_hint"]
        assert example.content == f"Answer: {letters[0]}"
        assert example.split == split_of(example.group, 0)
        assert f"({row['hint']})" in row["hint_user_prompt"]
        assert example.cell == f"hint {row['hint']}"
        assert row["hint_user_prompt"].startswith(row["original_user_prompt"])
        assert row["ablation_prompt"] == example.question
        assert row["original_prompt_full"].endswith(letter_tokens(tiny_lm.tokenizer)[0])


def scores(row):
    return np.array([row["zeroshot_scores"], row["random_hint_scores"]])


def test_hints_of_a_question_are_different(ablation_trace):
    hints = {}
    for example in both(ablation_trace[0]):
        hints.setdefault(example.group, []).append(example.details["hint"])
    assert any(len(several) > 1 for several in hints.values())
    assert all(len(set(several)) == len(several) for several in hints.values())


def test_letters_are_calibrated_on_training_questions_without_hints(ablation_trace, tiny_lm):
    """With every question used, the calibrated scores of the training split average to zero."""
    record = ablation_trace[1]
    assert np.std(record["letter_offsets"]) > 0


def test_states_are_the_residuals_before_the_hinted_answer(tmp_path, tiny_lm, questions_file):
    options = {"max_tokens": 700, "hints_per_question": 2, "states": "1,0"}
    trace("input-ablation", tiny_lm, tmp_path / "t", data=questions_file, limit=12, **options)
    examples = both(tmp_path / "t")
    for example in examples:
        row = example.details
        ids = tiny_lm.tokenizer(row["hint_prompt_full"], add_special_tokens=False)["input_ids"]
        assert row["input_ids"] == ids
        out = selfx.forward(tiny_lm.model, np.array([ids]), capture=("resid_post",))
        alone = np.asarray(out.captures["resid_post"])[[1, 0], 0, -1]
        np.testing.assert_allclose(example.vectors, alone, atol=2e-5, rtol=1e-4)
        assert (example.layers, example.system) == ((1, 0), "")
        letter = row["random_hint_prediction"]
        said = f"About to answer {letter}, the assistant is in the state <vector> at layer 1, 0."
        assert said in example.question
        assert row["ablation_prompt"] == example.question
        assert example.cell == f"hint {row['hint']}, answer {letter}"
        assert row["hint_user_prompt"] in example.question
    assert len({example.vectors.tobytes() for example in examples}) == len(examples)


def test_raw_letters(tmp_path, tiny_lm, questions_file):
    options = {"answering": "letters", "max_tokens": 700, "hints_per_question": 4}
    record = trace(
        "input-ablation", tiny_lm, tmp_path / "t", data=questions_file, limit=8, **options
    )
    assert record["letter_offsets"] == [0, 0, 0, 0]
    for example in both(tmp_path / "t"):
        best = "ABCD"[int(np.argmax(example.details["zeroshot_scores"]))]
        assert example.details["zeroshot_prediction"] == best


def test_written_answers(tmp_path, tiny_lm, questions_file, monkeypatch):
    """The model's own words are read; what cannot be read is dropped and counted."""
    said = iter([None, "A", "B", "B", "C", "C"] * 100)

    def written(target, prompts, batch_size):
        return [next(said) for _ in prompts]

    monkeypatch.setattr(ablation, "written_letters", written)
    options = {"answering": "generate", "max_tokens": 700}
    record = trace(
        "input-ablation", tiny_lm, tmp_path / "t", data=questions_file, limit=20, **options
    )
    examples = both(tmp_path / "t")
    kinds = record["balance"]["experiments"]
    experiments = sum(kinds[s][c] for s in kinds for c in ("changed", "unchanged"))
    assert record["balance"]["dropped"] == pytest.approx(experiments / 2, abs=1)
    assert not any(example.changed for example in examples)
    assert examples[0].details["zeroshot_scores"] is None
    assert examples[0].details["original_prompt_full"].endswith("assistant\n")


@pytest.mark.parametrize("task", ["activation-patching", "input-ablation"])
def test_a_stopped_trace_goes_on_to_the_same_bytes(
    tmp_path, tiny_lm, facts_file, questions_file, monkeypatch, task
):
    data, options = facts_file, {}
    monkeypatch.setattr(patching, "TEXTS_A_BLOCK", 16)
    monkeypatch.setattr(ablation, "QUESTIONS_A_BLOCK", 8)
    if task == "input-ablation":
        data, options = questions_file, {"max_tokens": 700}
    limit = {"data": data, "limit": 24, **options}
    trace(task, tiny_lm, tmp_path / "whole", **limit)
    module, name = (patching, "run_pairs") if "patch" in task else (ablation, "about_to_answer")
    real, calls = getattr(module, name), []

    def stopping(*args, **kwargs):
        calls.append(name)
        if len(calls) in (2, 4):
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(module, name, stopping)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                trace(task, tiny_lm, tmp_path / "out", **limit)
    trace(task, tiny_lm, tmp_path / "out", **limit)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_another_model_is_refused(patching_trace, tiny_lm, facts_file):
    import dataclasses

    folder, _ = patching_trace
    other = dataclasses.replace(tiny_lm, hash="f" * 64)
    before = content(folder)
    with pytest.raises(SelfxError, match="target_hash"):
        trace("activation-patching", other, folder, data=facts_file, limit=40, seed=3)
    assert content(folder) == before


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("patching", {}, "task 'patching'"),
        ("feature-descriptions", {}, "did you mean feature-description"),
        ("activation-patching", {"format": "chat"}, "format 'chat'"),
        ("activation-patching", {"chunks": 9}, "chunks=9"),
        ("activation-patching", {"chunks": "4"}, "chunks='4'"),
        ("activation-patching", {"test_share": 1.5}, "test_share=1.5"),
        ("activation-patching", {"hints_per_question": 1}, "option 'hints_per_question'"),
        ("activation-patching", {"limit": 0}, "limit=0"),
        ("activation-patching", {"limit": True}, "limit=True"),
        ("input-ablation", {"answering": "guess"}, "answering 'guess'"),
        ("input-ablation", {"hints_per_question": 5}, "hints_per_question=5"),
        ("input-ablation", {"max_tokens": 10}, "max_tokens"),
        ("input-ablation", {"states": "0,99"}, "states='0,99'"),
        ("input-ablation", {"states": "1,01"}, "states='1,01'"),
        ("input-ablation", {"states": "all"}, "states='all'"),
        ("input-ablation", {"states": "1", "answering": "generate"}, "answering=generate"),
        ("input-ablation", {"data": "nowhere.jsonl"}, "no data"),
        ("activation-patching", {"data": "nowhere.jsonl"}, "no data"),
    ],
)
def test_bad_settings_are_named_before_anything_is_written(tmp_path, tiny_lm, task, options, said):
    with pytest.raises(SelfxError, match=said):
        trace(task, tiny_lm, tmp_path / "out", **options)
    assert not list(tmp_path.glob("out/*.parquet"))


def test_an_unknown_task_lists_the_known_and_guesses(tmp_path, tiny_lm):
    with pytest.raises(SelfxError) as error:
        trace("activation-patch", tiny_lm, tmp_path)
    assert "input-ablation" in error.value.expected
    assert "activation-patching" in error.value.hint


def test_our_own_questions_can_be_asked():
    questions, skipped = read_questions(questions_path())
    assert len(questions) > 300
    assert not skipped
