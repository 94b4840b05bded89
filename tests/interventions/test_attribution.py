"""Estimates against gradients and exact effects of the float64 model."""

import jax
import numpy as np
import pytest
import scipy.stats

from selfx.errors import SelfxError
from selfx.interventions.attribution import attribute
from selfx.interventions.attribution_check import rank_correlation
from selfx.interventions.metric import logit_difference
from selfx.interventions.sweep import sweep
from selfx.models.sites import SITES

LENGTH = 6
ANSWER, OTHER = np.array([20, 30]), np.array([40, 50])
METRIC = logit_difference(ANSWER, OTHER)
STEP = 1e-5


@pytest.fixture(scope="module")
def texts():
    return np.random.default_rng(1).integers(6, 262, (2, 2, LENGTH))


@pytest.fixture(scope="module")
def found(tiny, texts):
    """All sites from one backward pass."""
    return attribute(tiny, texts[0], METRIC, source=texts[1], sites=tuple(SITES))


def judged(run, row):
    return run.logits[-1][ANSWER[row]] - run.logits[-1][OTHER[row]]


def test_it_is_the_slope_towards_the_source_at_every_site(tiny, texts, found, numpy_llama):
    """By differences of the float64 model: a small share of the way to the source, in one cell."""
    rng = np.random.default_rng(2)
    for site, about in SITES.items():
        split = about.axes[0] in "hkf"
        assert found.effects[site].shape[:3] == (2, 4 if about.layered else 1, LENGTH), site
        assert found.effects[site].ndim == 3 + split
        row = int(rng.integers(2))
        source = numpy_llama.run(tiny, texts[1, row]).sites[site]
        for position in (LENGTH - 1, 2):
            layer = int(rng.integers(4)) if about.layered else 0
            unit = int(rng.integers(about.feature_shape(tiny.config)[0])) if split else ...

            def moved(share, site=site, row=row, position=position, layer=layer, unit=unit,
                      source=source, about=about):  # fmt: skip
                def hook(name, at, x):
                    if (name, at) != (site, layer):
                        return x
                    x = x.copy()
                    new = source[layer] if about.layered else source
                    gap = new[position][unit] - x[position][unit]
                    x[position, unit] += share * np.where(np.isfinite(gap), gap, 0)
                    return x

                return judged(numpy_llama.run(tiny, texts[0, row], hook), row)

            want = (moved(STEP) - moved(-STEP)) / (2 * STEP)
            cell = (row, layer, position, unit) if split else (row, layer, position)
            scale = max(np.abs(found.effects[site][row]).max(), 1e-3)
            assert abs(found.effects[site][cell] - want) <= 1e-4 * scale, site


def test_base_and_source_are_judged_as_the_oracle_does(tiny, texts, found, numpy_llama):
    for row in range(2):
        for got, text in ((found.base, texts[0, row]), (found.source, texts[1, row])):
            want = judged(numpy_llama.run(tiny, text), row)
            assert abs(got[row] - want) <= 5e-5 * max(abs(want), 1)


def test_exact_where_the_rest_of_the_model_is_linear(tiny, texts, found):
    """From the final norm on; and the attention's output is linear in its heads, apart."""
    for site in ("final_norm", "logits"):
        grid = sweep(tiny, texts[0], METRIC, source=texts[1], site=site)
        np.testing.assert_allclose(found.effects[site], grid.effect, atol=2e-5)
        np.testing.assert_allclose(found.effects[site][:, 0, -1], found.source - found.base,
                                   atol=2e-5)  # fmt: skip
    heads = found.effects["z"].sum(axis=-1)
    np.testing.assert_allclose(heads, found.effects["attn_out"], atol=2e-5)
    neurons = found.effects["mlp_act"].sum(axis=-1)
    np.testing.assert_allclose(neurons, found.effects["mlp_out"], atol=2e-5)


def near(model, share):
    """The model with the embedding of token 200 brought close to that of token 100."""

    def change(path, leaf):
        if not jax.tree_util.keystr(path).startswith(".embed"):
            return leaf
        return leaf.at[200].set(leaf[100] + share * (leaf[200] - leaf[100]))

    return jax.tree_util.tree_map_with_path(change, model)


def test_the_nearer_the_source_the_better_the_estimate(tiny, texts):
    """To first order: the error falls with the square of the distance."""
    base, source = texts[0].copy(), texts[0].copy()
    base[:, 2], source[:, 2] = 100, 200
    errors, sizes = [], []
    for share in (0.4, 0.2, 0.1):
        model = near(tiny, share)
        exact = sweep(model, base, METRIC, source=source, reuse=False).effect
        guess = attribute(model, base, METRIC, source=source).effects["resid_post"]
        errors.append(np.abs(exact - guess)[:, :, 2:].max())
        sizes.append(np.abs(exact).max())
    assert sizes[0] > 1.5 * sizes[1] > 2 * sizes[2]
    assert errors[1] < 0.3 * errors[0], errors
    assert errors[2] < 0.3 * errors[1], errors


def test_integrated_gradients_add_up_to_the_whole_effect(tiny, texts, found):
    """Over the positions of the embeddings, the more steps the nearer (completeness)."""
    whole = np.asarray(found.source - found.base)
    gaps = []
    for steps in (4, 64):
        got = attribute(
            tiny, texts[0], METRIC, source=texts[1], sites=["embeddings"], steps=steps
        ).effects["embeddings"]
        gaps.append(np.abs(np.asarray(got).sum(axis=(1, 2)) - whole).max())
    assert gaps[1] < 0.1 * gaps[0]
    assert gaps[1] < 0.05 * np.abs(whole).max()


