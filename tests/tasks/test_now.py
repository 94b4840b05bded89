"""Questions asked now are a trace's own, word for word, vector for vector, truth for truth."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.features.dictionaries.load import load_sae
from selfx.features.dictionaries.sae import Origin, Sae, encode
from selfx.features.dictionaries.save import save_saelens
from selfx.models.decoder import forward
from selfx.tasks import reading
from selfx.tasks.now import of_ablation, of_features
from selfx.tasks.now.ask import questions, truths
from selfx.tasks.now.asked import Desk
from selfx.tasks.now.places import Tokens, find_place, tokens_of
from selfx.tasks.now.request import read_requests, request_of
from selfx.tasks.schema import ABLATION, FEATURES, PATCHING, READING
from selfx.tasks.store import load_examples
from selfx.tasks.trace import trace
from selfx.tasks.withheld import withheld

LATENTS = 8


@pytest.fixture(scope="module")
def desk(tiny_lm):
    return Desk(32, 4, lambda: tiny_lm)


@pytest.fixture(scope="module")
def reading_trace(tmp_path_factory, tiny_lm):
    rng = np.random.default_rng(1)
    words = ["war", "paid", "the", "Anna", "of", "ran.", "sea,", "blue", "a", "tree", "stone"]
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    texts = [" ".join(rng.choice(words, 60)) for _ in range(16)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    folder = tmp_path_factory.mktemp("reading") / "trace"
    options = {"length": 40, "most": 0.5, "vectors": 2, "ask": "here,next,lens,before"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "TEXTS_A_BLOCK", 12)
        trace("activation-reading", tiny_lm, folder, data=path, limit=30, **options)
    return folder


@pytest.fixture(scope="module")
def sae_folder(tmp_path_factory, tiny_lm):
    rng = np.random.default_rng(0)
    dec = rng.standard_normal((LATENTS, 32)).astype(np.float32)
    dec /= np.linalg.norm(dec, axis=1, keepdims=True)
    parts = (dec.T, np.full(LATENTS, 0.5), dec, np.zeros(32))
    sae = Sae(*(jnp.asarray(x) for x in parts), layer=2, origin=Origin("selfx", bos=False))
    folder = tmp_path_factory.mktemp("sae") / "random"
    save_saelens(sae, folder)
    return folder


def made(desk, task, rows):
    """The questions that some values make, and the truth about each."""
    requests = [request_of(row) for row in rows]
    asked, after = questions(requests, [task], desk)
    flat = [each for several in asked for each in several]
    return flat, truths(flat, after)


def same(asked, example):
    """Checks that a question is a trace's."""
    own = asked.example
    assert own.questions == example.questions
    assert own.openings == example.openings
    assert own.system == example.system
    assert own.layers == example.layers
    if example.vectors is not None:
        scale = np.abs(example.vectors).max()
        np.testing.assert_allclose(own.vectors, example.vectors, atol=5e-5 * scale)


def test_a_patch_is_a_traces(desk, patching_trace, tiny_lm):
    examples = load_examples(patching_trace[0], "test") + load_examples(patching_trace[0], "train")
    rows = []
    for example in examples:
        row = example.details
        place = row["patch_position"]
        rows.append(
            {
                "text": tiny_lm.tokenizer.decode(row["input_ids"]),
                "at": place["orig_pos"],
                "source_text": row["counterfactual_text"],
                "source_at": place["counterfact_pos"],
                "layers": row["layer"],
            }
        )
    asked, found = made(desk, PATCHING, rows)
    assert len(asked) == len(examples) > 20
    for each, truth, example in zip(asked, found, examples, strict=True):
        same(each, example)
        assert truth.answer == example.answer
        assert (truth.changed, truth.content) == (example.changed, example.content)
    assert {truth.changed for truth in found} == {True, False}


def test_a_reading_is_a_traces(desk, reading_trace):
    examples = load_examples(reading_trace, "test") + load_examples(reading_trace, "train")
    rows = [
        {
            "text": example.details["text"],
            "at": example.details["position"],
            "layers": list(example.layers),
            "ask": example.details["ask"],
        }
        for example in examples
    ]
    asked, found = made(desk, READING, rows)
    assert len(asked) == len(examples) > 20
    assert {each.about["ask"] for each in asked} == {"here", "next", "lens", "before"}
    for each, truth, example in zip(asked, found, examples, strict=True):
        same(each, example)
        assert truth.answer == example.answer


def test_a_hint_is_a_traces_by_its_calibration(desk, ablation_trace):
    examples = load_examples(ablation_trace[0], "test") + load_examples(ablation_trace[0], "train")
    rows = [
        {name: example.details[name] for name in ("question", "choices", "hint")}
        for example in examples
    ]
    told = dataclasses.replace(desk, trace=ablation_trace[0])
    asked, found = made(told, ABLATION, rows)
    assert len(asked) == len(examples) > 20
    for each, truth, example in zip(asked, found, examples, strict=True):
        same(each, example)
        assert truth.answer == example.answer
    typed = [{"text": example.details["hint_user_prompt"]} for example in examples]
    again, once_more = made(told, ABLATION, typed)
    assert [each.example.questions for each in again] == [e.questions for e in examples]
    assert [truth.answer for truth in once_more] == [example.answer for example in examples]


