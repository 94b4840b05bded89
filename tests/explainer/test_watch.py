"""Looking at held-out examples: what is kept back, what a look says, and what is done about it."""

import collections
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.checkpoint import checkpoints
from selfx.errors import SelfxError
from selfx.explainer import fit as fitting
from selfx.explainer.answer import answer, untrained
from selfx.explainer.fit import fit
from selfx.explainer.job import prepare
from selfx.explainer.lora import merge
from selfx.explainer.mixture import Mixture, read_mixture
from selfx.explainer.optimization import Optimization
from selfx.explainer.origin import Origin
from selfx.explainer.step import init_state, make_step
from selfx.explainer.training import Training
from selfx.explainer.watch import MOST, divide
from selfx.tasks.example import SLOT, Example

pytestmark = pytest.mark.usefixtures("short_questions")

SETTINGS = Training(
    style="plain",
    rank=4,
    batch_size=16,
    epochs=15,
    held_out=0.5,
    optimization=Optimization(3e-3),
    dropout=0.3,
)
ORIGIN = Origin(32, 4)


def job_of(lm, made, training=SETTINGS):
    return prepare(lm, Mixture((), (), tuple(made), (1.0,), (1.0,) * len(made), ORIGIN), training)


def asked(examples, *questions):
    return [dataclasses.replace(example, questions=questions) for example in examples]


def states(job, *at):
    """The state after each of those steps."""
    optimizer = job.training.optimization.build(job.total)
    step, state = make_step(optimizer, job.how), init_state(job.trained, optimizer)
    for index in range(max(at)):
        state, _ = step(state, job.frozen, job.plan.batch(index))
        if index + 1 in at:
            yield jax.tree.map(jnp.copy, state)


def test_a_look_is_what_asking_gives_example_by_example(tiny_lm, planted):
    """With vectors and with zeros, of an explainer that knows nothing, something, all."""
    made = asked(planted(96), f"{SLOT}?")
    made = [
        dataclasses.replace(e, questions=(e.questions[0] + "!" * (i % 5),))
        for i, e in enumerate(made)
    ]
    job = job_of(tiny_lm, made)
    watched = divide(made, 0.5, 0)[1]
    shares = []
    for state in states(job, 1, 26, 60):
        explainer = dataclasses.replace(
            untrained(tiny_lm, SETTINGS, ORIGIN), model=merge(tiny_lm.model, state.trained.lora)
        )
        look = job.watch.look(state.trained, job.frozen)
        for name, change in (("held_out", lambda v: v), ("zero", np.zeros_like)):
            vectors = change(np.stack([e.vectors for e in watched]))
            said = answer(explainer, watched, vectors, max_new_tokens=8)
            right = [text == e.answer for text, e in zip(said, watched, strict=True)]
            found = job.watch.forced(state.trained, job.frozen, change)
            assert found.right.tolist() == right
            assert look[f"{name}_exact"] == np.mean(right)
            np.testing.assert_allclose(
                look[f"{name}_loss"], found.loss.sum() / found.tokens.sum(), rtol=1e-6
            )
        assert look["lift"] == look["held_out_exact"] - look["zero_exact"]
        shares.append(look["held_out_exact"])
    assert shares[0] == 0
    assert 0.2 < shares[1] < 0.9 < shares[2]


def test_nothing_is_dropped_while_looking(tiny_lm, planted):
    made = asked(planted(32), f"{SLOT}?")
    job = job_of(tiny_lm, made)
    (state,) = states(job, 8)
    plain = job_of(tiny_lm, made, dataclasses.replace(SETTINGS, dropout=0.0))
    looks = [job.watch.look(state.trained, job.frozen) for _ in range(2)]
    assert looks[0] == looks[1] == plain.watch.look(state.trained, plain.frozen)


def test_what_the_text_tells_has_no_lift(tiny_lm, planted):
    """The vectors are there, and somebody else's."""
    made = [
        dataclasses.replace(e, questions=(f"{SLOT}{'rbgy'[i % 4]}?",))
        for i, e in enumerate(planted(128, shuffled=True))
    ]
    job = job_of(tiny_lm, made)
    (state,) = states(job, 60)
    look = job.watch.look(state.trained, job.frozen)
    assert look["held_out_exact"] > 0.9
    assert look["lift"] == pytest.approx(0, abs=0.05)
    assert look["loss_lift"] == pytest.approx(0, abs=0.05)


def test_where_no_question_has_a_vector_there_is_no_lift_to_tell(tiny_lm, planted):
    made = [
        dataclasses.replace(e, questions=("red?",), vectors=None, layers=()) for e in planted(16)
    ]
    job = job_of(tiny_lm, made)
    assert set(job.watch.look(job.trained, job.frozen)) == {"held_out_loss", "held_out_exact"}


def test_only_watched_rows_may_have_most_vectors(tiny_lm, planted):
    made = asked(planted(8), f"{SLOT}?")
    kept = {e.id for e in divide(made, 0.5, 0)[1]}
    made = [
        dataclasses.replace(e, vectors=np.repeat(e.vectors, 3, axis=0), layers=(1, 1, 1))
        if e.id in kept
        else e
        for e in made
    ]
    job = job_of(tiny_lm, made)
    assert np.isfinite(job.watch.look(job.trained, job.frozen)["held_out_loss"])


def grouped(sizes):
    names = [f"g{g}" for g, size in enumerate(sizes) for _ in range(size)]
    return [
        Example(f"e{i}", "t", "train", name, "c", "", ("q",), "a", True, "", None, {})
        for i, name in enumerate(names)
    ]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_whole_groups_are_kept_back_about_as_many_as_asked(share, seed):
    made = grouped(np.random.default_rng(seed).integers(1, 5, 40))
    learned, watched = divide(made, share, seed)
    assert {e.group for e in learned}.isdisjoint(e.group for e in watched)
    assert sorted(e.id for e in (*learned, *watched)) == sorted(e.id for e in made)
    assert round(share * len(made)) <= len(watched) < round(share * len(made)) + 4
    assert divide(made, share, seed) == (learned, watched)
    assert divide(made, share, seed + 100)[1] != watched


