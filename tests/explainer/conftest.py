import dataclasses

import pytest

from selfx.explainer.batches import Plan
from selfx.explainer.prompts import make_prompter
from selfx.tasks.example import SLOT
from selfx.testing import tiny_tokenizer


@pytest.fixture(scope="session")
def prompter():
    """Questions as plain text for the tiny tokenizer."""
    return make_prompter(tiny_tokenizer(), (2,), "plain")


@pytest.fixture(scope="session")
def plan_of(prompter):
    """A function: the plan of some examples, for the tiny model."""

    def make(examples, **changes):
        settings = {"width": 32, "batch_size": 4, "seed": 0, **changes}
        return Plan(examples, prompter, **settings)

    return make


@pytest.fixture(scope="module")
def short_questions():
    """Traces are asked about in two short wordings of one length: one program for all steps."""
    from selfx.explainer import mixture

    real = mixture.load_examples

    def load(folder, split):
        asked = (f"{SLOT}?", f"{SLOT}!")
        return [dataclasses.replace(example, questions=asked) for example in real(folder, split)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture, "load_examples", load)
        yield
