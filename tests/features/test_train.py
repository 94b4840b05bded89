import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.features.dictionaries.sae import Origin, encode, reconstruct
from selfx.features.training import grid as grid_module
from selfx.features.training.grid import make_step, measure
from selfx.features.training.objective import Objective
from selfx.features.training.optimise import first_state, moments, saes, summary
from selfx.features.training.packing import Packed
from selfx.features.training.settings import SaeTraining
from selfx.features.training.stream import stream_arrays
from selfx.features.training.train import train

D, N, K = 24, 40, 3


def planted(tokens, seed=0, shift=2.0):
    """Sums of three of forty directions, strengths 0.5 to 1.5, about a far point: `[tokens, d]`."""
    rows = np.random.default_rng(99).standard_normal((N, D))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    index = np.argsort(rng.random((tokens, N)), axis=1)[:, :K]
    strength = rng.uniform(0.5, 1.5, (tokens, K))
    f = np.zeros((tokens, N))
    np.put_along_axis(f, index, strength, axis=1)
    return (f @ rows + shift).astype(np.float32), rows, f


def settings(kind="topk", steps=350, **changes):
    objective = changes.pop("objective", Objective(kind, aux=16))
    basic = SaeTraining(
        widths=(N,),
        ks=(K,),
        rates=(1e-2,),
        objective=objective,
        tokens=256 * steps,
        batch_size=256,
        buffer=4096,
        dead_after=10_000,
        threshold=1.0,
    )
    return dataclasses.replace(basic, **changes)


def run(training, x, y=None):
    """The last state and the metrics of every step."""
    layers = [
        jnp.asarray(part[None] if part.ndim == 2 else part) for part in (x, y) if part is not None
    ]
    size, batch = training.buffer, training.batch_size
    batches = stream_arrays(*layers, size=size, batch=batch, seed=training.seed)
    seen = []
    for last in moments(batches, training):
        seen.append(last[1])
    return last[0].state, seen


def only(state, training):
    return next(iter(saes(state, training, Origin("selfx")).values()))


def fvu(sae, x, y=None):
    y = x if y is None else y
    left = np.square(y - np.asarray(reconstruct(sae, jnp.asarray(x)))).sum()
    return left / np.square(y - y.mean(axis=0)).sum()


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "matryoshka"])
def test_a_planted_dictionary_is_found(kind):
    """Each planted direction among the decoder rows, from raw activations, fresh data as well."""
    training = settings(kind, objective=Objective(kind, aux=16, prefixes=(0.5, 1.0)))
    x, rows, _ = planted(16_384)
    state, seen = run(training, x)
    sae = only(state, training)
    cosines = np.asarray(sae.w_dec) @ rows.T
    np.testing.assert_allclose(np.linalg.norm(sae.w_dec, axis=1), 1, rtol=1e-5)
    assert cosines.max(axis=0).mean() > 0.9
    fresh = planted(4096, seed=1)[0]
    last = summary(training, seen[-20:])[0]
    assert last["l0"] == pytest.approx(K, abs=0.01)
    assert fvu(sae, fresh) == pytest.approx(last["fvu"], abs=0.03)
    assert fvu(sae, fresh) < 0.25
    on = (np.asarray(encode(sae, jnp.asarray(fresh))) > 0).sum(axis=1)
    assert on.mean() == pytest.approx(K, rel=0.1)


@pytest.mark.parametrize("threshold", [0.3, 2.0])
def test_thresholds_learn_to_let_as_many_through_as_asked(threshold):
    """From far below and from above; the dictionary is found meanwhile."""
    training = settings("jumprelu", 500, threshold=threshold)
    x, rows, _ = planted(16_384)
    state, seen = run(training, x)
    first, last = summary(training, seen[:5])[0], summary(training, seen[-20:])[0]
    assert abs(first["l0"] - K) > 1
    assert last["l0"] == pytest.approx(K, rel=0.15)
    sae = only(state, training)
    on = (np.asarray(encode(sae, jnp.asarray(planted(2048, seed=1)[0]))) > 0).sum(axis=1)
    assert on.mean() == pytest.approx(last["l0"], rel=0.1)
    assert (np.asarray(sae.w_dec) @ rows.T).max(axis=0).mean() > 0.85


