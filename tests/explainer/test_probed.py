"""A reader that begins as a probe writes what scikit-learn's ridge would say."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from selfx.errors import SelfxError
from selfx.explainer.fit import fit
from selfx.explainer.job import prepare
from selfx.explainer.mixture import read_mixture
from selfx.explainer.probed import Words, probing
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


def planted(layers, count=160, seed=0):
    """Each vector holds a little of its outcome, in a direction of its own layer, and much else."""
    rng = np.random.default_rng(seed)
    ways = rng.standard_normal((DEPTH, len(SAID), WIDTH))
    shared = 3 * rng.standard_normal((DEPTH, WIDTH))
    found = []
    for number in range(count):
        which = int(rng.integers(len(SAID)))
        own = layers(number) if callable(layers) else layers
        noise = rng.standard_normal((len(own), WIDTH))
        vectors = [shared[layer] + ways[layer, which] + noise[i] for i, layer in enumerate(own)]
        found.append(example(number, list(SAID)[which], vectors, own))
    return found


def units_of(examples):
    vectors = np.stack([e.vectors for e in examples]).astype(float)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def read_by(reader, examples):
    """Float `[n, m, d]`."""
    layers = np.array([e.layers for e in examples])
    return np.asarray(reader(units_of(examples).astype(np.float32), layers))


def made(examples, rank=4):
    return probing(examples, WORDS, rank=rank, layers=DEPTH, width=WIDTH)


def by_hand(features, truth):
    """Ridge predictions of every strength, as far from the mean as the truth is: `[s, n, d]`."""
    mean = truth.mean(axis=0)
    features = features - features.mean(axis=0)
    features = features / features.std(axis=0)
    found = []
    for strength in STRENGTHS:
        said = Ridge(strength).fit(features, truth).predict(features) - mean
        gain = np.linalg.norm(truth - mean, axis=1).mean() / np.linalg.norm(said, axis=1).mean()
        found.append(mean + gain * said)
    return np.stack(found)


@pytest.mark.parametrize("layers", [(3,), (1, 4), (4, 0, 2)], ids=str)
def test_each_of_its_vectors_is_read_as_the_ridge_of_its_layer_says(layers):
    examples = planted(layers)
    read, units = read_by(made(examples), examples), units_of(examples)
    truth = np.stack([SAID[e.content] for e in examples])
    for place in range(len(layers)):
        gaps = np.abs(read[:, place] - by_hand(units[:, place], truth)).max(axis=(1, 2))
        assert gaps.min() < 1e-4  # one of the strengths
        assert np.sort(gaps)[1] > 1e-3


def test_layers_that_differ_between_examples_share_a_map():
    examples = planted(lambda number: (number % DEPTH,))
    reader = made(examples)
    assert (reader.down == reader.down[0]).all()
    units, layers = units_of(examples)[:, 0], np.array([e.layers[0] for e in examples])
    for layer in range(DEPTH):
        units[layers == layer] -= units[layers == layer].mean(axis=0)
    theirs = by_hand(units, np.stack([SAID[e.content] for e in examples]))
    gaps = np.abs(read_by(reader, examples)[:, 0] - theirs).max(axis=(1, 2))
    assert gaps.min() < 1e-4


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
    np.testing.assert_array_equal(made(sure).down, made(examples).down)


def test_a_rank_with_no_room_for_all_takes_the_main_directions():
    reader = made(planted((2,)), rank=1)
    assert (reader.down.shape, reader.up.shape) == ((DEPTH, WIDTH, 1), (DEPTH, 1, WIDTH))
    assert not np.asarray(made(planted((2,)), rank=4).down)[..., 2:].any()  # three words, a plane


def test_nothing_to_read_is_refused():
    with pytest.raises(SelfxError, match="no vectors"):
        made([dataclasses.replace(e, vectors=None, layers=()) for e in planted((2,), count=4)])
    with pytest.raises(SelfxError, match="all the same"):
        made([dataclasses.replace(e, answer="x <<<The cat>>>") for e in planted((2,), count=4)])


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"centred": True}, "centred"), ({"injection": "embedding"}, "injection embedding")],
)
def test_what_it_does_not_go_with_is_refused(settings, named):
    with pytest.raises(SelfxError, match=f"probed with {named}"):
        Training(probed=True, **settings).check()


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
    probed=True,
)


@pytest.fixture(scope="module")
def data(planted_trace, tmp_path_factory):
    return planted_trace(tmp_path_factory.mktemp("data") / "trace", train=32, test=4)


@pytest.mark.usefixtures("short_questions")
@pytest.mark.parametrize("parts", [("lora",), ("lora", "low_rank"), ("lora", "scale", "bias")])
def test_a_run_starts_with_it_in_the_explainers_words(tiny_lm, data, parts):
    """And what is held out to watch by is none of what it has learned from."""
    mixture = read_mixture([data], (), tiny_lm.config)
    job = prepare(tiny_lm, mixture, dataclasses.replace(SHORT, trains=parts))
    trained, given = job.trained.reader, job.frozen.reader
    own = {"lora": (), "low_rank": ("down", "up"), "scale": ("scale",), "bias": ("bias",)}
    assert set(trained.given if trained else ()) == {name for part in parts for name in own[part]}
    whole = trained.over(given) if trained is not None else given
    others, watched = divide(mixture.examples, SHORT.held_out, SHORT.seed)
    assert watched
    table = np.asarray(tiny_lm.model.embed[...], np.float32)
    table = table / np.linalg.norm(table, axis=1).mean()
    words = Words(lambda t: tiny_lm.tokenizer(t, add_special_tokens=False)["input_ids"], table)
    shape = {"rank": 3, "layers": tiny_lm.config.n_layers, "width": tiny_lm.config.d_model}
    probe = probing(others, words, **shape)
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
    np.testing.assert_array_equal(job.frozen.reader.bias, before.bias)
