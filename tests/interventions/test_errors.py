"""What cannot be meant raises, and the message says what was given and what was wanted."""

import jax
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.interventions.build import ablate, patch, steer
from selfx.interventions.edits import Edits
from selfx.models.decoder import forward

TOKENS = np.arange(10).reshape(2, 5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: patch("resid_pots", 0), ["'resid_pots'", "did you mean 'resid_post'"]),
        (lambda: steer("xyzzy", 0), ["'xyzzy'", "selfx.models.sites"]),
        (lambda: patch("resid_post", 0, positions=-1), ["position -1", "counted from 0"]),
        (lambda: patch("resid_post", 0, positions=[3, -2]), ["position -2", "real tokens"]),
        (lambda: patch("resid_post", 0, layers=-1), ["layer -1", "from 0"]),
        (lambda: patch("resid_post", 0, layers=[[1, -2]]), ["layer -2", "from 0"]),
        (lambda: patch("logits", 0, layers=2), ["outside the layers", "leave out layers="]),
        (lambda: patch("embeddings", 0, layers=[0]), ["outside the layers"]),
        (lambda: patch("resid_post", np.ones((1, 2, 3, 4))), ["[1, 2, 3, 4]", "axes [d]"]),
        (lambda: patch("z", np.ones(8)), ["shape [8] at 'z'", "axes [h, e]"]),
        (lambda: patch("z", 0, part=[True] * 4), ["shape [4] at 'z'", "[h, 1]"]),
        (lambda: patch("z", 0, part=np.ones((1, 1, 4, 1), bool)), ["[1, 1, 4, 1]"]),
        (lambda: ablate("z", kind="median"), ["'median'", "'resample'"]),
        (lambda: ablate("z", kind="mean"), ["mean ablation at 'z'", "value="]),
        (lambda: ablate("z", value=1.0), ["zero ablation at 'z'", "no value"]),
    ],
)
def test_when_made(make, words):
    with pytest.raises(SelfxError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        (patch("resid_post", 0, layers=4), ["layer 4 at site 'resid_post'", "0 to 3"]),
        (patch("z", 0, layers=range(3, 6)), ["layer 4", "0 to 3"]),
        (patch("resid_post", 0, positions=5), ["position 5", "0 to 4"]),
        (patch("resid_post", np.ones(16)), ["[16] at 'resid_post'", "[d=32]"]),
        (patch("key", np.ones((4, 8))), ["[4, 8] at 'key'", "[k=2, e=8]"]),
        (patch("z", 0, part=np.ones((3, 1), bool)), ["a part of shape [3, 1]", "[h=4, e=8]"]),
        (patch("resid_post", np.ones((3, 32))), ["3 rows", "1 row or 2"]),
        (patch("resid_post", 0, positions=[1, 2, 3]), ["3 rows", "1 row or 2"]),
        (patch("resid_post", 0, layers=[[0], [1], [2]]), ["3 rows", "1 row or 2"]),
        (steer("resid_post", 1.0, strength=[1, 2, 3]), ["3 rows", "1 row or 2"]),
        (patch("resid_post", np.ones((2, 3, 32))), ["values for 3 layers", "1 or 4"]),
        (patch("logits", np.ones((2, 4, 262))), ["values for 4 layers", "1 or 1"]),
        (patch("attn_probs", np.ones((4, 3))), ["3 source tokens", "1 or 5"]),
        (patch("attn_scores", 0, part=np.ones((1, 7), bool)), ["a part for 7", "1 or 5"]),
        ({"resid_psot": ()}, ["'resid_psot'", "did you mean 'resid_post'"]),
        ({"resid_post": patch("resid_post", 0)["resid_post"][0]}, ["Affine", "a tuple"]),
    ],
)
def test_when_met_with_a_model(tiny, edits, words):
    with pytest.raises(SelfxError) as caught:
        forward(tiny, TOKENS, edits=edits)
    for word in words:
        assert word in str(caught.value)


def test_what_can_be_meant_does_not_raise(tiny):
    """Edits that act nowhere or add nothing; a layer of -1 pads a list of layers."""
    harmless = (
        Edits(),
        {},
        patch("resid_post", np.ones((2, 4, 32)), layers=[[-1], [-1]]),
        patch("resid_post", 0, layers=[]),
        patch("z", 0, part=False),
        steer("key", np.ones((2, 8)), strength=0),
        steer("resid_post", 1.0, strength=[0, 0]),
    )
    together = Edits()
    for edits in harmless:
        together = together | edits
        jax.eval_shape(lambda edits=edits: forward(tiny, TOKENS, edits=edits))
    plain, edited = (forward(tiny, TOKENS, edits=edits).logits for edits in (None, together))
    np.testing.assert_array_equal(edited, plain)


def test_edits_are_a_mapping_that_says_what_it_holds():
    edits = patch("z", 0) | {"key": patch("key", 0)["key"]} | patch("z", 1)
    assert list(edits) == ["key", "z"]
    assert [len(edits[site]) for site in edits] == [1, 2]
    assert "Affine" in repr(edits)
    assert len(Edits()) == 0
