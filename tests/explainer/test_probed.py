"""A reader that begins as a probe writes what scikit-learn's ridge would say."""

import dataclasses

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from selfx.errors import SelfxError
from selfx.explainer import probed
from selfx.explainer.fit import fit
from selfx.explainer.job import prepare
from selfx.explainer.mixture import read_mixture
from selfx.explainer.probed import LEAST, Words, probing
from selfx.explainer.run import Run
from selfx.explainer.training import Training
from selfx.explainer.watch import divide
from selfx.ridge import STRENGTHS
from selfx.tasks.example import Example
from selfx.tasks.wording import content_of, word

WIDTH, DEPTH = 12, 5
TABLE = np.random.default_rng(9).standard_normal((8, WIDTH))
IDS = {"The cat": [0, 1], "The dog": [0, 2], "The cow": [0, 3, 4]}
WORDS = Words(IDS.__getitem__, TABLE)
SAID = {"The cat": TABLE[1], "The dog": TABLE[2], "The cow": TABLE[3:5].mean(axis=0)}
"""What an outcome is read as: what all begin with is left out."""


def example(number, content, vectors, layers):
    return Example(
        id=str(number),
        task="activation-patching",
        split="train",
        group=f"g{number // 2}",
        cell="",
        system="",
        questions=("?",),
        answer=word(number % 2 == 0, content),
        changed=True,
        content=content,
        vectors=np.asarray(vectors, np.float32),
        details={},
        layers=tuple(layers),
    )


def planted(layers, count=160, seed=0, noise=1.0):
    """Each vector holds a little of its outcome, in a direction of its own layer, and much else."""
    rng = np.random.default_rng(seed)
    ways = rng.standard_normal((DEPTH, len(SAID), WIDTH))
    shared = 3 * rng.standard_normal((DEPTH, WIDTH))
    found = []
    for number in range(count):
        which = int(rng.integers(len(SAID)))
        own = layers(number) if callable(layers) else layers
        vectors = [
            shared[layer] + ways[layer, which] + noise * rng.standard_normal(WIDTH) for layer in own
        ]
        found.append(example(number, list(SAID)[which], vectors, own))
    return found


def units_of(examples):
    vectors = np.stack([e.vectors for e in examples]).astype(float)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def read_by(reader, examples):
    """Float `[n, m, d]`."""
    layers = np.array([e.layers for e in examples])
    return np.asarray(reader(units_of(examples).astype(np.float32), layers))


def made(examples):
    return probing(examples, WORDS, layers=DEPTH, width=WIDTH)


def spoken_by(reader, examples):
    """Float `[n, k]`: how much vectors speak for each of the words, in their order."""
    words = np.asarray(reader.words)
    places = [np.abs(words - said).sum(axis=1).argmin() for said in SAID.values()]
    keys, level = np.asarray(reader.keys, float), np.asarray(reader.level, float)
    each = [
        (units[:, :, None] * keys[list(e.layers)]).sum(axis=1) + level[list(e.layers)]
        for units, e in zip(units_of(examples), examples, strict=True)
    ]
    return np.stack(each).mean(axis=1)[:, places]


def leaning(logs):
    return logs - logs.mean(axis=-1, keepdims=True)


def by_hand(features, examples):
    """What scikit-learn's ridge says of the log shares, less its mean, and what it says of each
    group without it: float `[n, k]` of every strength."""
    truth = np.array([[e.content == name for name in SAID] for e in examples])
    logs = np.log(np.maximum(truth, LEAST))
    features = features / features.std(axis=0)
    groups, cut = [e.group for e in examples], LeaveOneGroupOut()
    found = []
    for strength in STRENGTHS:
        left_out = cross_val_predict(Ridge(strength), features, logs, groups=groups, cv=cut)
        said = Ridge(strength).fit(features, logs).predict(features)
        found.append((leaning(said), left_out))
    return found


