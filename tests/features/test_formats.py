"""Every layout's files, written by its own library, give that library's latents and output."""

from pathlib import Path

import jax
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.features.dictionaries.load import load_sae
from selfx.features.dictionaries.sae import decode, encode, reconstruct
from selfx.features.dictionaries.save import save_saelens

GOLDEN = Path(__file__).parent / "golden"
ASKED = {
    "saelens_average": {"scale": 0.37},
    "saelens_average_jumprelu": {"scale": 0.37},
    "llama_scope_distill": {"scale": 0.61},
}
"""What the files do not say, and the caller has to."""

BARE = ("gemma_scope_transcoder", "llama_scope_transcoder")
"""Trained on a norm's output before its weight: `load_sae` wants the model; see test_places.py."""

NOT_SAELENS = ("sparsify_groupmax", "sparsify_skip")
WHERE = {
    "circuit_tracer": ("mlp_in", 4, "mlp_out_post"),
    "dictionary_learning_AutoEncoder": ("resid_post", 8, None),
    "gemma_scope_att": ("z", 9, None),
    "gemma_scope_mlp": ("mlp_out_post", 5, None),
    "gemma_scope_res": ("resid_post", 20, None),
    "gemma_scope_2_resid": ("resid_post", 5, None),
    "gemma_scope_2_transcoder": ("mlp_in", 5, "mlp_out_post"),
    "goodfire": ("resid_post", 19, None),
    "llama_scope_res": ("resid_post", 15, None),
    "qwen_scope": ("resid_post", 7, None),
    "saelens_batchtopk": ("mlp_out_post", 1, None),
    "saelens_hook_z": ("z", 2, None),
    "saelens_old": ("resid_pre", 5, None),
    "saelens_transcoder": ("mlp_in", 3, "mlp_out_post"),
    "sparsify_loose": ("mlp_out", 5, None),
    "sparsify_skip": ("mlp_in", 5, "mlp_out"),
    "sparsify_topk": ("resid_post", 5, None),
}
SAID = {
    "circuit_tracer": {"model": "Qwen/Qwen3-4B"},
    "dictionary_learning_BatchTopKSAE": {"l0": 5, "context": 64, "model": "tiny"},
    "gemma_scope_att": {"l0": 50, "bos": True, "model": "google/gemma-2-9b-it"},
    "gemma_scope_res": {"l0": 71, "model": "google/gemma-2-2b"},
    "goodfire": {"model": "Llama-3.1-8B-Instruct"},
    "qwen_scope": {"l0": 5, "model": "Qwen/Qwen3-1.7B-Base"},
    "saelens_old": {"model": "gpt2-small", "bos": True, "context": 128},
    "saelens_topk": {"model": "tiny", "hook": "blocks.3.hook_resid_post", "context": 64},
    "sparsify_topk": {"model": "tiny", "l0": 4, "context": 64},
}


def golden(case):
    with np.load(GOLDEN / f"{case}.npz") as stored:
        return {name: stored[name] for name in stored.files}


def as_trained(case):
    """The dictionary for the input that it was trained on, whether a site has it or not."""
    told = {"site": "mlp_in", "layer": 2, "out_site": "mlp_out_post"} if case in BARE else {}
    return load_sae(GOLDEN / case, **ASKED.get(case, {}), **told)


CASES = sorted(path.stem for path in GOLDEN.glob("*.npz"))


def test_every_format_has_files():
    layouts = {as_trained(case).origin.layout for case in CASES}
    assert layouts == {
        "saelens",
        "sparsify",
        "gemma_scope",
        "llama_scope",
        "goodfire",
        "qwen_scope",
        "circuit_tracer",
        "dictionary_learning",
    }
    assert len(CASES) == 42


@pytest.mark.parametrize("case", CASES)
def test_latents_and_output_are_the_librarys_own(case):
    sae, wanted = as_trained(case), golden(case)
    f, y = encode(sae, wanted["x"]), reconstruct(sae, wanted["x"])
    latents = wanted["f"] * wanted["length"]
    assert ((np.asarray(f) > 0) == (latents > 0)).all()
    np.testing.assert_allclose(f, latents, atol=5e-5 * np.abs(latents).max())
    np.testing.assert_allclose(y, wanted["y"], atol=5e-5 * np.abs(wanted["y"]).max())
    np.testing.assert_allclose(np.linalg.norm(sae.w_dec, axis=1), 1, atol=1e-6)
    folded = any("made unit" in fold for fold in sae.folds)
    assert folded != ("batchtopk" in case), "rows are of any length but where SAELens folds them"
    assert case.startswith(sae.origin.layout)


@pytest.mark.parametrize("case", sorted(WHERE))
def test_each_reads_where_its_tool_did(case):
    sae = as_trained(case)
    assert (sae.site, sae.layer, sae.out_site) == WHERE[case]


@pytest.mark.parametrize("case", sorted(SAID))
def test_what_the_files_declare_is_kept(case):
    origin = as_trained(case).origin
    assert {name: getattr(origin, name) for name in SAID[case]} == SAID[case]


@pytest.mark.parametrize("case", [case for case in CASES if case not in NOT_SAELENS])
def test_saved_as_saelens_it_comes_back(case, tmp_path):
    """To the bit, but where SAELens holds the same numbers otherwise: a gate, a weighed choice."""
    sae = as_trained(case)
    save_saelens(sae, tmp_path)
    again = load_sae(tmp_path)
    other = sae.gate is not None or sae.order is not None
    assert jax.tree.structure(strip(sae)) == jax.tree.structure(strip(again))
    for ours, theirs in zip(jax.tree.leaves(sae), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-6 if other else 0)
    x = golden(case)["x"]
    np.testing.assert_allclose(encode(again, x), encode(sae, x), rtol=1e-5, atol=1e-5)
    for name in ("model", "bos", "context"):
        assert getattr(again.origin, name) == getattr(sae.origin, name)


def strip(sae):
    return sae.replace(origin=None, folds=())


@pytest.mark.parametrize("case", NOT_SAELENS)
def test_what_saelens_does_not_have_is_refused(case, tmp_path):
    with pytest.raises(SelfxError, match="one that SAELens has"):
        save_saelens(as_trained(case), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", ["saelens_layer_norm", "saelens_skip_transcoder"])
def test_decoding_that_needs_the_input_says_so(case):
    sae, x = as_trained(case), golden(case)["x"]
    f = encode(sae, x)
    np.testing.assert_allclose(decode(sae, f, x), reconstruct(sae, x))
    with pytest.raises(SelfxError, match="without the activation"):
        decode(sae, f)


def test_nothing_is_nan_for_an_activation_of_zeros():
    sae = as_trained("saelens_constant_norm")
    x = np.zeros((2, 12), np.float32)
    assert np.isfinite(encode(sae, x)).all()
    assert np.isfinite(reconstruct(sae, x)).all()
