"""Every edit at every site, a different one in every row, against the NumPy oracle's hook.

One program holds an edit at every site; which of them act, where and how is data. So each kind
compiles once for all sites, as it would for a user.
"""

import jax
import numpy as np
import pytest

from selfx.interventions.build import ablate, inject, patch, steer
from selfx.interventions.edits import EVERY, Affine, Edits
from selfx.models.decoder import forward
from selfx.models.sites import SITES

LENGTH = 7
NOWHERE = 999
LAYERS = np.array([[0, 2], [3, -1], [1, 2]])
"""Which layers each row is edited in: two, one, two."""
POSITIONS = np.array([4, 0, LENGTH - 1])
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(21).integers(6, 262, (3, LENGTH))


@pytest.fixture(scope="module")
def run(tiny):
    return jax.jit(
        lambda tokens, edits: forward(tiny, tokens, edits=edits, capture=("resid_post",))
    )


@pytest.fixture(scope="module")
def features(tiny):
    """A function: a site's feature shape, the source axis as long as the text."""

    def shape(site):
        sizes = zip(SITES[site].axes, SITES[site].feature_shape(tiny.config), strict=True)
        return tuple(LENGTH if axis == "s" else size for axis, size in sizes)

    return shape


def where(site, layers=LAYERS, positions=POSITIONS):
    return {"layers": layers if SITES[site].layered else None, "positions": positions}


def only(edits, site):
    """The same edits with all but one site's addressed to a position that no row has."""
    return Edits(
        {
            name: tuple(
                edit if name == site else edit.replace(positions=0 * edit.positions + NOWHERE)
                for edit in several
            )
            for name, several in edits.items()
        }
    )


def everywhere(make):
    """`make(site)` at every site, in one."""
    return Edits({name: several for site in SITES for name, several in make(site).items()})


def rows_hook(site, index, change, layers=LAYERS, positions=POSITIONS):
    """The oracle's hook for one row: `change(x at the position, layer)` where the edit acts."""

    def hook(name, layer, x):
        acts = name == site and (not SITES[site].layered or layer in layers[index])
        if not acts:
            return x
        x = x.copy()
        x[positions[index]] = change(x[positions[index]], layer)
        return x

    return hook


def check(run, tiny, tokens, numpy_llama, edits, hook_of_row, what=""):
    """Logits and residuals of every row as the oracle has them; True if the edit mattered."""
    out = run(tokens, edits)
    mattered = []
    for index, row in enumerate(tokens):
        want = numpy_llama.run(tiny, row, hook_of_row(index))
        plain = numpy_llama.run(tiny, row)
        for name, got, expected in (
            ("logits", out.logits[index], want.logits),
            ("resid_post", out.captures["resid_post"][:, index], want.sites["resid_post"]),
        ):
            worst = np.abs(np.asarray(got) - expected).max() / np.abs(expected).max()
            assert worst <= TOLERANCE, f"{what} {name} of row {index}: off by {worst:.1e}"
        gap = np.abs(plain.logits - want.logits).max() / np.abs(plain.logits).max()
        mattered.append(gap > 20 * TOLERANCE)
    return mattered


def test_patch_a_row_each(run, tiny, tokens, features, numpy_llama):
    values = {
        site: np.random.default_rng(1).standard_normal((3, *features(site))) for site in SITES
    }
    edits = everywhere(lambda site: patch(site, values[site], **where(site)))
    for site in SITES:

        def hook(index, site=site):
            return rows_hook(site, index, lambda x, layer: np.float32(values[site][index]))

        mattered = check(run, tiny, tokens, numpy_llama, only(edits, site), hook, site)
        # A first token sees nothing but itself, whatever its queries, keys and scores.
        assert mattered[0], site
        assert mattered[2], site


def test_steer_a_row_each(run, tiny, tokens, features, numpy_llama):
    strengths = np.array([2.0, -1.5, 0.5])
    vectors = {
        site: np.random.default_rng(2).standard_normal((3, *features(site))) for site in SITES
    }
    edits = everywhere(lambda site: steer(site, vectors[site], strength=strengths, **where(site)))
    for site in SITES:

        def hook(index, site=site):
            added = strengths[index] * vectors[site][index]
            return rows_hook(site, index, lambda x, layer: x + added)

        mattered = check(run, tiny, tokens, numpy_llama, only(edits, site), hook, site)
        assert mattered[0], site


