"""A real model against the NumPy float64 implementation."""

import jax
import numpy as np
import pytest

from selfx.interventions.build import patch
from selfx.models.decoder import forward
from selfx.models.generate import generate

pytestmark = pytest.mark.model
TOLERANCE = 5e-5
LENGTH = 24
TEXTS = (
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:",
    "<|im_start|>user\nName three colours.<|im_end|>\n<|im_start|>assistant\n",
)


@pytest.fixture(scope="module")
def weights(smollm2_float64):
    return smollm2_float64


@pytest.fixture(scope="module")
def run(smollm2):
    """A function: the model's output for one text, padded on the left to one length for all."""
    compiled = jax.jit(forward, static_argnames="capture")

    def run(tokens, edits=None):
        pads = LENGTH - len(tokens)
        mask = np.arange(LENGTH)[None] >= pads
        out = compiled(
            smollm2.model,
            np.pad(np.asarray([tokens]), ((0, 0), (pads, 0))),
            mask=mask,
            edits=edits,
            capture=("resid_pre", "resid_mid", "resid_post"),
        )
        captures = {site: np.asarray(x[:, 0, pads:]) for site, x in out.captures.items()}
        return np.asarray(out.logits[0, pads:]), captures

    return run


def assert_close(got, want, what):
    """Within the largest number of the layer, and position by position.

    The first token has a norm of tens of thousands in the middle layers: beside it, anything would
    look right in the others.
    """
    error, size = np.abs(np.asarray(got, np.float64) - want), np.abs(want)
    assert error.max() <= TOLERANCE * size.max(), what
    assert (error.max(axis=-1) <= TOLERANCE * size.max(axis=-1)).all(), what


@pytest.mark.parametrize("text", TEXTS)
def test_every_residual_and_the_logits(smollm2, numpy_llama, weights, run, text):
    tokens = smollm2.tokenizer.encode(text)
    want = numpy_llama.run(smollm2.model, tokens, w=weights)
    logits, captures = run(tokens)
    for site, got in captures.items():
        for layer in range(smollm2.config.n_layers):
            assert_close(got[layer], want.sites[site][layer], f"{site} of layer {layer}")
    assert_close(logits, want.logits, "logits")


def test_a_patched_run(smollm2, numpy_llama, weights, run):
    """Another text's residual put in at two layers and one position."""
    tokens, source = (smollm2.tokenizer.encode(f"The capital of {x} is") for x in ("Peru", "Iran"))
    assert len(tokens) == len(source)
    value = numpy_llama.run(smollm2.model, source, w=weights).sites["resid_post"][10, 3]

    def hook(site, layer, x):
        if site == "resid_post" and layer in (10, 14):
            x = x.copy()
            x[3] = value
        return x

    want = numpy_llama.run(smollm2.model, tokens, hook, weights)
    edits = patch("resid_post", value, layers=[10, 14], positions=3)
    logits, captures = run(tokens, edits)
    assert_close(logits, want.logits, "logits")
    assert_close(captures["resid_post"][-1], want.sites["resid_post"][-1], "resid_post")


@pytest.mark.slow
def test_greedy_continuation(smollm2, numpy_llama, weights):
    tokens = smollm2.tokenizer.encode(TEXTS[0])
    got = generate(smollm2.model, np.asarray([tokens]), max_new_tokens=8).tokens[0].tolist()
    assert got == numpy_llama.greedy(smollm2.model, tokens, 8, w=weights)
    assert "Paris" in smollm2.tokenizer.decode(got)
