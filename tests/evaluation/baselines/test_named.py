"""Baselines of descriptions: what each looks up or asks, and that SelfIE is not helped."""

from types import SimpleNamespace

import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.evaluation.answers.descriptions import Descriptions
from selfx.evaluation.answers.kinds import DESCRIPTIONS, KINDS, VERDICTS
from selfx.evaluation.answers.simulated import Judges, simulate
from selfx.evaluation.baselines import named
from selfx.evaluation.baselines.named import LOOKED_UP, MODELS, Bench, looked_up
from selfx.evaluation.baselines.nearest import commonest, gold, nearest_cosine, nearest_dot
from selfx.evaluation.run import Evaluation
from selfx.explainer.selfie import SCALES
from selfx.features.descriptions.statements import parse
from selfx.features.scores.similarity import Tfidf

LETTERS = "kqxz"


def feature(described, number, vector, answer="a"):
    return described(number, "k", vector=np.array(vector, np.float32), answer=answer)


@pytest.fixture
def train(described):
    return [
        feature(described, 0, [1, 0], "near"),
        feature(described, 1, [9, 9], "long"),
        feature(described, 2, [0, 1], "across"),
        feature(described, 3, [0, 0], "nothing"),
    ]


def test_the_nearest_by_angle_is_not_the_one_of_the_largest_product(described, train):
    test = [feature(described, 9, v) for v in ([5, 0.5], [0.1, 2], [3, 2.9], [-1, -1])]
    assert nearest_cosine(train, test) == ["near", "across", "long", "nothing"]
    assert nearest_dot(train, test) == ["long", "long", "long", "nothing"]


def test_all_layers_are_looked_through(described, train):
    test = [described(9, "k", layer=7, vector=np.array([1, 0], np.float32))]
    assert nearest_cosine(train, test) == ["near"]


def test_nearest_neighbours_equal_scikit_learns(described):
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(0)
    train = [feature(described, n, rng.standard_normal(6), f"d{n}") for n in range(40)]
    test = [feature(described, n, rng.standard_normal(6)) for n in range(300)]
    judge = NearestNeighbors(n_neighbors=1, metric="cosine").fit([e.vector for e in train])
    rows = judge.kneighbors([e.vector for e in test], return_distance=False)[:, 0]
    assert nearest_cosine(train, test) == [f"d{row}" for row in rows]


def test_the_commonest_description_and_the_true_ones(described):
    said = ["Fires on a.", "fires on b", "Fires on B. ", "fires on a", "else"]
    train = [described(n, "k", answer=text) for n, text in enumerate(said)]
    assert commonest(train, train[:2]) == ["Fires on a."] * 2
    assert gold(train, train) == said


def test_the_names_of_each_kind_are_all_answered():
    for kind in KINDS.values():
        assert set(kind.baselines) <= {*LOOKED_UP[kind.name], *MODELS}
        assert set(LOOKED_UP[kind.name]) <= set(kind.baselines)
    assert set(VERDICTS.baselines) & set(MODELS) == {"untrained", "few-shot", "selfie"}


def test_a_baseline_of_the_other_kind_is_refused_with_those_that_fit():
    assert VERDICTS.fitting(None) == tuple(VERDICTS.baselines)
    with pytest.raises(SelfxError, match="'majority-per-cell' for .* descriptions") as caught:
        DESCRIPTIONS.fitting(("majority", "majority-per-cell"))
    assert caught.value.expected == f"one of {', '.join(DESCRIPTIONS.baselines)}"
    with pytest.raises(SelfxError, match="'gold' for .* verdicts"):
        VERDICTS.fitting(("gold",))


@pytest.mark.parametrize("name", ["majority", "nearest-cosine", "nearest-dot", "selfie"])
def test_what_learns_from_training_examples_needs_some(described, name):
    with pytest.raises(SelfxError, match="without training examples"):
        looked_up(DESCRIPTIONS, (name,), [], [described(0, "k")])


def test_what_does_not_learn_needs_none(described):
    names = ("untrained", "logit-lens", "selfie-oracle", "gold")
    found = looked_up(DESCRIPTIONS, names, [], [described(0, "k")])
    assert list(found) == ["gold"]


class Asked:
    """Stands for asking models: SelfIE says prepared texts."""

    settings = Evaluation()

    def __init__(self, test, says, explainer=None):
        self.test, self.says, self.explainer = test, says, explainer
        self.single = np.stack([e.vector for e in test])
        self.calls = []

    def selfie(self, vectors, scale):
        self.calls.append((len(vectors), scale))
        return [self.says(int(vector[0]), scale) for vector in vectors]