@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_ablate_with_one_value_for_all(run, tiny, tokens, features, numpy_llama, kind):
    rng = np.random.default_rng(3)
    value = {
        site: None if kind == "zero" else rng.standard_normal(features(site)) for site in SITES
    }
    edits = everywhere(lambda site: ablate(site, kind=kind, value=value[site], **where(site)))
    for site in SITES:

        def hook(index, site=site):
            put = 0.0 if kind == "zero" else value[site]
            return rows_hook(site, index, lambda x, layer: put)

        check(run, tiny, tokens, numpy_llama, only(edits, site), hook, site)


def test_resample_from_another_text_a_layer_each(run, tiny, tokens, numpy_llama):
    """The source run's captures go in as they came out: the layer axis behind the batch axis."""
    sources = tokens[::-1].copy()
    seen = forward(tiny, sources, capture=tuple(SITES)).captures
    taken = {}
    for site, about in SITES.items():
        x = np.asarray(seen[site])
        taken[site] = x[:, :, 3].swapaxes(0, 1) if about.layered else x[:, 3]
    edits = everywhere(lambda site: ablate(site, kind="resample", value=taken[site], **where(site)))
    for site, about in SITES.items():

        def hook(index, site=site, layered=about.layered):
            value = taken[site][index]
            return rows_hook(site, index, lambda x, layer: value[layer] if layered else value)

        check(run, tiny, tokens, numpy_llama, only(edits, site), hook, site)


def test_every_layer_and_every_position(run, tiny, tokens, numpy_llama):
    """Without addresses an edit acts everywhere."""
    vector = np.random.default_rng(4).standard_normal(32)

    def hook(index):
        return lambda site, layer, x: x + vector if site == "mlp_out" else x

    check(run, tiny, tokens, numpy_llama, steer("mlp_out", vector), hook)


def test_some_heads_and_some_neurons(run, tiny, tokens, numpy_llama):
    """The same ones in every row, then other ones in each."""
    rng = np.random.default_rng(5)
    heads, neurons = np.array([True, False, False, True]), rng.random(64) < 0.3
    for many in (False, True):
        if many:
            heads, neurons = rng.random((3, 4)) < 0.5, rng.random((3, 64)) < 0.5
        edits = patch("z", 0.7, part=heads[..., None], positions=POSITIONS, layers=1) | steer(
            "mlp_act", np.ones(64), part=neurons, layers=[0, 3]
        )

        def hook(index, heads=heads, neurons=neurons, many=many):
            head, neuron = (heads[index], neurons[index]) if many else (heads, neurons)

            def change(site, layer, x):
                x = x.copy()
                if site == "z" and layer == 1:
                    x[POSITIONS[index], head] = 0.7
                if site == "mlp_act" and layer in (0, 3):
                    x[:, neuron] += 1
                return x

            return change

        assert all(check(run, tiny, tokens, numpy_llama, edits, hook))


def test_edits_compose_in_order(run, tiny, tokens, numpy_llama):
    """`a | b` is a, then b: a patch forgets what came before it, a steer adds to it."""
    value, vector = np.random.default_rng(6).standard_normal((2, 32))
    put = patch("resid_post", value, layers=2, positions=3)
    add = steer("resid_post", vector, layers=2)
    results = []
    for edits, change in (
        (put | add, lambda x: value + vector),
        (add | put, lambda x: value),
        (add | add, lambda x: x + 2 * vector),
        (put | add | put | add | add, lambda x: value + 2 * vector),
    ):
        assert isinstance(edits, Edits)

        def hook(index, change=change, edits=edits):
            def at_three(site, layer, x):
                if (site, layer) != ("resid_post", 2):
                    return x
                steers = sum(bool((edit.keep == 1).all()) for edit in edits["resid_post"])
                changed = x + steers * vector
                changed[3] = change(x[3])
                return changed

            return at_three

        assert all(check(run, tiny, tokens, numpy_llama, edits, hook))
        results.append(np.asarray(run(tokens, edits).logits))
    assert np.abs(results[0] - results[1]).max() > 0.01


