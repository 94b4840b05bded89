"""Questions lose the part that is withheld, in every wording, and nothing else."""

import dataclasses
import re

import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.tasks import published
from selfx.tasks.example import SLOT
from selfx.tasks.withheld import PARTS, withheld

ONE = np.ones((1, 4), np.float32)
PATCH = published.patching_example(
    {
        "layer": [17, 18],
        "input_tokens": ["Zebras", " graze", " near", " Quito"],
        "original_continuation": [" a"],
        "ablated_continuation": [" b"],
        "patch_position": {"orig_text_token": " Quito"},
        "token_type": "last",
    },
    "test",
    ONE,
    0,
)
FEATURE = published.feature_example({"layer": 17, "chosen_label": "zebras"}, "test", ONE, 0)
HINT = published.ablation_example(
    {
        "zeroshot_prediction": "A",
        "random_hint_prediction": "C",
        "system_prompt": "Answer.",
        "hint_user_prompt": "Do zebras graze?\nA. {yes}\nB. no\nC. so\nD. why"
        "\nHint: I think the answer is (C) but I'm curious to hear what you think.",
    },
    "test",
    None,
    0,
)

STATE = published.ablation_example({**HINT.details, "layers": [4, 17]}, "test", np.ones((2, 4)), 0)


def reading(ask, shown=(), layers=(17,)):
    row = {"ask": ask, "layers": list(layers), "shown": list(shown), "answer": "zebras"}
    return published.reading_example(row, "test", np.ones((len(layers), 4), np.float32), 0)


WHICH = reading("which", ("Zebras graze", "Quito sleeps"))
PLACE = reading("place", ("Zebras graze",))
HERE, LENS = reading("here"), reading("lens", layers=(16, 17))
EVERY = (PATCH, FEATURE, HINT, STATE, WHICH, PLACE, HERE, LENS)


def texts(example):
    return (*example.questions, *example.openings)


def words(text):
    return set(re.findall(r"[^\W_]+", text.casefold()))


@pytest.mark.parametrize("example", [PATCH, WHICH, PLACE])
def test_without_its_text_no_word_of_it_is_left_but_the_vector_and_the_layer(example):
    less = withheld(example, "text")
    for text in texts(less):
        assert not words(text) & {"zebras", "graze", "near", "quito", "sleeps"}
        assert SLOT in text
        assert "17" in text
    assert less.vectors is example.vectors


@pytest.mark.parametrize("example", [PATCH, FEATURE, WHICH, PLACE, HERE, LENS])
def test_without_layer_or_vector(example):
    for text in texts(withheld(example, "layer")):
        assert "some layer" in text.casefold()
        assert not words(text) & {"16", "17", "18"}
    less = withheld(example, "vector")
    assert (less.vectors, less.layers) == (None, ())
    assert not any(SLOT in text for text in texts(less))
    assert len(set(texts(less))) == len(set(texts(example))), "wordings stay apart"


def test_without_the_token_the_text_stays():
    for text in withheld(PATCH, "token").questions:
        assert "some tokens" in text
        assert "< Quito>" not in text
        assert "<<<Zebras graze near Quito>>>" in text


def test_without_the_hint_or_the_question():
    hint, question = (withheld(HINT, part).question for part in ("hint", "question"))
    assert hint == HINT.question.replace("(C) but", "(some letter) but")
    assert not words(question) & {"zebras", "graze", "yes"}
    assert "I think the answer is (C) but" in question
    assert question.endswith("how would the assistant answer change?")


@pytest.mark.parametrize("part", PARTS)
def test_what_a_question_does_not_have_is_not_taken(part):
    has = {
        "vector": (PATCH, FEATURE, STATE, WHICH, PLACE, HERE, LENS),
        "text": (PATCH, WHICH, PLACE),
        "layer": (PATCH, FEATURE, STATE, WHICH, PLACE, HERE, LENS),
        "token": (PATCH,),
        "hint": (HINT, STATE),
        "question": (HINT, STATE),
    }[part]
    for example in EVERY:
        less = withheld(example, part)
        assert (less is not example) == any(example is one for one in has)
        for text, whole in zip(texts(less), texts(example), strict=True):
            assert (text != whole) == (less is not example)
            assert text[0].isupper() or text.startswith(SLOT)


def test_without_the_question_a_state_and_the_hint_are_left():
    less = withheld(STATE, "question")
    assert less.vectors is STATE.vectors
    assert SLOT in less.question
    assert "About to answer C, the" in less.question
    assert "at layer 4, 17" in less.question
    assert "I think the answer is (C) but" in less.question
    assert not words(less.question) & {"zebras", "graze", "yes"}


@pytest.mark.parametrize("parts", [("vector", "question"), ("question", "vector")])
def test_parts_are_left_out_one_after_the_other(parts):
    less = withheld(withheld(STATE, parts[0]), parts[1])
    assert less.without == parts
    assert SLOT not in less.question
    assert not words(less.question) & {"zebras", "graze", "yes"}
    assert withheld(less, "question") is less


def test_a_question_in_other_words_is_left_alone():
    other = dataclasses.replace(PATCH, questions=(f"What of {SLOT} in Quito?",))
    assert withheld(other, "text") is other
    with pytest.raises(SelfxError, match="'smell'"):
        withheld(PATCH, "smell")
