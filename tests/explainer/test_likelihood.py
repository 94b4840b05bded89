"""The probability of an answer: what stepping through it token by token finds in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.explainer import lora
from selfx.explainer.answer import answer, injected, untrained
from selfx.explainer.batches import Plan
from selfx.explainer.likelihood import at_temperatures, log_probabilities
from selfx.explainer.lora import Lora
from selfx.explainer.optimization import Optimization
from selfx.explainer.reader import Reader
from selfx.explainer.reply import replies
from selfx.explainer.step import Frozen, How, init_state, make_step
from selfx.explainer.trained import Trained, parameters
from selfx.explainer.training import Training
from selfx.interventions.build import inject
from selfx.models.decoder import forward
from selfx.models.parameters import from_parameters
from selfx.tasks.example import SLOT, Example

END = 2
WIDTH = 128


@pytest.fixture(scope="module")
def explainer(tiny_lm):
    """A function: the tiny model as an explainer of some settings, its weights drawn."""

    def make(**settings):
        training = Training(**{"style": "plain", "injection": "embedding", **settings})
        return untrained(tiny_lm, training)

    return make


def example(number, question, vectors, *, openings=(), layers=None):
    rng = np.random.default_rng(number)
    held = rng.standard_normal((vectors, 32)).astype(np.float32) if vectors else None
    return Example(
        id=f"e{number}",
        task="t",
        split="test",
        group="g",
        cell="c",
        system="",
        questions=(question, "never asked"),
        answer="never read",
        changed=False,
        content="",
        vectors=held,
        details={},
        openings=openings,
        layers=(1,) * vectors if layers is None else layers,
    )


@pytest.fixture(scope="module")
def examples():
    """Questions of different lengths, with two vectors, one and none, and one to be continued."""
    return [
        example(0, f"What is {SLOT} then?", 1),
        example(1, f"{SLOT}{SLOT} and so on?", 2),
        example(2, "Without any?", 0),
        example(3, f"{SLOT}, in a chat?", 1, openings=(f"Of {SLOT} it is said",)),
        example(4, f"A much longer one, of which {SLOT} is the middle, to be sure?", 1),
    ]


TEXTS = ["red", "a longer answer", "", "blue", "x"]


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max()
    return logits - np.log(np.exp(logits).sum())


@jax.jit
def last_logits(model, tokens, length, edits, lora):
    """Of the last real token, in one program for every length."""
    mask = jnp.arange(tokens.shape[1])[None] < length
    at = jnp.array([[length - 1]])
    return forward(model, tokens, mask=mask, edits=edits, lora=lora, logits_at=at).logits[0, 0]


def by_hand(explainer, example, text, edits_of, temperature=1.0):
    """The sum over the answer's tokens, each asked for by itself after those before it."""
    prompt = explainer.prompter.prompt(example)
    opens = explainer.prompter.style == "plain" and example.openings
    encode = explainer.prompter.tokenizer
    tokens = [*encode((" " if opens else "") + text, add_special_tokens=False).input_ids, END]
    total, ids = 0.0, list(prompt.ids)
    for token in tokens:
        edits = edits_of(explainer, prompt, example)
        padded = np.array([ids + [0] * (WIDTH - len(ids))])
        logits = last_logits(explainer.model, padded, len(ids), edits, explainer.lora)
        total += log_softmax(np.asarray(logits, np.float64) / temperature)[token]
        ids.append(token)
    return total, len(tokens)


def embedded(explainer, prompt, example):
    """Vectors put in place of the placeholders' embeddings, one edit for each."""
    edits = None
    for slot, vector in zip(prompt.slots, example.vectors if prompt.slots else (), strict=True):
        more = inject(jnp.asarray(vector)[None], positions=np.array([slot]))
        edits = more if edits is None else edits | more
    return edits


def as_asked(explainer, prompt, example):
    """The edits that questions are asked with."""
    vectors = np.zeros((1, 1, 32), np.float32) if example.vectors is None else example.vectors[None]
    return injected(explainer, vectors, [prompt], [example])


@pytest.mark.parametrize("style", ["plain", "chat"])
def test_it_is_what_one_step_after_the_other_finds(explainer, examples, style):
    who = explainer(style=style)
    sums, counts = log_probabilities(who, examples, TEXTS)
    for each, text, total, count in zip(examples, TEXTS, sums, counts, strict=True):
        expected, tokens = by_hand(who, each, text, embedded)
        assert count == tokens
        np.testing.assert_allclose(total, expected, rtol=5e-5)


def test_it_is_so_with_a_reader_and_adapters_beside_after_a_layer(explainer, examples, tiny):
    rng = np.random.default_rng(3)
    fresh = lora.init(tiny.config, rank=2, alpha=4.0, key=jax.random.key(0))
    drawn = {
        name: Lora(x.a, jnp.asarray(0.3 * rng.standard_normal(x.b.shape), jnp.float32), x.scale)
        for name, x in fresh.items()
    }
    reader = Reader(scale=jnp.arange(1.0, 5.0), bias=jnp.ones((4, 32)))
    who = dataclasses.replace(explainer(injection="add"), lora=drawn, reader=reader)
    merged = dataclasses.replace(who, model=lora.merge(who.model, drawn), lora=None)
    bare = log_probabilities(explainer(), examples, TEXTS)[0]
    beside = log_probabilities(who, examples, TEXTS)[0]
    assert (np.abs(beside - bare) > 0.01).all()
    np.testing.assert_allclose(log_probabilities(merged, examples, TEXTS)[0], beside, rtol=5e-5)
    for each, text, total in zip(examples, TEXTS, beside, strict=True):
        np.testing.assert_allclose(total, by_hand(who, each, text, as_asked)[0], rtol=5e-5)


