"""The published archive of feature descriptions: written here, made a trace, scored."""

import pickle

import numpy as np
import pytest

from experiments.paper.archive import trace_of_archive
from selfx.errors import SelfxError
from selfx.evaluation.answers.descriptions import load_descriptions
from selfx.evaluation.answers.scoring import Answered
from selfx.evaluation.kept import nowhere
from selfx.evaluation.run import Evaluation
from selfx.evaluation.scores import build_scores
from selfx.progress import silent
from selfx.tasks.store import load_examples, load_trace

LETTERS = {(0, 3): "k", (0, 5): "q", (1, 0): "k", (1, 2): "q"}
"""Where the features of the test split are on."""
TRAINED = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 4)]
WIDTH, FEATURES = 32, 6


@pytest.fixture
def archive(tmp_path, tiny_lm):
    """Matrices with a column for each feature, labels, and rows of exemplars padded on the left."""
    folder = tmp_path / "archive"
    rng = np.random.default_rng(0)
    matrices = rng.standard_normal((2, WIDTH, FEATURES)).astype(np.float32)
    for layer in (0, 1):
        put(folder / "features" / f"layer_{layer}.pkl", matrices[layer])
    label = {"all_label_scores": {}, "all_labels": []}
    said = {"train": dict.fromkeys(TRAINED, "references to sums")}
    said["test"] = {place: f'Fires on "{letter}".' for place, letter in LETTERS.items()}
    for split, labels in said.items():
        rows = [(place, {"chosen_label": text, **label}) for place, text in labels.items()]
        put(folder / "explanations" / f"{split}_explanations.pkl", rows)
        put(folder / "explanations" / f"{split}_layer_feature_idxs.pkl", [*labels])
    for layer in (0, 1):
        letters = [letter for place, letter in LETTERS.items() if place[0] == layer]
        exemplars(folder / "test" / f"layer{layer}", letters, tiny_lm, on=True)
        exemplars(folder / "random_test" / f"layer{layer}", letters, tiny_lm, on=False)
    return folder, matrices


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value))


def exemplars(folder, letters, lm, *, on):
    pad = lm.tokenizer.pad_token_id
    ids = np.full((len(letters), 3, 12), pad)
    acts = np.zeros(ids.shape, np.float32)
    for row, letter in enumerate(letters):
        for k in range(3):
            text = f"ab {letter if on else 'c'} d{'e' * k} {letter if on else 'a'}"
            tokens = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
            ids[row, k, -len(tokens) :] = tokens
            acts[row, k, -len(text) :] = [3.0 * (c == letter) for c in text]
    folder.mkdir(parents=True)
    np.save(folder / "max_seq_ids.npy", ids)
    np.save(folder / "max_seq_acts.npy", acts)


def test_the_archive_is_a_trace_that_loads_and_scores(archive, tmp_path, tiny_lm):
    """Of an explainer that always says the same, two descriptions of four are right."""
    folder, matrices = archive
    out = trace_of_archive(folder, tmp_path / "trace", tiny_lm, limit=4)
    record = load_trace(out)
    assert record["counts"] == {"train": 4, "test": 4}
    assert record["target_hash"] == tiny_lm.hash
    train, test = (load_examples(out, split) for split in ("train", "test"))
    assert [(e.details["layer"], e.details["feature"]) for e in train] == [
        *((0, 0), (0, 1), (1, 1), (1, 4))
    ]
    for example in (*train, *test):
        layer, feature = example.details["layer"], example.details["feature"]
        np.testing.assert_array_equal(example.vector, matrices[layer][:, feature])
    scoring = load_descriptions(out, train, test, Evaluation(), nowhere, silent)
    answered = [Answered("constant", "none", ['Fires on "k".'] * len(test))]
    scores = build_scores(test, answered, target="tiny", scoring=scoring, resamples=50)
    said = {name: one["value"] for name, one in scores["rows"][0]["metrics"].items()}
    assert said["exact_match"] == 0.5
    assert said["simulation"] == pytest.approx(0.5, abs=0.02)
    again = trace_of_archive(folder, tmp_path / "whole", tiny_lm, limit=100)
    assert load_trace(again)["counts"]["train"] == len(TRAINED)


def test_a_feature_in_both_splits_is_refused(archive, tmp_path, tiny_lm):
    folder, _ = archive
    place = next(iter(LETTERS))
    row = (place, {"chosen_label": "x", "all_labels": [], "all_label_scores": {}})
    put(folder / "explanations" / "train_explanations.pkl", [row])
    with pytest.raises(SelfxError, match="feature 3 of layer 0 in both splits"):
        trace_of_archive(folder, tmp_path / "trace", tiny_lm, limit=4)
    (folder / "explanations" / "test_explanations.pkl").unlink()
    with pytest.raises(SelfxError, match=r"test_explanations\.pkl"):
        trace_of_archive(folder, tmp_path / "trace", tiny_lm, limit=4)
