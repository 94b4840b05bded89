"""The built-in describer recovers planted features, and its words can be read back."""

import dataclasses

import numpy as np
import pytest

from selfx.features.descriptions.candidates import quotable
from selfx.features.descriptions.describe import describe
from selfx.features.descriptions.rules import Rule
from selfx.features.descriptions.statements import NEVER, NOTHING, Clause, Statement, parse
from selfx.features.descriptions.words import CLASSES, examples_of, reading, stem
from selfx.features.exemplars.excerpts import Evidence, Excerpt, Pieces, evidence_of, halves
from selfx.testing import tiny_tokenizer


def listed(words):
    return words.split()


NAMES = listed("Anna London Peter Berlin Kenya Oslo Maria Texas")
THINGS = listed("river table garden music winter doctor paper engine castle bridge")
VERBS = listed("walked walking walks opened opening opens painted painting paints")
SMALL = listed("the a of in on with and but or it she they was were can not")
MONTHS = listed("March June August October")


def texts(count=120, seed=0):
    """Random sentences as tuples of tokens, each word with the space before it."""
    rng = np.random.default_rng(seed)
    pools = [NAMES, THINGS, THINGS, VERBS, SMALL, SMALL, MONTHS]
    found = []
    for _ in range(count):
        words = []
        for _ in range(24):
            draw = rng.random()
            if draw < 0.08:
                words.append(f" {rng.integers(1, 3000)}")
            elif draw < 0.2:
                words.append(str(rng.choice([".", ",", " $", "%", '"'])))
            else:
                words.append(" " + str(rng.choice(pools[rng.integers(len(pools))])))
        found.append(tuple(words))
    return found


def planted(rule, *, noise=0.05, seed=0, promoted=()):
    """Evidence of a feature that is on where `rule(reading)` says, and faintly here and there."""
    rng = np.random.default_rng(seed)
    excerpts = []
    for number, pieces in enumerate(texts()):
        on = np.asarray(rule(reading(pieces)), float)
        acts = on * rng.uniform(4, 5, len(pieces))
        acts += (rng.random(len(pieces)) < noise) * rng.uniform(0, 1, len(pieces))
        excerpts.append(Excerpt(pieces, acts.astype(np.float32), "top", 0, number))
    order = sorted(excerpts, key=lambda text: -text.peak)
    on = [text for text in order if text.peak > 0]

    def pick(some, kind):
        return [dataclasses.replace(some[i], kind=kind) for i in rng.permutation(len(some))[:20]]

    kept = [*order[:20], *pick(on, "sample"), *pick(excerpts, "random")]
    return Evidence(0, tuple(kept), tuple(promoted), frequency=0.1)


def after(wanted):
    def rule(text):
        here = np.array([bare == wanted for bare in text.bare])
        return np.concatenate([[False], here[:-1]])

    return rule


CASES = {
    "digits": lambda text: [bare.isdigit() for bare in text.bare],
    "months": lambda text: [bare in MONTHS for bare in text.bare],
    '"the"': lambda text: [bare == "the" for bare in text.bare],
    'forms of "walk': lambda text: [word.startswith("walk") for word in text.words],
    'words ending in "ing"': lambda text: [word.endswith("ing") for word in text.words],
    'everything after "$"': after("$"),
    'everything after "castle"': after("castle"),  # not: text that mentions it, after it
    'text that mentions "castle"': lambda text: np.logical_or.accumulate(
        np.array([word == "castle" for word in text.words])
    ),
}


@pytest.mark.parametrize("phrase", CASES)
def test_a_planted_rule_is_what_is_said_first(phrase):
    found = describe(planted(CASES[phrase]))
    assert found.text.startswith(f"Fires strongly on {phrase}"), found.text
    assert found.correlation > 0.9
    first = found.counts[0]
    assert first.on == first.holds > 1, "wherever the rule holds the feature was planted"


@pytest.mark.parametrize("phrase", CASES)
def test_a_planted_rule_is_found_through_heavy_noise(phrase):
    """A fifth of its activations are anything, and a hundredth of all other tokens is on."""
    rng = np.random.default_rng(1)

    def rule(text):
        on = np.asarray(CASES[phrase](text), float)
        anything = rng.random(len(on)) < np.where(on, 0.2, 0.01)
        return np.where(anything, rng.random(len(on)), on)

    found = describe(planted(rule, noise=0.0))
    assert found.text.startswith(f"Fires strongly on {phrase}"), found.text


@pytest.mark.parametrize(
    "phrase", ["digits", "punctuation", "capitalised words", "articles", "months", "pronouns"]
)
def test_a_planted_class_is_recovered_from_any_class(phrase):
    assert describe(planted(lambda text: text.is_a(phrase))).text.startswith(
        f"Fires strongly on {phrase}."
    )


def test_two_planted_words_are_both_named_with_their_levels():
    def rule(text):
        stems = np.array(text.stems)
        return (stems == "river") + 0.45 * (stems == "doctor")

    text = describe(planted(rule)).text
    assert text == 'Fires strongly on "river"; moderately on "doctor".'


def test_the_counts_are_counted():
    evidence = planted(CASES["digits"], noise=0.0)
    once = {text.document: text for text in evidence.excerpts}.values()
    digits = [[bare.isdigit() for bare in reading(text.pieces).bare] for text in once]
    held = sum(map(sum, digits))
    # a tenth of the peak is well below what is planted
    found = describe(evidence).counts[0]
    assert (found.holds, found.on, found.on_elsewhere) == (held, held, 0)
    assert found.elsewhere == sum(map(len, digits)) - held
    assert found.text.startswith(f"digits: on at {held} of {held}")


