"""Descriptions against activations: every score equals an independent one, each is made once."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score, roc_auc_score

from selfx.errors import SelfxError
from selfx.evaluation.answers import simulated as judging
from selfx.evaluation.answers.descriptions import BLOCK, NOTHING, Descriptions
from selfx.evaluation.answers.kinds import DESCRIPTIONS
from selfx.evaluation.answers.scoring import Answered
from selfx.evaluation.answers.simulated import Judges, load_judges, simulate
from selfx.evaluation.kept import Kept
from selfx.features.scores import simulate as features_simulate
from selfx.features.scores.similarity import Tfidf
from selfx.features.scores.simulate import ModelSimulator

LETTERS = "kqxz"


class Guessing:
    """A simulator that guesses, the same each time; it counts what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, descriptions, texts):
        self.asked += descriptions
        return [
            [self.levels(d, e) for e in some] for d, some in zip(descriptions, texts, strict=True)
        ]

    def levels(self, description, excerpt):
        seed = [len(description), *(excerpt.activations[1:5] * 1000).astype(int)]
        noise = np.random.default_rng(seed).random(len(excerpt.pieces))
        return (4 * noise + 3 * (excerpt.activations > 0)).astype(np.float32)


@pytest.fixture
def examples(described):
    return [described(number, letter) for number, letter in enumerate(LETTERS)]


@pytest.fixture
def make(evidence, examples):
    """A maker of scorings, by any simulator."""

    def build(simulator=simulate, **more):
        texts = {
            e.id: evidence(letter, seed=3) for e, letter in zip(examples, LETTERS, strict=True)
        }
        wordings = [example.answer for example in examples]
        judges = Judges(simulator, Tfidf.of(wordings), {"simulator": {"name": "test"}})
        return Descriptions(texts, judges, **more)

    return build


def run(*answers, explainer="self", control="none", others=()):
    return Answered(explainer, control, list(answers), tuple(map(list, others)))


@pytest.fixture
def guessed(make, examples):
    """The scores of guesses, with the texts and predictions they were made from."""
    simulator = Guessing()
    scoring = make(simulator)
    (rows,) = scoring.rate(examples, [run(*(["say music"] * 4))])
    found = []
    for number, example in enumerate(examples):
        texts = scoring.evidence[example.id].excerpts
        parts = [(e, simulator.levels("say music", e)) for e in texts]
        scores = {name: column[number] for name, column in rows.values.items()}
        found.append((scores, parts))
    return found


def joined(parts, *kinds):
    chosen = [(e.activations[1:], p[1:]) for e, p in parts if e.kind in kinds]
    return [np.concatenate(column) for column in zip(*chosen, strict=True)]


def test_simulation_is_pearsons_correlation_over_top_and_random_texts(guessed):
    for scores, parts in guessed:
        assert scores["simulation"] == pytest.approx(pearsonr(*joined(parts, "top", "random"))[0])
        assert scores["simulation_paper"] == pytest.approx(abs(pearsonr(*joined(parts, "top"))[0]))


def test_calibrated_is_the_variance_explained_by_a_line_from_the_other_half(guessed):
    for scores, parts in guessed:
        used = [(e.activations[1:], p[1:]) for e, p in parts if e.kind in ("top", "random")]
        fitted = [None] * len(used)
        for half in (0, 1):
            true, guess = (
                np.concatenate(column) for column in zip(*used[1 - half :: 2], strict=True)
            )
            line = LinearRegression().fit(guess[:, None], true)
            assert line.coef_[0] > 0
            for index in range(half, len(used), 2):
                fitted[index] = line.predict(used[index][1][:, None])
        true = np.concatenate([activations for activations, _ in used])
        assert scores["calibrated"] == pytest.approx(r2_score(true, np.concatenate(fitted)))


def test_detection_is_the_area_under_the_curve_of_texts(guessed):
    for scores, parts in guessed:
        cases = [(e, p) for e, p in parts if e.kind != "random" or e.peak == 0]
        assert {e.kind for e, _ in cases} == {"top", "sample", "random"}
        truth, highest = [e.peak > 0 for e, _ in cases], [p[1:].max() for _, p in cases]
        assert scores["detection"] == pytest.approx(roc_auc_score(truth, highest))


