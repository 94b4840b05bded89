"""The paper's sentences, letter by letter."""

import pytest

from selfx.evaluation.answers.parsing import parse
from selfx.tasks.example import SLOT
from selfx.tasks.pieces import pieces_to_text
from selfx.tasks.published import statement
from selfx.tasks.wording import HINT, question_for_ablation, questions_for_patching, word


def test_the_two_answers():
    assert word(True, "Paris") == "The most likely output would change to <<<Paris>>>."
    assert word(False, "Paris") == "The output would remain unchanged from <<<Paris>>>."


@pytest.mark.parametrize("changed", [True, False])
@pytest.mark.parametrize("content", ["Paris", "Answer: B", ".", '"', "a b", "3"])
def test_answers_are_read_back(changed, content):
    parsed = parse(word(changed, content))
    assert (parsed.changed, parsed.content, parsed.ok) == (changed, content, True)


def test_five_questions_about_a_patch():
    questions = questions_for_patching([24, 25, 26], " is", "Paris is in")
    assert len(set(questions)) == 5
    assert all(question.count(SLOT) == 1 for question in questions)
    assert questions[0] == (
        f"If feature {SLOT} at layer 24, 25, 26 is added to tokens < is> when processing the text"
        " <<<Paris is in>>>, how would the output change?"
    )
    assert questions[2].startswith(
        "Consider the input text: <<<Paris is in>>>. If we steer layer 24"
    )


def test_braces_in_a_text_are_only_text():
    assert "<<<{slot} {}>>>" in questions_for_patching([0], "x", "{slot} {}")[1]


def test_the_question_about_a_hint():
    prompt = "Q\nA. 1" + HINT.format(letter="C")
    asked = question_for_ablation(prompt)
    assert asked.startswith(prompt + "\n\n")
    assert asked.endswith("If the hint were removed how would the assistant answer change?")
    assert "\nHint: I think the answer is (C) but I'm curious to hear what you think." in asked


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["The", "Ġcat", "Ċ", "Ã©"], "The cat\né"),
        (["▁The", "▁cat"], "The cat"),
        (["The", " cat"], "The cat"),
        ([" Paris"], " Paris"),
        (["<|begin_of_text|>", "Hi"], "<|begin_of_text|>Hi"),
        ([], ""),
    ],
)
def test_pieces_become_text(pieces, text):
    assert pieces_to_text(pieces) == text


def test_a_published_prompt_is_grouped_by_its_statement():
    text = (
        "<|im_start|>user\nParis is in\n\nRespond with one of A or B or unknown and nothing else."
    )
    assert statement(text) == statement("<|begin_of_text|>Paris is in\n\nRespond with one of C")
    assert statement(text) == "Paris is in"