def test_the_states_before_a_hinted_answer_are_a_traces(desk, tiny_lm, questions_file, tmp_path):
    trace(ABLATION, tiny_lm, tmp_path, data=questions_file, limit=6, max_tokens=700, states="0,2")
    examples = load_examples(tmp_path, "train")
    rows = [{"text": example.details["hint_user_prompt"]} for example in examples]
    asked, found = made(dataclasses.replace(desk, states="0,2", trace=tmp_path), ABLATION, rows)
    assert len(asked) == len(examples) > 2
    for each, truth, example in zip(asked, found, examples, strict=True):
        same(each, example)
        assert truth.answer == example.answer
        less = [withheld(one, "question").question for one in (each.example, example)]
        assert less[0] == less[1] != example.question
    given = [{**row, "layers": [0, 2]} for row in rows]
    told = dataclasses.replace(desk, trace=tmp_path)
    for each, example in zip(made(told, ABLATION, given)[0], examples, strict=True):
        same(each, example)


@pytest.mark.parametrize(
    ("task", "row", "part", "lost"),
    [
        (PATCHING, {"source_text": "the sea", "source_at": -1}, "token", "<d>"),
        (PATCHING, {"source_text": "the sea", "source_at": -1}, "layer", "layer 1"),
        (READING, {"ask": ["here"]}, "layer", "layer 1"),
        (FEATURES, {}, "layer", "layer 1"),
    ],
)
def test_what_a_run_is_never_told_is_left_out_of_what_is_asked_now(desk, task, row, part, lost):
    place = {"text": "the old sea", "at": 6, "layer": 1, "task": task}
    asked, _ = questions([request_of({**place, **row})], [task], desk)
    for each in asked[0]:
        less = withheld(each.example, part)
        assert less.without == (part,)
        assert any(lost in text for text in each.example.questions)
        assert not any(lost in text for text in less.questions)


def test_the_calibration_is_measured_as_a_trace_measures_it(
    desk, tiny_lm, questions_file, tmp_path, monkeypatch
):
    """Without a trace the letters are calibrated anew, on what a trace takes by itself."""
    monkeypatch.setattr("selfx.data.questions_path", lambda: questions_file)
    record = trace(ABLATION, tiny_lm, tmp_path, data=questions_file, limit=4, max_tokens=700)
    measured, measure = [], of_ablation._measured
    settings = of_ablation.Ablating(max_tokens=700)

    def measuring(asked):
        with monkeypatch.context() as here:
            here.setattr(of_ablation, "Ablating", lambda: settings)
            measured.append(measure(asked))
        return measured[-1]

    monkeypatch.setattr(of_ablation, "_measured", measuring)
    texts = [example.details["hint_user_prompt"] for example in load_examples(tmp_path, "train")]
    asked, _ = made(dataclasses.replace(desk, states="0,2"), ABLATION, [{"text": t} for t in texts])
    assert len(asked) > 1
    np.testing.assert_allclose(measured, [record["letter_offsets"]], atol=1e-5)  # once for all


def test_a_feature_is_asked_and_measured(desk, sae_folder, tiny_lm, monkeypatch):
    """Where the truth says that it is on, it is on; halves to describe and to score are apart."""
    monkeypatch.setattr(of_features, "WINDOWS", 12)
    monkeypatch.setattr(of_features, "CONTEXT", 16)
    (asked,), (truth,) = made(desk, FEATURES, [{"feature": f"{sae_folder}:3"}])
    sae = load_sae(sae_folder)
    np.testing.assert_allclose(asked.example.vectors[0], sae.w_dec[3], atol=1e-6)
    assert asked.example.layers == (2,)
    assert "at layer 2" in asked.example.question
    assert truth.answer.startswith("Fires")
    assert truth.facts["tokens"] <= 12 * 16
    assert all("[[" in peak for peak in truth.facts["peaks"])
    for text in truth.evidence.excerpts:
        seen = forward(tiny_lm.model, np.array([text.ids]), capture=("resid_post",)).captures
        f = np.array(encode(sae, seen["resid_post"][2, 0]))[:, 3]
        f[: text.skip] = 0
        np.testing.assert_allclose(text.activations, f, atol=1e-4 * max(1, f.max()))


