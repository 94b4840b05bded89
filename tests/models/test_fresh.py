"""A model that has learned nothing says nothing, at any depth."""

import jax
import numpy as np

import selfx
from selfx.models.fresh import fresh_model
from selfx.models.parameters import parameter_path
from selfx.testing import tiny_config

CONFIG = tiny_config(n_layers=8, d_model=64, d_ff=128, d_head=16, tied=True)


def test_it_starts_at_chance_and_its_residual_does_not_grow():
    model = fresh_model(CONFIG, seed=1)
    tokens = np.random.default_rng(0).integers(6, 262, (2, 24))
    run = jax.jit(selfx.forward, static_argnames="capture")
    out = run(model, tokens, capture=("resid_post",))
    said = np.asarray(jax.nn.log_softmax(out.logits), np.float64)
    loss = -np.take_along_axis(said[:, :-1], tokens[:, 1:, None], axis=-1).mean()
    assert abs(loss - np.log(CONFIG.vocab_size)) < 0.1
    norms = np.linalg.norm(np.asarray(out.captures["resid_post"]), axis=-1).mean(axis=(1, 2))
    assert norms[-1] < 2 * norms[0]


def test_norms_start_at_one_and_what_writes_to_the_residual_is_smaller():
    leaves, _ = jax.tree_util.tree_flatten_with_path(fresh_model(CONFIG))
    spread = {parameter_path(path): np.asarray(leaf) for path, leaf in leaves}
    assert (spread["blocks.attn_norm.w"] == 1).all()
    assert abs(spread["blocks.q.w"].std() - 0.02) < 0.001
    assert abs(spread["blocks.down.w"].std() - 0.02 / 4) < 0.0005  # 16 writers in 8 layers
    assert not np.array_equal(fresh_model(CONFIG, 1).embed[...], fresh_model(CONFIG, 2).embed[...])
