"""Models that learned a vector for each position end where the last was learned."""

import jax
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.models.decoder import forward
from selfx.models.generate import generate
from selfx.testing import tiny_config, tiny_model


@pytest.fixture(scope="module")
def short():
    config = tiny_config(ropes=(None,), learned_positions=True, max_positions=6, n_layers=2)
    return tiny_model(config)


def test_a_text_past_the_last_position_is_refused(short):
    tokens = np.arange(10, 17)[None]
    with pytest.raises(SelfxError, match="a text of 7 tokens") as caught:
        forward(short, tokens)
    assert "at most 6" in str(caught.value)
    with pytest.raises(SelfxError, match="a text of 7 tokens"):
        generate(short, tokens[:, :4], max_new_tokens=4)


def test_padding_does_not_count(short):
    tokens, mask = np.arange(10, 17)[None], np.array([[False, *[True] * 6]])
    out = forward(short, tokens, mask=mask)
    alone = forward(short, tokens[:, 1:])
    np.testing.assert_allclose(out.logits[:, 1:], alone.logits, rtol=1e-4, atol=1e-5)
    assert generate(short, tokens[:, :4], max_new_tokens=3).tokens.shape == (1, 3)


def test_where_nothing_can_be_known_it_is_loud(short):
    """Under jit the mask has no contents: a row that is too long is NaN, no other is."""
    tokens = np.stack([np.arange(10, 17)] * 2)
    mask = np.array([[True] * 7, [True] * 5 + [False] * 2])
    logits = jax.jit(lambda m, t, k: forward(m, t, mask=k).logits)(short, tokens, mask)
    assert np.isnan(logits[0]).all()
    assert np.isfinite(logits[1]).all()