def test_a_residual_can_be_described_and_excites_its_own_place(desk, tiny_lm, monkeypatch):
    monkeypatch.setattr(of_features, "WINDOWS", 12)
    monkeypatch.setattr(of_features, "CONTEXT", 16)
    row = {"text": "the old sea", "at": "old", "layer": [1, 3]}
    asked, found = made(desk, FEATURES, [row])
    tokens = tiny_lm.tokenizer("the old sea", return_tensors="np").input_ids
    seen = forward(tiny_lm.model, tokens, capture=("resid_post",)).captures["resid_post"]
    for each, layer in zip(asked, (1, 3), strict=True):
        np.testing.assert_allclose(each.example.vectors[0], seen[layer, 0, 6], atol=1e-4)
        assert each.example.layers == (layer,)
    assert all(truth.evidence is not None for truth in found)


def test_one_request_is_a_question_of_every_task_that_the_run_knows(desk):
    row = request_of({"text": "the old sea", "at": "old", "layer": 1})
    (asked,), _ = questions([row], [READING, FEATURES], desk)
    tasks = [each.example.task for each in asked]
    assert tasks == [READING] * 4 + [FEATURES]
    (asked,), _ = questions([row], [PATCHING, FEATURES], desk)
    assert [each.example.task for each in asked] == [FEATURES]
    with pytest.raises(SelfxError, match="for activation-patching") as caught:
        questions([row], [PATCHING], desk)
    assert "--source-text" in caught.value.expected
    assert "--task activation-reading" in caught.value.hint


# Places


@pytest.mark.parametrize(
    ("at", "place"),
    [("sea", 0), ("the", 1), ("the:2", 3), ("sea:1", 0), ("sea the", 1), ("3:2", 6), ("blue", 7)]
    + [("0", 0), ("-1", 7), ("-8", 0), ("8", None), ("-9", None), ("old:3", None), ("old:0", None)]
    + [("ea", None), ("Sea", None), ("ol", None), ("", None), (":", 5)],
)
def test_a_place_is_found_by_its_letters_or_its_number(at, place):
    """Letters begin where a token begins and end where one ends."""
    text = "sea the old the 3:2 blue"
    words = ["sea", " the", " old", " the", " 3", ":", "2", " blue"]
    ends = np.cumsum([len(word) for word in words]).tolist()
    spans = tuple(zip([0, *ends[:-1]], ends, strict=True))
    tokens = Tokens(text, tuple(range(8)), spans, tuple(words))
    if place is None:
        with pytest.raises(SelfxError) as caught:
            find_place(tokens, at)
        assert "2 ' old'" in caught.value.expected
    else:
        assert find_place(tokens, at) == place


def test_a_word_of_several_tokens_is_its_last(tiny_lm):
    tokens = tokens_of(tiny_lm.tokenizer, "the old sea", 99)
    assert tokens.piece(find_place(tokens, "old")) == "d"
    assert find_place(tokens, "old") == 6


def test_a_text_too_long_is_refused(tiny_lm):
    with pytest.raises(SelfxError, match="a text of 11 tokens"):
        tokens_of(tiny_lm.tokenizer, "the old sea", 10)


# Requests


def test_requests_are_read_from_lines(lines):
    rows = [{"text": "a b", "at": 1, "layer": 2}, {"example": "t:x"}]
    one, other = read_requests(lines(rows))
    assert (one.text, one.at, one.layer) == ("a b", "1", (2,))
    assert one.where.endswith("rows.jsonl:1")
    assert other.example == "t:x"


@pytest.mark.parametrize(
    ("layers", "read"),
    [("8-10", (8, 9, 10)), ("3,5, 7", (3, 5, 7)), ("4", (4,)), ([1, 2], (1, 2)), (6, (6,))],
)
def test_layers_that_go_together(layers, read):
    assert request_of({"text": "a", "layers": layers}).layers == read


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"task": READING},
        {"txt": "a"},
        {"text": ""},
        {"text": " "},
        {"text": 3},
        {"text": "a", "layer": -1},
        {"text": "a", "layer": True},
        {"text": "a", "layer": []},
        {"text": "a", "layer": [1, 1]},
        {"text": "a", "layers": "9-3"},
        {"text": "a", "layers": "first"},
        {"text": "a", "ask": "why"},
        {"question": "q", "choices": ["a", "b"]},
        {"question": "q", "choices": "abcd"},
        {"question": "q", "hint": "E"},
        {"question": "q", "hint": "AB"},
    ],
)
def test_what_is_no_request_is_refused(row):
    with pytest.raises(SelfxError):
        request_of(row)


def test_a_line_at_fault_is_named(lines, desk):
    with pytest.raises(SelfxError, match=r"rows.jsonl:2: layer -1"):
        read_requests(lines([{"text": "a"}, {"text": "b", "layer": -1}]))
    path = lines([{"text": "a b", "at": 0, "layer": 1}, {"text": "a b", "at": "z", "layer": 1}])
    with pytest.raises(SelfxError, match="rows.jsonl:2: --at 'z'"):
        questions(read_requests(path), [READING], desk)