def as_scikit_learn_says(spoken, features, examples):
    """Whether vectors speak as one of the ridges does, sharpened to what fits best the examples
    that it has not seen."""
    logs = leaning(spoken)
    gaps = []
    for said, left_out in by_hand(features, examples):
        sharpness = (said * logs).sum() / (said * said).sum()
        gaps.append((np.abs(logs - sharpness * said).max(), sharpness, left_out))
    gap, sharpness, left_out = min(gaps, key=lambda found: found[0])
    truth = np.array([list(SAID).index(e.content) for e in examples])

    def miss(by):
        return -log_softmax(by * left_out, axis=1)[np.arange(len(truth)), truth].sum()

    assert gap < 1e-4
    assert sorted(found[0] for found in gaps)[1] > 1e-2  # one of the strengths, and no other
    assert miss(sharpness) < min(miss(sharpness * 1.02), miss(sharpness / 1.02))


@pytest.mark.parametrize("layers", [(3,), (1, 4), (4, 0, 2)], ids=str)
def test_all_vectors_of_an_example_are_read_as_one_ridge_says(layers):
    examples = planted(layers, noise=2.5)
    reader, features = made(examples), units_of(examples).reshape(len(examples), -1)
    as_scikit_learn_says(spoken_by(reader, examples), features, examples)


def test_layers_that_differ_between_examples_share_keys():
    examples = planted(lambda number: (number % DEPTH, (number + 1) % DEPTH), noise=2.5)
    reader = made(examples)
    assert (reader.keys == reader.keys[0]).all()
    units, layers = units_of(examples), np.array([e.layers for e in examples])
    for layer in range(DEPTH):
        units[layers == layer] -= units[layers == layer].mean(axis=0)
    as_scikit_learn_says(spoken_by(reader, examples), units.mean(axis=1), examples)


def test_held_out_outcomes_are_read():
    examples = planted((1, 4), count=400)
    known, asked = examples[:300], examples[300:]
    read = read_by(made(known), asked).mean(axis=1)
    words = np.stack([*SAID.values()])
    nearest = np.linalg.norm(read[:, None] - words, axis=-1).argmin(axis=1)
    assert (nearest == [list(SAID).index(e.content) for e in asked]).mean() > 0.75


def test_shares_are_read_where_they_are_known():
    """An answer that was as near as another is as much of what is read."""
    examples = planted((2,))
    torn = [
        dataclasses.replace(e, likely=tuple((word(True, name), 1 / 3) for name in SAID))
        for e in examples
    ]
    with pytest.raises(SelfxError, match="all the same"):
        made(torn)
    sure = [dataclasses.replace(e, likely=((e.answer, 1.0),)) for e in examples]
    np.testing.assert_array_equal(made(sure).keys, made(examples).keys)
    near = [
        dataclasses.replace(e, likely=((e.answer, 0.6), (word(True, "The dog"), 0.4)))
        for e in examples
    ]
    others = [n for n, e in enumerate(examples) if e.content != "The dog"]
    of_it = {
        name: softmax(spoken_by(made(some), some), axis=1)[others, [*SAID].index("The dog")].mean()
        for name, some in {"near": near, "sure": sure}.items()
    }
    assert of_it["sure"] < 0.15
    assert 0.3 < of_it["near"] < 0.7


def test_the_commonest_outcomes_are_told_apart(monkeypatch):
    monkeypatch.setattr(probed, "MOST", 2)
    examples = [e for e in planted((2,)) if e.content != "The cow" or e.id < "2"]
    reader = made(examples)
    np.testing.assert_allclose(reader.words, np.stack([SAID["The cat"], SAID["The dog"]]), 1e-5)


def test_nothing_to_read_is_refused():
    with pytest.raises(SelfxError, match="no vectors"):
        made([dataclasses.replace(e, vectors=None, layers=()) for e in planted((2,), count=4)])
    with pytest.raises(SelfxError, match="all the same"):
        made([dataclasses.replace(e, answer="x <<<The cat>>>") for e in planted((2,), count=4)])