def test_slots_of_one_edit_compose_in_order(run, tokens):
    """Two slots at one address are two edits one after the other, not a sum."""
    values = np.random.default_rng(7).standard_normal((2, 32)).astype(np.float32)
    apart = patch("resid_mid", values[0], layers=1, positions=2) | steer(
        "resid_mid", values[1], layers=1, positions=2
    )
    together = Affine(
        layers=np.full((1, 2, 1), 1, np.int32),
        positions=np.full((1, 2), 2, np.int32),
        part=np.ones((1, 2, 1), bool),
        keep=np.array([[0, 1]], np.float32),
        value=values[None, :, None],
    )
    got = run(tokens, Edits({"resid_mid": (together,)})).logits
    np.testing.assert_array_equal(got, run(tokens, apart).logits)


def test_sites_compose_too(run, tiny, tokens, numpy_llama):
    value = np.random.default_rng(8).standard_normal(32)
    edits = ablate("attn_out", layers=0) | patch("resid_mid", value, layers=3, positions=1)
    edits = edits | inject(np.tile(value, (3, 1)), positions=[0, 2, -1])

    def hook(index):
        def change(site, layer, x):
            x = x.copy()
            if site == "attn_out" and layer == 0:
                x[:] = 0
            if site == "resid_mid" and layer == 3:
                x[1] = value
            if site == "embeddings" and index < 2:  # the third row has no placeholder
                x[(0, 2)[index]] = value
            return x

        return change

    assert all(check(run, tiny, tokens, numpy_llama, edits, hook))


def test_injection_into_a_layer(run, tiny, tokens, numpy_llama):
    vectors = np.random.default_rng(9).standard_normal((3, 32)) * 5

    def hook(index):
        return rows_hook(
            "resid_pre", index, lambda x, layer: vectors[index], np.full((3, 1), 2), POSITIONS
        )

    edits = inject(vectors, positions=POSITIONS, layer=2)
    assert all(check(run, tiny, tokens, numpy_llama, edits, hook))


def test_an_ablation_forgets_what_is_infinite(run, tokens):
    """0 * inf is not a number; an edit that keeps nothing of x must not ask."""
    clean = run(tokens, ablate("mlp_out", layers=1, positions=2)).logits
    for worst in (np.inf, -np.inf, np.nan):
        broken = patch("mlp_out", worst, layers=1, positions=2)
        assert not np.isfinite(run(tokens, broken).logits).all()
        healed = run(tokens, broken | ablate("mlp_out", layers=1, positions=2)).logits
        np.testing.assert_array_equal(healed, clean)


def test_what_is_not_addressed_passes_through(run, tokens):
    """Bit for bit: other rows, other layers, earlier positions, and padding addresses of -1."""
    plain = run(tokens, steer("resid_post", np.zeros(32), layers=0, positions=NOWHERE))
    layers, positions = np.array([[1, -1], [-1, -1], [2, 3]]), np.array([4, 4, 2])
    out = run(tokens, steer("resid_post", np.ones(32), layers=layers, positions=positions))
    before, after = (np.asarray(x.captures["resid_post"]) for x in (plain, out))
    np.testing.assert_array_equal(after[:, 1], before[:, 1])
    np.testing.assert_array_equal(after[:1, 0], before[:1, 0])
    np.testing.assert_array_equal(after[:, 0, :4], before[:, 0, :4])
    np.testing.assert_array_equal(after[:2, 2], before[:2, 2])
    assert (after[1, 0, 4] != before[1, 0, 4]).any()
    assert (after[2, 2, 2] != before[2, 2, 2]).any()


def test_every_is_not_a_position_or_layer_that_padding_could_be():
    assert EVERY not in (-1, 0)
    edit = patch("resid_post", 0)["resid_post"][0]
    assert edit.positions.tolist() == [[EVERY]]
    assert edit.layers.tolist() == [[[EVERY]]]