def test_a_transcoder_finds_a_planted_map():
    """Latents read one set of directions and write another, of another width and scale."""
    x, _, f = planted(16_384)
    written = np.random.default_rng(5).standard_normal((N, 30))
    written /= np.linalg.norm(written, axis=1, keepdims=True)
    y = (30 * f @ written - 7).astype(np.float32)
    training = settings("batchtopk", site="mlp_in", out_site="mlp_out")
    state, _ = run(training, x, y)
    sae = only(state, training)
    assert sae.target == "mlp_out"
    assert sae.w_dec.shape == (N, 30)
    assert (np.asarray(sae.w_dec) @ written.T).max(axis=0).mean() > 0.9
    fresh, _, f = planted(2048, seed=1)
    assert fvu(sae, fresh, 30 * f @ written - 7) < 0.25


def test_a_grid_is_what_each_of_its_dictionaries_is_alone():
    """Layers, widths, sizes, rates and seeds at once, against each by itself; 12 steps."""
    x = np.stack([planted(2048)[0], planted(2048, seed=3)[0] * 5])
    whole = settings(
        "topk", 12, layers=(4, 7), widths=(N, 56), ks=(2, 4), seeds=(0, 1), buffer=1024
    )
    state, seen = run(whole, x)
    together = saes(state, whole, Origin("selfx"))
    assert len(together) == len(summary(whole, seen)) == 16
    alone = dataclasses.replace(whole, ks=(2,), seeds=(1,), widths=(56,))
    single = saes(run(alone, x)[0], alone, Origin("selfx"))
    for layer in (4, 7):
        one, other = single[f"layer{layer}-n56-k2"], together[f"layer{layer}-n56-k2-seed1"]
        assert (one.k, one.layer) == (other.k, other.layer) == (2, layer)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, atol=5e-5 * np.abs(b).max())


def test_layers_start_differently_and_seeds_do():
    training = settings(layers=(0, 1), seeds=(0, 1), steps=1)
    batches = stream_arrays(jnp.zeros((2, 600, D)), size=1024, batch=256)
    x = jnp.ones((2, 5, D)) * jnp.arange(5.0)[:, None]
    dec = first_state(batches, training, measure(x, x)).grids[str(N)].weights.dec
    flat = np.asarray(dec).reshape(4, -1)
    assert len({row.tobytes() for row in flat}) == 4


