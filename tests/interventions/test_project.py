"""Subspace edits against explicit float64 projections in the oracle's hook."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.interventions.build import patch
from selfx.interventions.project import interchange, orthonormal, project_out, within
from selfx.interventions.recorded import replay
from selfx.models.decoder import forward
from selfx.testing import tiny_config, tiny_model

LENGTH, LAYER, POSITION = 6, 2, 3
TOLERANCE = 5e-5
run = jax.jit(forward, static_argnames="capture")


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(1).integers(6, 262, (2, LENGTH))


def projector(basis):
    """The orthogonal projector on the span of the rows, by the pseudoinverse."""
    basis = np.atleast_2d(np.asarray(basis, np.float64))
    return np.linalg.pinv(basis) @ basis


def compare(got, want):
    assert np.abs(np.asarray(got) - want).max() <= TOLERANCE * np.abs(want).max()


def only_at(site, change, layers=(LAYER,)):
    def hook(name, layer, x):
        return change(x, layer) if name == site and layer in layers else x

    return hook


@pytest.mark.parametrize("count", [1, 3, 30])
def test_removing_a_subspace_leaves_the_mean_there(tiny, tokens, numpy_llama, count):
    """Skewed bases, one of nearly all directions."""
    rng = np.random.default_rng(count)
    basis, mean = 5 * rng.standard_normal((count, 32)), rng.standard_normal(32)
    basis[0] += 3  # far from orthogonal
    p = projector(basis)
    for left, value in ((0.0, 0.0), (mean, mean)):
        edits = project_out("resid_post", basis, mean=left, layers=[0, LAYER])
        hook = only_at("resid_post", lambda x, _, v=value: x - (x - v) @ p, (0, LAYER))
        got = run(tiny, tokens, edits=edits, capture=("resid_post",))
        for row in range(2):
            compare(got.logits[row], numpy_llama.run(tiny, tokens[row], hook).logits)
    inside = (np.asarray(got.captures["resid_post"][LAYER]) - mean) @ np.linalg.pinv(basis)
    assert np.abs(inside).max() < 1e-4, "nothing but the mean is left"


def test_one_vector_is_a_basis_and_repetitions_add_nothing(tiny, tokens):
    vector, other = np.random.default_rng(4).standard_normal((2, 32))
    one, again, same = (
        run(tiny, tokens, edits=project_out("resid_mid", basis, layers=1)).logits
        for basis in (vector, [vector], -7 * vector)
    )
    np.testing.assert_array_equal(one, again)
    np.testing.assert_allclose(same, one, atol=1e-5)
    two, more = (
        run(tiny, tokens, edits=project_out("resid_mid", basis, layers=1)).logits
        for basis in ([vector, other], [vector, other, vector - 2 * other])
    )
    np.testing.assert_allclose(more, two, atol=1e-5)
    assert np.abs(two - one).max() > 1e-3


def test_interchange_takes_the_subspace_from_another_run(tiny, tokens, numpy_llama):
    """A value for every row and layer; a row's own position; the rest untouched to the bit."""
    source = np.random.default_rng(5).integers(6, 262, tokens.shape)
    basis = np.random.default_rng(6).standard_normal((4, 32))
    seen = run(tiny, source, capture=("resid_post",)).captures["resid_post"]
    positions = np.array([POSITION, 1])
    value = np.stack([seen[:, row, positions[row]] for row in range(2)])
    edits = interchange("resid_post", basis, value, layers=[1, LAYER], positions=positions)
    got = run(tiny, tokens, edits=edits, capture=("resid_post",))
    p = projector(basis)
    for row in range(2):

        def change(x, layer, row=row):
            x = x.copy()
            x[positions[row]] += (value[row, layer] - x[positions[row]]) @ p
            return x

        want = numpy_llama.run(tiny, tokens[row], only_at("resid_post", change, (1, LAYER)))
        compare(got.logits[row], want.logits)
    plain = run(tiny, tokens, capture=("resid_post",)).captures["resid_post"]
    np.testing.assert_array_equal(got.captures["resid_post"][0], plain[0])
    np.testing.assert_array_equal(got.captures["resid_post"][1, 0, :3], plain[1, 0, :3])


def test_of_every_direction_it_is_the_patch_and_of_another_runs_positions_the_replay(tiny, tokens):
    source = np.random.default_rng(5).integers(6, 262, tokens.shape)
    seen = run(tiny, source, capture=("resid_mid",)).captures["resid_mid"]
    whole = np.random.default_rng(7).standard_normal((32, 32))
    for edits in (
        patch("resid_mid", seen[1, :, 2], layers=1, positions=2),
        replay("resid_mid", seen, layers=1),
    ):
        want = run(tiny, tokens, edits=edits).logits
        compare(run(tiny, tokens, edits=within(edits, whole)).logits, want)
        half = run(tiny, tokens, edits=within(edits, whole[:16])).logits
        assert np.abs(half - want).max() > 1e-3