def test_it_says_the_same_every_time():
    one, other = (describe(planted(CASES["months"], seed=3)) for _ in range(2))
    assert one == other


def test_a_feature_that_was_never_on_is_said_to_be_so():
    dead = planted(lambda text: np.zeros(len(text.bare)), noise=0.0, promoted=("cat",))
    assert describe(dead).text == f'{NEVER}. Promotes "cat".'
    assert describe(Evidence(0, ())).text == f"{NEVER}."


def test_noise_gets_no_confident_description():
    rng = np.random.default_rng(0)
    noise = describe(planted(lambda text: rng.random(len(text.bare)) < 0.1, noise=0.0))
    assert noise.correlation is None or noise.correlation < 0.4


def test_promoted_tokens_are_named():
    text = describe(planted(CASES["digits"], promoted=("million", "years"))).text
    assert text.endswith('Promotes "million", "years".')
    assert parse(text).promoted == ("million", "years")


RULES = [
    Rule("token", "the"),
    Rule("token", "$"),
    Rule("word", "walking"),
    Rule("ending", "ing"),
    Rule("beginning", "un"),
    Rule("mention", "war"),
    Rule("everything"),
    *(Rule("class", phrase) for phrase in CLASSES),
    Rule("class", "digits", after=Rule("token", "$")),
    Rule("everything", after=Rule("class", "months")),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.phrase)
def test_what_is_said_can_be_read_back(rule):
    statement = Statement((Clause(rule, 9.0), Clause(Rule("word", "zebra"), 2.0)), ("x", "y"))
    assert parse(statement.text) == statement


@pytest.mark.parametrize("phrase", CLASSES)
def test_every_class_has_examples_that_belong_to_it(phrase):
    for example in examples_of(phrase):
        pieces = tuple(part for word in example.split(" ") for part in (word, " "))
        if phrase == "word continuations":
            pieces = (example[:3], example[3:])
        if phrase in ("line breaks", "first words of sentences", "spaces"):
            pieces = ("so", ".", *(f" {part}" for part in example.split(" ")))
        assert reading(pieces).is_a(phrase).any(), example


def test_free_text_is_read_as_far_as_it_can_be():
    found = parse('References to numbers, the word "river", and medical doctors')
    rules = {clause.rule for clause in found.clauses}
    assert rules == {
        Rule("class", "digits"),
        Rule("token", "river"),
        Rule("word", "medical"),
        Rule("word", "doctors"),
    }


@pytest.mark.parametrize("text", ["", "\n", '"', '""', "???", "after after", f"{NOTHING}."])
def test_text_without_content_says_nothing(text):
    assert parse(text).clauses == ()


def test_words_are_put_together_from_their_tokens():
    got = reading((" un", "believ", "able", ",", " isn", "'t", " it", "?", " No"))
    assert got.words[:3] == ("unbelievable",) * 3
    assert got.words[4:6] == ("isn't", "isn't")
    assert got.first.tolist() == [True, False, False, False, True, False, True, False, True]
    assert got.last.tolist() == [False, False, True, False, False, True, True, False, True]
    assert got.is_a("first words of sentences").tolist() == [False] * 8 + [True]


@pytest.mark.parametrize(
    "words", ["walk walks walked walking", "make makes making", "run running", "city cities"]
)
def test_forms_of_a_word_have_one_stem(words):
    assert len({stem(word) for word in words.split()}) == 1


def test_no_token_that_would_break_the_quotation_is_quoted():
    assert not any(map(quotable, ['"', "", "\n", "\ufffd", 'a"b']))
    assert quotable("$")


def test_halves_share_no_text_and_lose_none():
    evidence = planted(CASES["digits"])
    one, other = halves(evidence)
    assert len(one.excerpts) + len(other.excerpts) == len(evidence.excerpts)
    places = [{text.document for text in half.excerpts} for half in (one, other)]
    assert not places[0] & places[1]
    assert all(half.of(kind) for half in (one, other) for kind in ("top", "sample", "random"))


def test_the_pieces_of_a_tokenizer_join_to_the_text():
    tokenizer = tiny_tokenizer()
    pieces = Pieces(tokenizer)
    text = "Two  cats, 3 dogs"
    assert "".join(pieces(tokenizer(text).input_ids)) == text


def test_evidence_is_what_the_exemplars_hold(tiny_lm):
    from selfx.features.exemplars.corpus import windows
    from selfx.features.exemplars.directions import along
    from selfx.features.exemplars.mine import Search, mine

    corpus = windows(tiny_lm.tokenizer, ["one two three four", "five six seven"], context=12)
    features = along(np.random.default_rng(0).standard_normal((2, 32)), layer=0)
    found = mine(tiny_lm, features, corpus, search=Search(2, 2, 2, batch_size=2))
    got = evidence_of(found, 1, Pieces(tiny_lm.tokenizer))
    assert got.peak == pytest.approx(found.peak(1))
    assert {text.kind for text in got.excerpts} == {"top", "sample", "random"}
    assert all(text.skip == 1 and text.activations[0] == 0 for text in got.excerpts)
    assert all(text.text in "one two three four five six seven" for text in got.excerpts)