@pytest.fixture
def bench(described, evidence, monkeypatch):
    """A maker: features of four letters, and what SelfIE says of feature n at a length."""

    def make(says, train=8, test=8):
        def some(count, first):
            vectors = (np.array([n, 1], np.float32) for n in range(first, first + count))
            return [described(int(v[0]), LETTERS[int(v[0]) % 4], vector=v) for v in vectors]

        examples = some(train, 100), some(test, 0)
        texts = {e.id: evidence(e.answer[-3], seed=n) for n, e in enumerate(sum(examples, []))}
        judges = Judges(simulate, Tfidf.of([]), {})
        monkeypatch.setattr(
            "selfx.evaluation.answers.descriptions.load_evidence",
            lambda data, split, ids: [texts[each] for each in ids],
        )
        scoring = Descriptions({e.id: texts[e.id] for e in examples[1]}, judges)
        return Bench("trace", *examples, Asked(examples[1], says), scoring)

    return make


def right(number):
    return f'Fires strongly on "{LETTERS[number % 4]}".'


def test_selfies_length_is_chosen_on_training_features_alone(bench):
    """At 10 it is right on training features, at 25 on the test's."""

    def says(number, scale):
        return right(number) if scale == (10 if number >= 100 else 25) else "spaces"

    made = bench(says)
    run = named.selfie(made)
    assert run.note["scale"] == 10.0
    assert run.note["features"] == 8
    assert max(run.note["training_scores"], key=run.note["training_scores"].get) == "10"
    assert list(run.answers) == ["spaces"] * 8
    assert made.asked.calls == [(8, scale) for scale in SCALES] + [(8, 10.0)]


def test_selfies_length_is_chosen_on_few_features_drawn_by_seed(bench, monkeypatch):
    monkeypatch.setattr(named, "CHOSEN_ON", 3)
    made = bench(lambda number, scale: right(number))
    run = named.selfie(made)
    assert made.asked.calls[0] == (3, 1.0)
    assert run.note["scale"] == 1.0, "the first of several"
    assert run.note["features"] == 3


def test_the_oracle_is_never_below_any_length_and_shows_the_best(bench):
    rng = np.random.default_rng(0)
    table = {
        (n, scale): rng.choice([right(n), right(n + 1), "spaces", "", "Fires weakly on digits."])
        for n in range(8)
        for scale in SCALES
    }
    made = bench(lambda number, scale: str(table.get((number, scale), "spaces")))
    oracle, honest = named.selfie_oracle(made), named.selfie(made)
    best, own = made.scoring.rate(made.test, [oracle, honest])
    for name, column in best.values.items():
        assert (column >= own.values[name]).all(), name
    assert best.values["simulation"].mean() > own.values["simulation"].mean()
    assert any(right(n) == text for n, text in enumerate(oracle.answers))
    shown = made.scoring.rate(made.test, [named.Answered("x", "none", oracle.answers)])[0]
    np.testing.assert_array_equal(shown.values["simulation"], best.values["simulation"])


def test_the_lens_names_the_tokens_of_the_highest_logits(tiny_lm, described):
    class Explainer:
        base = tiny_lm

    rng = np.random.default_rng(0)
    test = [described(n, "k", vector=rng.standard_normal(32).astype(np.float32)) for n in range(3)]
    asked = Asked(test, None, explainer=Explainer())
    scoring = SimpleNamespace(kind=DESCRIPTIONS)
    run = named.logit_lens(Bench("", [], test, asked, scoring))
    norm = np.asarray(tiny_lm.model.final_norm.w[...], np.float64)
    head = np.asarray(tiny_lm.model.unembed.w[...], np.float64)
    for example, text in zip(test, run.answers, strict=True):
        v = example.vector.astype(np.float64)
        logits = (v / np.sqrt((v**2).mean() + 1e-6) * norm) @ head
        letters = [tiny_lm.tokenizer.decode([i]).strip() for i in np.argsort(-logits)[:10]]
        wanted = [one for one in letters if one.isprintable() and one not in ("", '"', "\ufffd")]
        said = parse(text)
        assert [clause.rule.value for clause in said.clauses] == wanted[:4]
        assert list(said.promoted) == wanted[:4]
        assert {clause.level for clause in said.clauses} <= {9.0}