@pytest.mark.parametrize("aux", [0, 20])
def test_dead_latents_come_back_through_the_auxiliary_loss_alone(aux, monkeypatch):
    """Half of the latents start too weak to be among the largest; nothing else reaches them."""
    traced = []
    spied = grid_module._slopes
    monkeypatch.setattr(grid_module, "_slopes", lambda *given: [traced.append(1), spied(*given)][1])
    training = settings("topk", 120, dead_after=2000, objective=Objective("topk", aux=aux))
    x = jnp.asarray(planted(8192)[0])[None]
    batches = stream_arrays(x, size=4096, batch=256)
    state = first_state(batches, training, measure(x, x))
    grid = state.grids[str(N)]
    weak = jnp.where(jnp.arange(N) < N // 2, 0.01, 1.0)[:, None]
    weights = dataclasses.replace(grid.weights, enc=grid.weights.enc * weak)
    state.grids[str(N)] = dataclasses.replace(grid, weights=weights)
    step = make_step(training.objective, K, training.dead_after, training.schedule())
    dead = []
    for _, (buffer, places) in zip(range(training.steps), batches.batches(), strict=False):
        state, metrics = step(state, training.members(), buffer, jnp.asarray(places))
        dead.append(float(metrics[str(N)]["dead"][0, 0]))
    assert max(dead) > 0.4
    assert dead[-1] < 0.1 if aux else dead[-1] > 0.4
    assert len(traced) == 1, "one program, whether latents are dead or not"


def test_with_all_of_the_batch_to_choose_from_tokens_differ_in_how_many_they_get():
    training = settings("batchtopk", 30)
    x = planted(4096)[0]
    x[::2] *= 0.2
    state, seen = run(training, x)
    assert summary(training, seen[-1:])[0]["l0"] == pytest.approx(K, abs=0.01)
    on = (np.asarray(encode(only(state, training), jnp.asarray(x))) > 0).sum(axis=1)
    assert on[1::2].mean() > on[::2].mean() + 1


@pytest.fixture(scope="module")
def text():
    rng = np.random.default_rng(0)
    tokens = rng.integers(6, 262, (60, 16)).astype(np.int32)
    mask = np.ones(tokens.shape, bool)
    return Packed(tokens, mask, mask & (np.arange(16) > 0))


SMALL = SaeTraining(
    layers=(1, 2),
    widths=(48,),
    ks=(4, 8),
    objective=Objective(aux=8),
    tokens=64 * 22,
    batch_size=64,
    buffer=256,
    rows=8,
    dead_after=200,
)


class Stop(Exception):
    pass


def stop_at(step):
    def report(done, total, note):
        if done >= step:
            raise Stop

    return report


def files(path):
    """Everything but the two folders that hold times."""
    timed = {"checkpoints", "tensorboard"}
    found = (p for p in sorted(path.rglob("*")) if p.is_file() and timed.isdisjoint(p.parts))
    return {str(p.relative_to(path)): p.read_bytes() for p in found}


def test_a_run_stopped_ends_in_the_same_files_to_the_bit(tiny_lm, text, tmp_path):
    """Also across the end of a pass, which has 14 steps."""
    every = {"save_every": 4, "log_every": 3}
    whole = train(tiny_lm, text, tmp_path / "whole", SMALL, **every)
    with pytest.raises(Stop):
        train(tiny_lm, text, tmp_path / "cut", SMALL, report=stop_at(17), **every)
    cut = train(tiny_lm, text, tmp_path / "cut", SMALL, **every)
    assert (whole.resumed_at, cut.resumed_at) == (0, 16)
    assert cut.rows == whole.rows
    left = files(tmp_path / "whole")
    assert files(tmp_path / "cut") == left
    names = [f"layer{layer}-n48-k{k}" for layer in (1, 2) for k in (4, 8)]
    assert [row["sae"] for row in whole.rows] == names
    assert {f"sae/{name}/sae_weights.safetensors" for name in names} <= set(left)
    lines = [json.loads(line) for line in left["metrics.jsonl"].splitlines()]
    assert [line["step"] for line in lines] == [3, 4, 6, 8, 9, 12, 15, 16, 18, 20, 21, 22]
    again = train(tiny_lm, text, tmp_path / "cut", SMALL, **every)
    assert again.resumed_at == 22
    assert files(tmp_path / "cut") == left
    _check_another_run_is_refused(tiny_lm, text, tmp_path)


def _check_another_run_is_refused(tiny_lm, text, tmp_path):
    other = dataclasses.replace(SMALL, seed=1)
    with pytest.raises(SelfxError, match="seed: 0 there, 1 now"):
        train(tiny_lm, text, tmp_path / "cut", other)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    with pytest.raises(SelfxError, match="holds files"):
        train(tiny_lm, text, tmp_path / "mine", SMALL)


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": ()},
        {"ks": (4, 4)},
        {"ks": (64,)},
        {"rates": (0.0,)},
        {"tokens": 10},
        {"warmup": 2.0},
        {"layers": (9,)},
        {"site": "resid_pst"},
        {"batch_size": 1000, "buffer": 5000, "tokens": 5000},
        {"buffer": 100},
        {"out_site": "mlp_out"},
        {"objective": Objective("gated")},
        {"objective": Objective(prefixes=(0.5,))},
        {"objective": Objective(bandwidth=0.0)},
    ],
)
def test_settings_that_no_run_can_have_are_refused_before_anything_is_written(
    tiny_lm, text, tmp_path, changes
):
    with pytest.raises(SelfxError):
        train(tiny_lm, text, tmp_path / "run", dataclasses.replace(SMALL, **changes))
    assert not (tmp_path / "run").exists()
