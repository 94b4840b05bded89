import pytest

from selfx.explainer.batches import Plan
from selfx.explainer.prompts import make_prompter
from selfx.testing import tiny_tokenizer


@pytest.fixture(scope="session")
def prompter():
    """Questions as plain text for the tiny tokenizer."""
    return make_prompter(tiny_tokenizer(), (2,), "plain")


@pytest.fixture(scope="session")
def plan_of(prompter):
    """A function: the plan of some examples, for the tiny model."""

    def make(examples, **changes):
        settings = {"d_model": 32, "batch_size": 4, "seed": 0, **changes}
        return Plan(examples, prompter, **settings)

    return make