def test_temperatures_divide_the_logits(explainer, examples):
    """All in one pass; at 1 it is the probability itself."""
    who, temperatures = explainer(), (0.5, 1.0, 3.0)
    found, counts = at_temperatures(who, examples, TEXTS, None, temperatures)
    sums, same = log_probabilities(who, examples, TEXTS)
    np.testing.assert_allclose(found[:, 1], sums, rtol=1e-6)
    assert (counts == same).all()
    for each, text, row in zip(examples, TEXTS, found, strict=True):
        expected = [by_hand(who, each, text, embedded, t)[0] for t in temperatures]
        np.testing.assert_allclose(row, expected, rtol=5e-5)


@pytest.mark.parametrize("size", [2, 32])
def test_batches_change_nothing(explainer, examples, size):
    who = explainer()
    expected = log_probabilities(who, examples, TEXTS)[0]
    found = log_probabilities(who, examples[::-1], TEXTS[::-1], batch_size=size)[0]
    np.testing.assert_allclose(found[::-1], expected, rtol=1e-5)


def test_other_vectors_are_read_instead(explainer, examples):
    who = explainer()
    own = log_probabilities(who, examples, TEXTS)[0]
    zeros = np.zeros((len(examples), 2, 32), np.float32)
    blind = log_probabilities(who, examples, TEXTS, zeros)[0]
    read = np.array([each.vectors is not None for each in examples])
    assert (np.abs(blind - own)[read] > 1e-3).all()
    np.testing.assert_allclose(blind[~read], own[~read], rtol=1e-6)
    silenced = [
        each if each.vectors is None else dataclasses.replace(each, vectors=0 * each.vectors)
        for each in examples
    ]
    np.testing.assert_allclose(log_probabilities(who, silenced, TEXTS)[0], blind, rtol=1e-6)


def test_all_answers_of_one_token_together_are_as_likely_as_the_end_after_them(explainer, examples):
    """The sum over the whole vocabulary of p(token) p(end | token) is below 1, and each is its
    share: nothing is counted twice."""
    who, asked = explainer(), examples[2]
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    sums, counts = log_probabilities(who, [asked] * len(letters), letters)
    assert set(counts) == {2}
    assert 0 < np.exp(sums).sum() < 1


@pytest.fixture(scope="module")
def taught(explainer, planted, tiny):
    """An explainer that has learned a few planted answers by heart.

    Its unembedding is longer than the tiny model's, whose logits are too close to be sure of any.
    """
    longer = {path: x * (4 if path == "unembed.w" else 1) for path, x in parameters(tiny).items()}
    tiny = from_parameters(tiny.config, longer, jnp.float32)
    who = dataclasses.replace(explainer(injection="marker"), model=tiny)
    some = [dataclasses.replace(e, questions=e.questions[:1]) for e in planted(4)]
    plan = Plan(some, who.prompter, width=32, batch_size=4, seed=0)
    adapters = lora.init(tiny.config, rank=8, alpha=8.0, key=jax.random.key(0))
    optimizer = Optimization(2e-2).build(60)
    step = make_step(optimizer, How(who.training.way))
    state = init_state(Trained(lora=adapters), optimizer)
    for number in range(60):
        state, _ = step(state, Frozen(tiny), plan.batch(number))
    return dataclasses.replace(who, model=lora.merge(tiny, state.trained.lora)), some


def test_a_greedy_answer_is_likelier_than_itself_with_a_token_changed(taught):
    who, some = taught
    said = answer(who, some, max_new_tokens=8)
    assert said == [each.answer for each in some]
    best = log_probabilities(who, some, said)[0]
    assert (np.exp(best) > 0.5).all()
    for each, text, own in zip(some, said, best, strict=True):
        others = [
            text[:place] + letter + text[place + 1 :]
            for place in range(len(text))
            for letter in "abcdefghijklmnopqrstuvwxyz"
            if letter != text[place]
        ]
        sums, counts = log_probabilities(who, [each] * len(others), others, batch_size=128)
        assert set(counts) == {len(text) + 1}
        assert (sums < own).all()


def test_a_reply_is_sure_with_its_vector_and_not_without(taught):
    who, some = taught
    for each, reply in zip(some, replies(who, some, max_new_tokens=8), strict=True):
        assert (reply.text, reply.cut) == (each.answer, False)
        assert reply.sure.probability > 0.5
        assert reply.sure.per_token > reply.sure.probability
        assert reply.blind.log_probability < reply.sure.log_probability
        assert reply.sure.tokens == reply.blind.tokens == len(each.answer) + 1
    cut = replies(who, some, max_new_tokens=2)
    assert [reply.text for reply in cut] == [each.answer[:2] for each in some]
    assert all(reply.cut for reply in cut)


def test_a_question_without_a_vector_has_nothing_to_be_blind_to(explainer, examples):
    seeing, without = replies(explainer(), [examples[0], examples[2]], max_new_tokens=2)
    assert seeing.blind is not None
    assert without.blind is None


def test_nothing_asked_nothing_found(explainer):
    sums, counts = log_probabilities(explainer(), [], [])
    assert sums.shape == counts.shape == (0,)


def test_what_cannot_be_weighed_is_refused(explainer, examples):
    who = explainer()
    with pytest.raises(SelfxError, match="1 texts for 2 questions"):
        log_probabilities(who, examples[:2], ["x"])
    with pytest.raises(SelfxError, match="tokens"):
        log_probabilities(who, examples[:1], ["x" * 600])
    wide = dataclasses.replace(examples[0], vectors=np.ones((1, 48), np.float32))
    with pytest.raises(SelfxError, match="width 48"):
        log_probabilities(who, [wide], ["x"])