def test_fuzzing_is_the_area_under_the_curve_of_marks(guessed):
    for scores, parts in guessed:
        peak, rng = max(e.peak for e, _ in parts), np.random.default_rng(0)
        truth, means = [], []
        for e, p in parts:
            if e.peak > 0:
                on = [i for i in range(1, 12) if e.activations[i] >= 0.1 * peak]
                off = [i for i in range(1, 12) if e.activations[i] < 0.1 * peak]
                truth += [True, False]
                means += [p[on].mean(), p[rng.choice(off, len(on), replace=False)].mean()]
        assert scores["fuzzing"] == pytest.approx(roc_auc_score(truth, means))


def test_similarity_is_the_cosine_with_the_true_description(make, examples):
    def embed(texts):
        rows = [np.random.default_rng(list(text.encode())).standard_normal(5) for text in texts]
        return np.stack([row / np.linalg.norm(row) for row in rows])

    scoring = make()
    scoring = dataclasses.replace(scoring, judges=Judges(simulate, embed, {}))
    said = ['Fires strongly on "q".', "spaces", examples[2].answer, ' fires STRONGLY on "z"']
    (rows,) = scoring.rate(examples, [run(*said)])
    expected = [
        (embed([a]) @ embed([e.answer]).T).item() for a, e in zip(said, examples, strict=True)
    ]
    np.testing.assert_allclose(rows.values["similarity"], expected, atol=1e-6)
    assert rows.values["exact_match"].tolist() == [0, 0, 1, 1], "case, spaces, full stop aside"


def test_true_descriptions_beat_wrong_ones_on_every_score(make, examples):
    gold = run(*(e.answer for e in examples))
    wrong = run(*(examples[i - 1].answer for i in range(4)))
    true, false = make().rate(examples, [gold, wrong])
    for name in DESCRIPTIONS.measures:
        if name != "parsed":
            assert true.values[name].min() > false.values[name].max(), name
    assert true.values["similarity"] == pytest.approx(1)
    assert (true.values["exact_match"] == 1).all()
    assert true.values["simulation"].min() > 0.8
    assert false.values["simulation"].max() < 0


def test_what_says_nothing_scores_as_knowing_nothing(make, examples):
    said = ["", "Fires on nothing that can be named by its tokens.", "the", 'Promotes "k".']
    (rows,) = make().rate(examples, [run(*said)])
    for name, column in rows.values.items():
        assert column.tolist() == [NOTHING[name]] * 4
    assert list(NOTHING) == list(DESCRIPTIONS.measures)


def test_what_is_not_defined_scores_as_knowing_nothing(make, examples):
    """A simulator without opinions, and a feature that is never on."""
    scoring = make(lambda ds, texts: [[np.ones(len(e.pieces)) for e in some] for some in texts])
    (rows,) = scoring.rate(examples, [run("k", "q", "x", "z")])
    for name in ("simulation", "simulation_paper"):
        assert rows.values[name].tolist() == [0] * 4
    for name in ("detection", "fuzzing"):
        assert rows.values[name].tolist() == [0.5] * 4
    off = {
        name: dataclasses.replace(
            one,
            excerpts=tuple(
                dataclasses.replace(e, activations=0 * e.activations) for e in one.excerpts
            ),
        )
        for name, one in scoring.evidence.items()
    }
    silent = dataclasses.replace(make(), evidence=off)
    (rows,) = silent.rate(examples, [run("k", "q", "x", "z")])
    for name in ("simulation", "simulation_paper", "calibrated"):
        assert rows.values[name].tolist() == [0] * 4
    for name in ("detection", "fuzzing"):
        assert rows.values[name].tolist() == [0.5] * 4


def test_a_description_is_scored_once_for_a_feature(make, examples):
    simulator = Guessing()
    scoring = make(simulator)
    same = run("one", "two", "one", "one")
    scoring.rate(examples, [same, run("one", "two", "new", "one", control="zero"), same])
    assert sorted(simulator.asked) == ["new", "one", "one", "one", "two"]
    scoring.rate(examples, [same])
    [*scoring.columns(examples, [same])]
    assert len(simulator.asked) == 5


def test_a_score_does_not_depend_on_the_company(make, examples):
    """Above all what fuzzing draws: else two explainers would be held against different marks."""
    alone = [make(Guessing()).rate([e], [run("words")])[0].columns() for e in examples]
    together = make(Guessing()).rate(
        examples, [run(*(["other"] * 4)), run(*(["words"] * 4), control="zero")]
    )[1]
    for name, column in together.values.items():
        assert column.tolist() == [one[name][0] for one in alone]


