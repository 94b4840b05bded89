"""Activation reading on the tiny model: every answer is what NumPy, in float64, finds again."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfx.errors import SelfxError
from selfx.tasks import reading
from selfx.tasks.example import SLOT
from selfx.tasks.reading_draws import Draw, capped
from selfx.tasks.reading_questions import ASKS, openings_for_reading, questions_for_reading
from selfx.tasks.reading_settings import Reading
from selfx.tasks.schema import READING, SCHEMAS
from selfx.tasks.split import split_of
from selfx.tasks.store import load_examples, load_trace
from selfx.tasks.trace import trace

SETTINGS = {"length": 40, "shown": 4, "most": 0.5, "batch_size": 16}
BRACKETS = set("<>,�")


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(1)
    words = ["war", "paid", "the", "Anna", "of", "ran.", "sea,", "blue", "a", "tree", "stone"]
    words += ["is", "was", "to", "falls", "green", "(lamp)", "7"]
    return [" ".join(rng.choice(words, 60)) for _ in range(24)]


@pytest.fixture(scope="module")
def text_file(tmp_path_factory, documents):
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "TEXTS_A_BLOCK", 12)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_lm, text_file):
    folder = tmp_path_factory.mktemp("reading") / "trace"
    record = trace("activation-reading", tiny_lm, folder, data=text_file, limit=100, **SETTINGS)
    return folder, record


@pytest.fixture(scope="module")
def chunked(tmp_path_factory, tiny_lm, text_file):
    """With the vectors of two layers each, of three kinds of question."""
    folder = tmp_path_factory.mktemp("chunks") / "trace"
    options = {**SETTINGS, "vectors": 2, "layers": "1,3", "ask": "lens,here,which"}
    trace("activation-reading", tiny_lm, folder, data=text_file, limit=30, **options)
    return folder


@pytest.fixture(scope="module")
def asked(made):
    """Examples by kind of question."""
    kinds = {ask: [] for ask in ASKS}
    for example in both(made[0]):
        kinds[example.details["ask"]].append(example)
    return kinds


@pytest.fixture(scope="module")
def rerun(tiny_lm, numpy_llama):
    """A function: an example's text up to its place, run in float64."""
    weights = numpy_llama.weights(tiny_lm.model)
    return lambda row: numpy_llama.run(
        tiny_lm.model, row["input_ids"][: row["position"] + 1], w=weights
    )


def both(folder):
    return load_examples(folder, "train") + load_examples(folder, "test")