def test_too_many_outcomes_are_refused_and_a_few_more_left_out(monkeypatch):
    monkeypatch.setattr(probed, "MOST", 3)
    examples = planted((2,), count=40)
    rare = [dataclasses.replace(e, answer=word(True, f"The {e.id}")) for e in examples[:8]]
    of_rare = Words(lambda text: IDS.get(text, [0, 5]), TABLE)
    shape = {"layers": DEPTH, "width": WIDTH}
    some, all_told = probing(rare + examples[8:], of_rare, **shape), made(examples[8:])
    np.testing.assert_array_equal(some.keys, all_told.keys)
    more = [dataclasses.replace(e, answer=word(True, f"The {e.id}")) for e in examples[:32]]
    with pytest.raises(SelfxError, match="35 different outcomes; 3 of them are those of 8 of 40"):
        probing(more + examples[32:], of_rare, **shape)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"centred": True}, "centred"),
        ({"injection": "embedding"}, "injection embedding"),
        ({"strength": 0.0}, "strength 0"),
        ({"blind": True}, "blind"),
        ({"trains": ("lora", "projection")}, "trains projection"),
    ],
)
def test_what_it_does_not_go_with_is_refused(settings, named):
    with pytest.raises(SelfxError, match=f"probed with {named}"):
        dataclasses.replace(SHORT, **settings).check()
    with pytest.raises(SelfxError, match="probed 1"):
        dataclasses.replace(SHORT, probed=1).check()


@pytest.mark.parametrize("content", ["Paris", "a\nb", "<x>", "Answer: B"])
def test_the_content_of_an_answer(content):
    assert content_of(word(True, content)) == content_of(word(False, content)) == content
    assert content_of(content) == content


SHORT = Training(
    style="plain",
    rank=2,
    reader_rank=3,
    batch_size=8,
    epochs=1,
    held_out=0.25,
    injection="marker",
    strength=1.0,
    probed=0.5,
)


@pytest.fixture(scope="module")
def data(planted_trace, tmp_path_factory):
    return planted_trace(tmp_path_factory.mktemp("data") / "trace", train=32, test=4)


@pytest.mark.usefixtures("short_questions")
@pytest.mark.parametrize("parts", [("lora",), ("lora", "low_rank"), ("lora", "scale", "bias")])
def test_a_run_starts_with_it_in_the_explainers_words(tiny_lm, data, parts):
    """And learns from nothing that the probe was fitted to, which is none of what is held out to
    watch by."""
    mixture = read_mixture([data], (), tiny_lm.config)
    job = prepare(tiny_lm, mixture, dataclasses.replace(SHORT, trains=parts))
    trained, given = job.trained.reader, job.frozen.reader
    own = {"lora": (), "low_rank": ("down", "up"), "scale": ("scale",), "bias": ("bias",)}
    assert set(trained.given if trained else ()) == {name for part in parts for name in own[part]}
    whole = trained.over(given) if trained is not None else given
    others, watched = divide(mixture.examples, SHORT.held_out, SHORT.seed)
    learned, fitted = divide(others, SHORT.probed, SHORT.seed, most=len(others))
    assert watched
    assert {e.group for e in learned}.isdisjoint(e.group for e in fitted)
    assert 0.4 < len(fitted) / len(others) < 0.6
    assert job.plan.steps_per_epoch == -(-len(learned) // SHORT.batch_size)
    table = np.asarray(tiny_lm.model.embed[...], np.float32)
    table = table / np.linalg.norm(table, axis=1).mean()
    words = Words(lambda t: tiny_lm.tokenizer(t, add_special_tokens=False)["input_ids"], table)
    shape = {"layers": tiny_lm.config.n_layers, "width": tiny_lm.config.d_model}
    probe = probing(fitted, words, **shape)
    for name, part in probe.given.items():
        np.testing.assert_array_equal(getattr(whole, name), part)


@pytest.mark.usefixtures("short_questions")
def test_what_was_begun_goes_on_and_is_not_begun_again(tiny_lm, data, tmp_path):
    training = dataclasses.replace(SHORT, trains=("lora", "low_rank"))
    fit(tiny_lm, [data], tmp_path / "run", training)
    before = Run(tmp_path / "run").load_result().reader
    later = dataclasses.replace(training, start=str(tmp_path / "run"))
    job = prepare(tiny_lm, read_mixture([data], (), tiny_lm.config), later)
    np.testing.assert_array_equal(job.trained.reader.down, before.down)
    np.testing.assert_array_equal(job.frozen.reader.keys, before.keys)
