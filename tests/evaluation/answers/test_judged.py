"""One answer beside what really happened: right by the rule that its kind is scored by."""

import numpy as np
import pytest

from selfx.evaluation.answers.judged import judge
from selfx.features.exemplars.excerpts import Evidence, Excerpt
from selfx.tasks.example import Example
from selfx.tasks.now.asked import Truth

STAYS = Truth("The output would remain unchanged from <<<x>>>.", False, "x")
TURNS = Truth("The most likely output would change to <<<Answer: B>>>.", True, "Answer: B")


def example(task):
    return Example("e", task, "now", "g", "c", "", ("?",), "", False, "", None, {})


@pytest.mark.parametrize(
    ("task", "answer", "truth", "right"),
    [
        ("activation-reading", "Sea.", Truth("sea"), True),
        ("activation-reading", "see", Truth("sea"), False),
        ("activation-reading", "a, B,  c", Truth("a, b, c"), True),
        ("activation-reading", "sea", Truth(note="nobody knows"), None),
        ("activation-patching", STAYS.answer, STAYS, True),
        ("activation-patching", "It would remain unchanged from <<X>>", STAYS, True),
        ("activation-patching", "The output would change to <<<x>>>", STAYS, False),
        ("activation-patching", "no idea", STAYS, False),
        ("input-ablation", TURNS.answer, TURNS, True),
        ("input-ablation", "The output would change to <<<Answer: C>>>", TURNS, False),
        ("input-ablation", TURNS.answer, Truth(note="no letter"), None),
        ("feature-description", "Fires on anything.", Truth(note="never on"), None),
    ],
)
def test_right_wrong_or_not_to_be_told(task, answer, truth, right):
    assert judge(example(task), answer, truth).right is right


def test_a_description_is_scored_on_the_texts():
    def text(words, on, kind):
        activations = np.array([5.0 * (word == on) for word in words], np.float32)
        return Excerpt(tuple(words), activations, kind)

    excerpts = [text([" sea", " hut", " old"], " sea", "top") for _ in range(4)]
    excerpts += [text([" hut", " old", " hut"], " sea", "random") for _ in range(4)]
    truth = Truth('Fires on "sea".', evidence=Evidence(0, tuple(excerpts)))
    good = judge(example("feature-description"), 'Fires strongly on "sea".', truth)
    assert good.right is None
    assert good.scores["simulation"] > 0.9
    assert good.scores["detection"] == 1
    bad = judge(example("feature-description"), 'Fires strongly on "hut".', truth).scores
    assert bad["simulation"] < 0
    assert judge(example("feature-description"), "", truth).scores == {
        "simulation": 0.0,
        "detection": 0.5,
    }