def test_steps_average_gradients_along_the_embeddings(tiny, texts, numpy_llama):
    """Two steps: the base's own gradient and that half of the way to the source."""
    got = attribute(tiny, texts[0], METRIC, source=texts[1], sites="mlp_out", steps=2)
    ends = [numpy_llama.run(tiny, text[0]).sites for text in texts]
    gap = ends[1]["mlp_out"][1, 3] - ends[0]["mlp_out"][1, 3]

    def moved(share, step):
        def hook(site, layer, x):
            if site == "embeddings":
                return x + share * (ends[1]["embeddings"] - ends[0]["embeddings"])
            if (site, layer) == ("mlp_out", 1):
                x = x.copy()
                x[3] += step * gap
            return x

        return judged(numpy_llama.run(tiny, texts[0, 0], hook), 0)

    want = np.mean([(moved(s, STEP) - moved(s, -STEP)) / (2 * STEP) for s in (0, 0.5)])
    scale = np.abs(got.effects["mlp_out"][0]).max()
    assert abs(got.effects["mlp_out"][0, 1, 3] - want) <= 1e-4 * scale


def test_padding_moves_nothing_and_other_lengths_meet_where_they_can(tiny, texts):
    sites = ("resid_mid", "z", "embeddings")
    sources = texts[1][:, : LENGTH - 2]
    want = attribute(tiny, texts[0], METRIC, source=sources, sites=sites)
    tokens, mask = np.full((2, LENGTH + 3), 7), np.zeros((2, LENGTH + 3), bool)
    mask[0, [1, 2, 4, 5, 7, 8]] = mask[1, :LENGTH] = True
    tokens[mask] = texts[0].ravel()
    source = np.concatenate([np.full((2, 1), 9), sources], axis=1)
    source_mask = np.arange(LENGTH - 1)[None].repeat(2, 0) >= 1
    got = attribute(
        tiny, tokens, METRIC, source=source, sites=sites, mask=mask, source_mask=source_mask
    )
    for site in sites:
        np.testing.assert_allclose(got.effects[site][:, :, :LENGTH], want.effects[site], atol=2e-5)
        assert not np.any(got.effects[site][:, :, LENGTH:])
        assert not np.any(want.effects[site][:, :, LENGTH - 2 :])
        assert np.any(want.effects[site])


def test_some_cells_are_run_and_compared(tiny, texts):
    """The cells that the seed chose, against the grids of `sweep` and SciPy's correlation."""
    sites = ("resid_post", "z")
    settings = {"source": texts[1], "sites": sites, "check": 20}
    check = attribute(tiny, texts[0], METRIC, **settings, seed=3).check
    assert len(set(check.cells)) == 20
    grids = {
        site: sweep(tiny, texts[0], METRIC, source=texts[1], site=site, split=site == "z").effect
        for site in sites
    }
    for (site, layer, position, unit), exact in zip(check.cells, check.exact, strict=True):
        cell = (layer, position, unit) if site == "z" else (layer, position)
        assert (unit == -1) == (site != "z")
        np.testing.assert_allclose(exact, grids[site][(slice(None), *cell)], atol=2e-5)
    want = scipy.stats.spearmanr(check.exact.ravel(), check.estimate.ravel()).statistic
    assert check.rank_correlation == pytest.approx(want, abs=1e-6)
    assert check.worst_error == np.abs(check.exact - check.estimate).max()
    again = attribute(tiny, texts[0], METRIC, **settings, seed=3).check
    assert again.cells == check.cells
    assert attribute(tiny, texts[0], METRIC, **settings, seed=4).check.cells != check.cells


def test_ranks_with_ties_are_as_in_scipy():
    rng = np.random.default_rng(5)
    for _ in range(5):
        one, other = rng.integers(0, 6, (2, 40)).astype(float)
        want = scipy.stats.spearmanr(one, other).statistic
        assert rank_correlation(one, other) == pytest.approx(want, abs=1e-12)
    assert np.isnan(rank_correlation(np.ones(3), np.arange(3.0)))
    assert np.isnan(rank_correlation(np.ones(1), np.ones(1)))


def test_under_jit_and_vmap_over_answers(tiny, texts, found):
    """One program for any texts and answers."""

    @jax.jit
    def effects(model, tokens, source, answers, others):
        def one(answer, other):
            metric = logit_difference(answer, other)
            return attribute(model, tokens, metric, source=source, sites=["mlp_out"]).effects

        return jax.vmap(one)(answers, others)["mlp_out"]

    answers, others = np.stack([OTHER, ANSWER]), np.stack([ANSWER, OTHER])
    got = effects(tiny, *texts, answers, others)
    np.testing.assert_allclose(got[1], found.effects["mlp_out"], atol=2e-5)
    np.testing.assert_allclose(got[0], -got[1], atol=2e-5)
    effects(tiny, texts[1], texts[0], others, answers)
    assert effects._cache_size() == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sites": ["resid_pots"]}, ["did you mean"]),
        ({"sites": []}, ["sites=()"]),
        ({"steps": 0}, ["steps=0"]),
        ({"source": np.ones((3, LENGTH), int)}, ["3 source rows for 2"]),
        ({"source_mask": np.ones((2, 3), bool)}, ["[2, 3]"]),
        ({"metric": lambda logits: logits}, ["[2]"]),
        ({"sites": ["attn_probs"], "source": np.ones((2, 4), int)}, ["'attn_probs'", "slots"]),
    ],
)
def test_what_does_not_fit_raises(tiny, texts, changes, words):
    settings = {"metric": METRIC, "source": texts[1]} | changes
    with pytest.raises(SelfxError) as caught:
        attribute(tiny, texts[0], settings.pop("metric"), **settings)
    for word in words:
        assert word in str(caught.value)