def vectors_of(folder):
    """`{id: float32 [m, d]}`, read with pyarrow alone."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    rows = pa.concat_tables(tables).select(["id", "vectors"]).to_pylist()
    return {row["id"]: np.array(row["vectors"], np.float32) for row in rows}


def until(example, tokenizer):
    """The text up to the place, the token there included."""
    row = example.details
    return tokenizer.decode(row["input_ids"][: row["position"] + 1])


def top_words(logits, tokenizer):
    """Three different words, the likeliest first, without our own reading of tokens."""
    words = []
    for token in np.argsort(-logits)[:48]:
        word = tokenizer.decode([int(token)], skip_special_tokens=False).strip()
        told = word.isalnum() and not BRACKETS & set(word)
        if told and word.lower() not in [other.lower() for other in words]:
            words.append(word)
    return words[:3]


def test_what_a_trace_says(made, tiny_lm, asked):
    folder, record = made
    assert record == load_trace(folder)
    assert record["task"] == "activation-reading"
    assert record["target_hash"] == tiny_lm.hash
    assert record["shape"] == {"n_layers": 4, "d_model": 32}
    assert record["layers"] == [1, 3]
    assert record["counts"] == {"train": 75, "test": 25}
    assert min(len(examples) for examples in asked.values()) >= 8
    for ask, examples in asked.items():
        for example in examples:
            assert example.cell == f"{ask} × layer {example.layers[-1]}"
            assert example.changed is False
            assert example.content == ""
            assert len(example.questions) == len(example.openings) == 3
            for text in (*example.questions, *example.openings):
                assert text.count(SLOT) == 1
                assert f"layer {example.layers[-1]}" in text
                assert text == text.strip()


def test_the_vectors_are_the_residuals_that_numpy_finds(made, rerun):
    """Of the text up to the place alone: what stands after it cannot be in the vector."""
    vectors = vectors_of(made[0])
    for example in both(made[0])[::3]:
        states = rerun(example.details).sites["resid_post"][:, -1]
        (vector,) = vectors[example.id]
        scale = np.abs(states[example.layers[-1]]).max()
        np.testing.assert_allclose(vector, states[example.layers[-1]], atol=5e-5 * scale)
        np.testing.assert_array_equal(example.vector, vector)


def test_the_next_token_is_the_targets_own(asked, rerun, tiny_lm):
    for example in asked["next"]:
        logits = rerun(example.details).logits[-1]
        assert tiny_lm.tokenizer.decode([int(logits.argmax())]).strip() == example.answer


def test_the_lens_is_the_head_on_the_residual(asked, rerun, tiny_lm, numpy_llama):
    w, config = numpy_llama.weights(tiny_lm.model), tiny_lm.config
    for example in asked["lens"]:
        state = rerun(example.details).sites["resid_post"][example.layers[-1], -1]
        normed = numpy_llama.rms_norm(state, w["final_norm.w"], config.norm_eps)
        words = top_words(normed @ w["unembed.w"], tiny_lm.tokenizer)
        assert example.answer == ", ".join(words)


def test_here_and_before_are_what_the_text_says(asked, tiny_lm):
    for example in asked["here"]:
        row = example.details
        token = tiny_lm.tokenizer.decode([row["input_ids"][row["position"]]])
        assert token.strip() == example.answer
    for example in asked["before"]:
        said, row = until(example, tiny_lm.tokenizer), example.details
        assert example.answer == " ".join(said.split()[-3:])
        assert row["text"].startswith(f"{said} ")


def test_the_right_excerpt_has_the_place_and_the_other_is_of_another_document(
    asked, documents, tiny_lm
):
    answers = Counter(example.answer for example in asked["which"])
    assert set(answers) == {"A", "B"}
    for example in asked["which"]:
        shown, text = example.details["shown"], example.details["text"]
        right, other = shown if example.answer == "A" else shown[::-1]
        assert right in text
        assert other not in text
        assert f"A: {shown[0]}\nB: {shown[1]}" in example.question
        number = len(until(example, tiny_lm.tokenizer).split()) - 1
        starts = [i for i in range(len(text.split())) if text.split()[i : i + 4] == right.split()]
        assert any(start <= number < start + 4 for start in starts)
        (own,) = (document for document in documents if text in document)
        assert other not in own
        assert any(other in document for document in documents)


def test_the_place_is_a_word_that_stands_once_in_the_excerpt(asked, tiny_lm):
    for example in asked["place"]:
        row = example.details
        number = len(until(example, tiny_lm.tokenizer).split()) - 1
        assert row["text"].split()[number].strip("().,") == example.answer
        words = [word.strip("().,").lower() for word in row["shown"][0].split()]
        assert len(words) == 4
        assert words.count(example.answer.lower()) == 1
        assert row["shown"][0] in row["text"]


def test_no_vector_is_of_a_first_or_a_special_token(made, tiny_lm):
    special = set(tiny_lm.tokenizer.all_special_ids)
    for example in both(made[0]):
        assert example.details["position"] >= 1
        assert not special & set(example.details["input_ids"])


def test_documents_are_held_out_whole(made, documents):
    """No text that a test question shows or was read in is of a training document."""
    seen = {"train": set(), "test": set()}
    for example in both(made[0]):
        assert example.split == split_of(example.group, 0)
        parts = [example.details["text"], *example.details["shown"]]
        long = [part for part in parts if len(part.split()) >= 4]
        found = [{n for n, text in enumerate(documents) if part in text} for part in long]
        assert all(found)
        seen[example.split] |= {n for some in found for n in some if len(some) == 1}
    assert min(len(some) for some in seen.values()) > 1
    assert not seen["train"] & seen["test"]


def test_a_chunk_is_read_at_each_of_its_layers(chunked, rerun):
    vectors = vectors_of(chunked)
    for example in both(chunked):
        row = example.details
        assert row["layers"] in ([0, 1], [2, 3])
        named = str(row["layers"][1]) if row["ask"] == "lens" else "{}, {}".format(*row["layers"])
        assert f"layer {named}" in example.question
        states = rerun(row).sites["resid_post"][row["layers"], -1]
        np.testing.assert_allclose(vectors[example.id], states, atol=5e-5 * np.abs(states).max())
        assert example.layers == tuple(row["layers"])
        np.testing.assert_array_equal(example.vectors, vectors[example.id])


def test_a_killed_trace_ends_in_the_same_files(tmp_path, tiny_lm, text_file):
    options = {"data": text_file, "limit": 100, "seed": 2, **SETTINGS}
    trace("activation-reading", tiny_lm, tmp_path / "whole", **options)

    class Killed(Exception):
        pass

    def kill(done, total, note):
        if note:
            raise Killed

    with pytest.raises(Killed):
        trace("activation-reading", tiny_lm, tmp_path / "cut", progress=kill, **options)
    assert (tmp_path / "cut" / ".blocks" / "00000.parquet").exists()
    trace("activation-reading", tiny_lm, tmp_path / "cut", **options)
    whole, cut = (
        {p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("whole", "cut")
    )
    assert whole == cut


def test_another_seed_asks_elsewhere(made, tmp_path, tiny_lm, text_file):
    options = {"data": text_file, "limit": 20, "seed": 1, **SETTINGS}
    trace("activation-reading", tiny_lm, tmp_path / "other", **options)
    ids = {example.id for example in both(made[0])}
    assert not ids & {example.id for example in both(tmp_path / "other")}


@pytest.mark.parametrize("most", [0.1, 0.3, 1.0])
def test_no_answer_is_more_than_its_share(most):
    rng = np.random.default_rng(0)
    answers = [f"w{int(n)}" for n in rng.geometric(0.3, 400)]
    drawn = [Draw("here", n, 0, 1, answer) for n, answer in enumerate(answers)]
    drawn += [Draw("which", n, 1, 1, "A") for n in range(50)]
    kept = capped(drawn, most)
    words = Counter(draw.answer for draw in kept if draw.ask == "here")
    assert set(words) == set(answers)
    if len(words) >= 1 / most:
        assert max(words.values()) <= most * sum(words.values())
        more = Counter({w: min(n, max(words.values()) + 1) for w, n in Counter(answers).items()})
        assert words == Counter(answers) or max(more.values()) > most * sum(more.values())
    assert sum(draw.ask == "which" for draw in kept) == 50


def test_wordings_are_of_their_kind():
    assert set(ASKS) == {"here", "next", "lens", "before", "which", "place"}
    for ask in ASKS:
        shown = ["a {b} c", "d e"]
        asked = questions_for_reading(ask, [3], shown), openings_for_reading(ask, [3], shown)
        for texts in asked:
            assert len(set(texts)) == 3
            assert all(len(text.split()) <= 30 for text in texts)
        if ask in ("which", "place"):
            assert all("a {b} c" in text for texts in asked for text in texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ask": "here,there"}, "ask='here,there'"),
        ({"ask": "here,here"}, "each once"),
        ({"ask": ""}, "some of here"),
        ({"site": "mlp_act"}, "the residual's width"),
        ({"site": "resid_pots"}, "did you mean 'resid_post'"),
        ({"layers": "4"}, "from 0 to 3"),
        ({"layers": "0,2", "vectors": 2}, "from 1 to 3"),
        ({"vectors": 5}, "vectors=5"),
        ({"vectors": 0}, "at least 1"),
        ({"length": 4}, "at least 8"),
        ({"length": 513}, "at most 512"),
        ({"most": 0.0}, "most=0.0"),
        ({"test_share": 1.0}, "test_share=1.0"),
    ],
)
def test_settings_out_of_range(options, message, tmp_path, tiny_lm, text_file):
    with pytest.raises(SelfxError, match=message):
        trace("activation-reading", tiny_lm, tmp_path / "t", data=text_file, limit=4, **options)
    assert not (tmp_path / "t").exists()


def test_layers_end_with_the_last():
    assert Reading().chosen_layers(5) == (0, 2, 4)
    assert Reading(vectors=2).chosen_layers(5) == (2, 4)
    assert Reading(layers="3, 1").chosen_layers(5) == (3, 1)


def test_texts_without_words_to_ask_about(tmp_path, tiny_lm):
    path = tmp_path / "short.jsonl"
    path.write_text('{"text": "one two"}\n')
    with pytest.raises(SelfxError, match="at least 4 words"):
        trace("activation-reading", tiny_lm, tmp_path / "t", data=path, limit=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ask": "where"}, "ask 'where'"),
        ({"layers": [1, 2]}, "a layer for each vector"),
        ({"vectors": []}, "without vectors"),
        ({"vectors": [[1.0], [2.0, 3.0]]}, "different widths"),
        ({"vectors": [[float("nan")]]}, "not finite"),
        ({"answer": None}, "column answer is empty"),
    ],
)
def test_broken_shards(change, message, tmp_path):
    row = {"ask": "here", "layers": [1], "vectors": [[1.0]], "shown": [], "answer": "a"}
    table = pa.Table.from_pylist([{**row, **change}], SCHEMAS[READING])
    pq.write_table(table, tmp_path / "train-00000.parquet")
    with pytest.raises(SelfxError, match=message):
        load_examples(tmp_path, "train")


def test_settings_are_plain_values():
    assert all(
        isinstance(value, str | int | float) for value in dataclasses.asdict(Reading()).values()
    )