def test_an_oracle_takes_the_best_text_for_each_score(make, examples):
    a, b = run("k", "weakly on q", "spaces", "z"), run("q", "q", "x", 'Fires strongly on "z".')
    one, other, best = make().rate(examples, [a, b, run(*a.answers, others=[b.answers])])
    for name, column in best.values.items():
        expected = np.maximum(one.values[name], other.values[name])
        np.testing.assert_array_equal(column, expected)
    differs = [
        (one.values[name] > other.values[name]).any()
        and (one.values[name] < other.values[name]).any()
        for name in DESCRIPTIONS.measures
    ]
    assert any(differs)


def test_scores_kept_are_not_made_again(make, examples, tmp_path, described, evidence):
    many = [described(n, LETTERS[n % 4]) for n in range(BLOCK + 3)]
    texts = {e.id: evidence(LETTERS[n % 4], seed=n) for n, e in enumerate(many)}

    class Stop(Exception):
        pass

    class Stopping(Guessing):
        def __call__(self, descriptions, texts):
            if len(self.asked) >= BLOCK:
                raise Stop
            return super().__call__(descriptions, texts)

    said = run(*(f"say {n}" for n in range(len(many))))
    keep = Kept(tmp_path)
    with pytest.raises(Stop):
        dataclasses.replace(make(Stopping(), keep=keep), evidence=texts).rate(many, [said])
    rest = Guessing()
    (resumed,) = dataclasses.replace(make(rest, keep=keep), evidence=texts).rate(many, [said])
    assert len(rest.asked) == 3
    (whole,) = dataclasses.replace(make(Guessing()), evidence=texts).rate(many, [said])
    for name, column in whole.values.items():
        assert column.tolist() == resumed.values[name].tolist()
    other = Guessing()
    dataclasses.replace(make(other, keep=keep, seed=1), evidence=texts).rate(many, [said])
    assert len(other.asked) == BLOCK + 3, "another seed draws other marks"


def test_one_answer_for_each_example(make, examples):
    with pytest.raises(SelfxError, match="3 answers to 4 examples"):
        make().rate(examples, [run("a", "b", "c")])
    with pytest.raises(SelfxError, match="2 answers to 4 examples"):
        make().rate(examples, [run("a", "b", "c", "d", others=[["a", "b"]])])


def test_the_simulator_that_needs_no_model_looks_at_texts_once(evidence, monkeypatch):
    texts = [evidence(letter, seed=1).excerpts for letter in "kkq"]
    said = ["spaces", 'Fires strongly on "k" after "q"', 'Fires weakly on "q".']
    expected = features_simulate.simulate(said, texts)
    looks = []
    real = judging.reading
    monkeypatch.setattr(judging, "reading", lambda pieces: looks.append(pieces) or real(pieces))
    for ours, theirs in zip(simulate(said, texts), expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(looks) == len(set(looks)) == 14


def test_wordings_are_compared_by_the_best_embedder_that_is_here(monkeypatch):
    monkeypatch.setattr(judging.importlib.util, "find_spec", lambda name: None)
    found = load_judges("", ["words about cats"], [])
    assert isinstance(found.embedder, Tfidf)
    assert found.about["simulator"] == {"name": "built-in"}
    assert found.about["similarity"]["embedder"] == "tf-idf"
    other = load_judges("", ["words about dogs"], [])
    assert found.about != other.about, "its weights are part of the record"
    monkeypatch.setattr(judging.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(judging, "load_minilm", lambda: "the encoder")
    found = load_judges("", [], [])
    assert found.embedder == "the encoder"
    assert found.about["similarity"] == {"embedder": "all-MiniLM-L6-v2"}


def test_a_model_may_simulate(feature_trace, tiny_folder, tiny_lm, tmp_path):
    from selfx.evaluation.answers.descriptions import texts_of
    from selfx.tasks.store import load_examples

    folder = feature_trace(tmp_path / "trace", train=2, test=2)
    examples = load_examples(folder, "test")
    texts = texts_of(folder, "test", examples)
    found = load_judges(str(tiny_folder), [], texts.values())
    assert found.about["simulator"] == {"name": tiny_lm.name, "hash": tiny_lm.hash}
    some = [texts[e.id].excerpts for e in examples]
    expected = ModelSimulator(tiny_lm)(["cats", "dogs"], some)
    for ours, theirs in zip(found.simulator(["cats", "dogs"], some), expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_simulator_of_other_tokens_is_refused(feature_trace, tiny_folder, tmp_path, evidence):
    shifted = evidence("k", ids={letter: 40 + n for n, letter in enumerate("kqxzabc ")})
    with pytest.raises(SelfxError, match="tokens are not those of the texts"):
        load_judges(str(tiny_folder), [], [shifted])
