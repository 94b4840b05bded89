"""Judges that run here."""

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

import selfx
from selfx.errors import SelfxError
from selfx.evaluation.judge import belief
from selfx.evaluation.judge import rating as asking
from selfx.evaluation.judge.belief import BeliefJudge, expected, rating_tokens
from selfx.evaluation.judge.raters import ChatJudge, SimilarityJudge
from selfx.features.descriptions.chat import LocalChat
from selfx.features.scores.similarity import Tfidf


def test_the_expected_rating_is_a_mean_and_needs_some_belief():
    named = np.array([1, 2, 2, 5])
    assert expected(np.array([0.1, 0.1, 0.1, 0.2]), named) == pytest.approx((0.1 + 0.4 + 1) / 0.5)
    assert expected(np.array([0.001, 0.001, 0.0, 0.001]), named) is None


@pytest.fixture
def asked_briefly(monkeypatch):
    """The tiny tokenizer has a token for every letter, and the tiny model no room for them all.

    To an untaught model a digit is as likely as any other letter.
    """
    monkeypatch.setattr(belief, "LEAST", 0.001)
    monkeypatch.setattr(asking, "_template", lambda: "Is {predicted} {expected}? 1 to 5")


@pytest.mark.usefixtures("asked_briefly")
def test_a_model_here_rates_by_its_next_token_alone_and_in_a_batch(tiny_lm):
    """The oracle runs each question by itself, unpadded, and sums in float64."""
    pairs = [("cats", "dogs"), ("a longer text about birds", "dogs"), ("sea", "sea")]
    rated = BeliefJudge(tiny_lm, "tiny", {}, batch_size=3)(pairs)
    tokenizer = tiny_lm.tokenizer
    digits = [tokenizer(str(n), add_special_tokens=False).input_ids[0] for n in range(1, 6)]
    for pair, found in list(zip(pairs, rated, strict=True))[:2]:
        chat = [{"role": "user", "content": asking.question(pair)}]
        text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="np").input_ids
        logits = np.asarray(jax.jit(selfx.forward)(tiny_lm.model, ids).logits[0, -1], np.float64)
        p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        whole = p[digits].sum()
        assert found == pytest.approx(p[digits] @ np.arange(1, 6) / whole, rel=1e-4)
    greedy = ChatJudge(LocalChat(tiny_lm, 2), "greedy", {})
    assert greedy(pairs[:1]) == [None], "an untaught model writes no number"
    assert greedy.cost(pairs) is None


def word_tokenizer(*words):
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, words[0]))
    inner.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def test_tokens_with_a_space_before_the_number_count_and_longer_numbers_do_not():
    words = ["?", "1", "2", "3", "4", "▁4", "5", "10", "14", "x5", "▁5"]
    ids, named = rating_tokens(word_tokenizer(*words))
    assert dict(zip(ids.tolist(), named.tolist(), strict=True)) == {
        1: 1, 2: 2, 3: 3, 4: 4, 5: 4, 6: 5, 10: 5,
    }  # fmt: skip
    with pytest.raises(SelfxError, match="a token for each rating"):
        rating_tokens(word_tokenizer("?", "1", "2", "3", "4"))


def test_likeness_of_wordings_is_a_rating_too():
    judge = SimilarityJudge(Tfidf.of(["sea salt", "old hut"]), {})
    same, none, half = judge([("sea salt", "sea salt"), ("hut", "sea"), ("sea hut", "sea salt")])
    assert (same, none) == (pytest.approx(5), pytest.approx(1))
    assert 1 < half < 5