@pytest.mark.parametrize(
    ("sizes", "share"), [([12], 0.5), ([1] * 9, 0.05), ([3, 4], 0.0), ([2, 2], 0.01)]
)
def test_none_is_kept_back_where_that_would_be_all_or_less_than_one(sizes, share):
    made = grouped(sizes)
    assert divide(made, share, 0) == (made, [])


@pytest.mark.parametrize("seed", range(6))
def test_something_is_left_to_learn_from(seed):
    learned, watched = divide(grouped([10, 1]), 0.9, seed)
    assert learned
    assert watched


def test_no_more_are_looked_at_than_a_few_and_the_rest_of_their_group_is_not_learned():
    learned, watched = divide(grouped([50] * 20), 0.5, 0)
    assert len(watched) == MOST
    counts = collections.Counter(e.group for e in watched)
    assert len(counts) == 2
    assert not {e.group for e in learned} & set(counts)


@pytest.fixture(scope="module")
def data(planted_trace, tmp_path_factory):
    return planted_trace(tmp_path_factory.mktemp("data") / "trace", train=24, test=4)


LINES = {"save_every": 100, "log_every": 100}


def log(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_patience_ends_where_the_loss_rises_and_keeps_the_best(tiny_lm, data, tmp_path):
    """The result is, to the bit, that of a run which ended at the best look."""
    rash = Training(
        style="plain",
        rank=4,
        epochs=40,
        batch_size=16,
        held_out=0.34,
        evaluate_every=2,
        patience=3,
        optimization=Optimization(0.3, warmup=40),  # the rate soon rises past what it can take
    )
    fitted = fit(tiny_lm, [data], tmp_path / "run", rash, **LINES)
    looks = {line["step"]: line["held_out_loss"] for line in log(tmp_path / "run")}
    best = min(looks, key=looks.get)
    assert best >= 2
    assert fitted.steps == best + 6 < 40
    assert list(looks) == list(range(2, best + 7, 2))
    short = dataclasses.replace(rash, epochs=best, patience=0)
    fit(tiny_lm, [data], tmp_path / "short", short, **LINES)
    files = [tmp_path / run / "adapter" / "adapter_model.safetensors" for run in ("run", "short")]
    assert files[0].read_bytes() == files[1].read_bytes()
    long = dataclasses.replace(rash, patience=0, epochs=best + 6)
    fit(tiny_lm, [data], tmp_path / "long", long, **LINES)
    last = tmp_path / "long" / "adapter" / "adapter_model.safetensors"
    assert last.read_bytes() != files[0].read_bytes()
    losses = {line["step"]: line["held_out_loss"] for line in log(tmp_path / "long")}
    assert losses == looks


SMALL = Training(
    style="plain",
    rank=2,
    epochs=6,
    batch_size=8,
    held_out=0.34,
    evaluate_every=100,
    optimization=Optimization(1e-3),
)


def kept(run, job):
    """The state in the newest checkpoint."""
    with checkpoints(run / "checkpoints") as saved:
        return saved.restore(init_state(job.trained, job.training.optimization.build(job.total)))


def job_in(lm, folders, training):
    return prepare(lm, read_mixture(folders, (), lm.config), training)


@pytest.mark.parametrize("cause", ["rate", pytest.param("vector", marks=pytest.mark.slow)])
def test_a_loss_that_is_no_number_ends_the_run_with_the_last_good_state(
    tiny_lm, data, planted_trace, tmp_path, monkeypatch, cause
):
    training, folder = SMALL, data
    if cause == "rate":
        training = dataclasses.replace(SMALL, optimization=Optimization(1e30))
    else:
        real = fitting.read_mixture

        def spoilt(*given):
            mixture = real(*given)
            learned = divide(mixture.examples, training.held_out, training.seed)[0]
            vectors = learned[3].vectors.copy()
            vectors[0, 5] = np.inf
            bad = dataclasses.replace(learned[3], vectors=vectors)
            return dataclasses.replace(
                mixture,
                examples=tuple(bad if e is learned[3] else e for e in mixture.examples),
            )

        monkeypatch.setattr(fitting, "read_mixture", spoilt)
    run = tmp_path / "run"
    with pytest.raises(SelfxError, match=r"a loss of \S+ with a gradient of \S+ at step") as caught:
        fit(tiny_lm, [folder], run, training, save_every=100, log_every=100)
    monkeypatch.undo()
    job = job_in(tiny_lm, [folder], training)
    restored = kept(run, job)
    good = restored.step
    assert f"the state after step {good} is kept" in caught.value.hint
    assert f"at step {good + 1}" in caught.value.got
    ids = {row.id for row in job.plan.rows_of(good)}
    assert len(ids) == 8
    assert all(f"{id}," in caught.value.hint or f"{id};" in caught.value.hint for id in ids)
    if cause == "vector":
        bad = divide(read_mixture([folder], (), tiny_lm.config).examples, 0.34, 0)[0][3].id
        assert bad in ids
        assert not any(bad in {r.id for r in job.plan.rows_of(i)} for i in range(good))
    assert not (run / "adapter").exists()
    state, clean = restored.state, job_in(tiny_lm, [folder], training)
    assert bool(state.sound)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.trained))
    wanted = (
        next(states(clean, good))
        if good
        else init_state(clean.trained, training.optimization.build(clean.total))
    )
    jax.tree.map(np.testing.assert_array_equal, state, wanted)