def test_heads_with_one_basis_and_with_one_each(tiny, tokens, numpy_llama):
    rng = np.random.default_rng(8)
    shared, apart = rng.standard_normal((2, 8)), rng.standard_normal((4, 2, 8))
    heads = np.array([True, False, True, True])
    for basis in (shared, apart):
        p = np.stack([projector(basis if basis.ndim == 2 else basis[h]) for h in range(4)])
        p = p * heads[:, None, None]
        edits = project_out("z", basis, layers=LAYER, part=heads[:, None])
        hook = only_at("z", lambda x, _, p=p: x - np.einsum("the,hef->thf", x, p))
        got = run(tiny, tokens, edits=edits).logits
        compare(got[0], numpy_llama.run(tiny, tokens[0], hook).logits)


def test_gradients_reach_the_basis(tiny, tokens, numpy_llama):
    """Against differences of the float64 model: how a subspace is searched for (DAS)."""
    rng = np.random.default_rng(9)
    basis, direction = rng.standard_normal((2, 3, 32))
    value = rng.standard_normal(32)

    @jax.jit
    @jax.grad
    def gradient(basis, model):
        edits = interchange("resid_post", basis, value, layers=LAYER, positions=POSITION)
        return forward(model, tokens[:1], edits=edits).logits[0, -1, :50].sum()

    def truth(basis):
        def change(x, _):
            x = x.copy()
            x[POSITION] += (value - x[POSITION]) @ projector(basis)
            return x

        hook = only_at("resid_post", change)
        return numpy_llama.run(tiny, tokens[0], hook).logits[-1, :50].sum()

    found = np.asarray(gradient(jnp.asarray(basis, jnp.float32), tiny), np.float64)
    step = 1e-5
    want = (truth(basis + step * direction) - truth(basis - step * direction)) / (2 * step)
    scale = np.linalg.norm(found) * np.linalg.norm(direction)
    assert scale > 1e-2
    assert abs((found * direction).sum() - want) <= 1e-4 * scale


def test_vmap_over_bases_is_one_program(tiny, tokens):
    bases = np.random.default_rng(10).standard_normal((3, 2, 32)).astype(np.float32)

    @jax.jit
    @jax.vmap
    def logits(basis):
        edits = project_out("mlp_out", basis, layers=1)
        return forward(tiny, tokens, edits=edits).logits

    got = logits(bases)
    for one, basis in zip(got, bases, strict=True):
        compare(
            one, np.asarray(run(tiny, tokens, edits=project_out("mlp_out", basis, layers=1)).logits)
        )


def test_columns_are_orthonormal():
    rows = np.random.default_rng(11).standard_normal((5, 3, 8))
    columns = np.asarray(orthonormal(rows))
    gram = np.einsum("hnk,hnm->hkm", columns, columns)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(3), gram.shape), atol=1e-6)
    for one, row in zip(columns, rows, strict=True):
        np.testing.assert_allclose(one @ one.T, projector(row), atol=1e-5)


def test_in_bfloat16_it_stays_in_bfloat16(tokens):
    model = tiny_model(tiny_config(n_layers=2), dtype=jnp.bfloat16)
    basis = np.random.default_rng(12).standard_normal((2, 32))
    out = run(model, tokens, edits=project_out("resid_post", basis), capture=("resid_post",))
    seen = out.captures["resid_post"]
    assert seen.dtype == jnp.bfloat16
    left = np.asarray(seen, np.float32) @ np.asarray(orthonormal(basis))
    assert np.abs(left).max() <= 0.01 * np.abs(np.asarray(seen, np.float32)).max()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: project_out("resid_pots", np.ones(32)), ["did you mean"]),
        (lambda: project_out("resid_post", np.ones((0, 32))), ["[0, 32]", "at least one"]),
        (lambda: project_out("resid_post", np.ones((33, 32))), ["[33, 32]", "at most"]),
        (lambda: project_out("resid_post", 1.0), ["a basis of shape []"]),
        (lambda: project_out("resid_post", np.ones(8)), ["[8] at 'resid_post'", "d=32"]),
        (lambda: project_out("z", np.ones((3, 1, 8))), ["[3, 8] at 'z'"]),
        (lambda: project_out("attn_probs", np.ones(6)), ["source tokens"]),
        (lambda: project_out("resid_post", np.ones(32), layers=4), ["layer 4", "0 to 3"]),
        (lambda: interchange("resid_post", np.ones(32), np.ones((3, 32))), ["3 rows"]),
    ],
)
def test_what_does_not_fit_raises(tiny, tokens, make, words):
    with pytest.raises(SelfxError) as caught:
        forward(tiny, tokens, edits=make())
    for word in words:
        assert word in str(caught.value)
