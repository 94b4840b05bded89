"""Each convention on which loaders of dictionaries have gone wrong, as a test of its own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from selfx.errors import SelfxError
from selfx.features.dictionaries.formats.saelens import modern
from selfx.features.dictionaries.load import load_sae
from selfx.features.dictionaries.sae import encode, reconstruct

GOLDEN = Path(__file__).parent / "golden"
X = np.random.default_rng(0).standard_normal((7, 12)).astype(np.float32)


@pytest.fixture
def changed(tmp_path):
    """A copy of a golden case with some of its config, and of its tensors, replaced."""

    def change(case, config=None, file="cfg.json", drop=(), **tensors):
        folder = tmp_path / case
        shutil.copytree(GOLDEN / case, folder)
        path = next(folder.rglob(file))
        kept = {k: v for k, v in json.loads(path.read_text()).items() if k not in drop}
        path.write_text(json.dumps({**kept, **(config or {})}))
        if tensors:
            weights = next(folder.rglob("*.safetensors"))
            stored = load_file(weights)
            save_file({**stored, **tensors}, weights)
        return folder

    return change


def tensors(case):
    return load_file(next((GOLDEN / case).rglob("*.safetensors")))


# SAELens


def test_saelens_before_6_is_read_by_its_old_names():
    config = modern(
        {
            "hook_point": "blocks.1.hook_resid_pre",
            "hook_point_head_index": None,
            "activation_fn_str": "topk",
            "activation_fn_kwargs": {"k": 3},
        }
    )
    assert config["architecture"] == "topk"
    assert config["k"] == 3
    assert config["metadata"]["hook_name"] == "blocks.1.hook_resid_pre"
    assert config["metadata"]["prepend_bos"] is True


@pytest.mark.parametrize("value", [False, None, "none"])
def test_saelens_without_a_norm_may_be_spelt_three_ways(changed, value):
    plain = load_sae(GOLDEN / "saelens_old")
    other = load_sae(changed("saelens_old", {"normalize_activations": value}))
    np.testing.assert_array_equal(encode(other, X), encode(plain, X))


def test_saelens_takes_b_dec_off_unless_it_says_otherwise(changed):
    left = changed("saelens_standard", drop=("apply_b_dec_to_input",))
    np.testing.assert_array_equal(
        encode(load_sae(left), X), encode(load_sae(GOLDEN / "saelens_standard"), X)
    )


@pytest.mark.parametrize("value", ["expected_average_only_in", True])
def test_saelens_average_norm_without_its_factor_raises(changed, value):
    folder = changed("saelens_average", {"normalize_activations": value})
    with pytest.raises(SelfxError, match="do not say by what"):
        load_sae(folder)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.37}')
    np.testing.assert_array_equal(
        encode(load_sae(folder), X), encode(load_sae(GOLDEN / "saelens_average", scale=0.37), X)
    )


def test_saelens_average_norm_leaves_the_threshold_in_trained_units():
    """A latent is on where the sum over scaled activations exceeds the threshold as stored."""
    parts = tensors("saelens_average_jumprelu")
    pre = (X * 0.37 - parts["b_dec"]) @ parts["W_enc"] + parts["b_enc"]
    f = encode(load_sae(GOLDEN / "saelens_average_jumprelu", scale=0.37), X)
    assert ((np.asarray(f) > 0) == (pre > parts["threshold"])).all()


def test_saelens_topk_chooses_by_its_own_units_not_by_unit_rows():
    """With rows of any length, which latents are on is decided before those lengths count."""
    parts = tensors("saelens_topk")
    pre = (X - parts["b_dec"]) @ parts["W_enc"] + parts["b_enc"]
    sae = load_sae(GOLDEN / "saelens_topk")
    chosen = np.argsort(-pre, axis=1)[:, :5]
    wanted = np.zeros(pre.shape, bool)
    np.put_along_axis(wanted, chosen, True, axis=1)
    assert ((np.asarray(encode(sae, X)) > 0) == (wanted & (pre > 0))).all()
    by_length = np.argsort(-pre * np.linalg.norm(parts["W_dec"], axis=1), axis=1)[:, :5]
    assert any(set(a) != set(b) for a, b in zip(chosen, by_length, strict=True))
    assert sae.order is not None
    assert load_sae(GOLDEN / "saelens_topk_rescaled").order is None


def test_saelens_batchtopk_is_a_jumprelu_of_one_threshold():
    sae, parts = load_sae(GOLDEN / "saelens_batchtopk"), tensors("saelens_batchtopk")
    assert sae.rule == "jumprelu"
    assert len(set(parts["threshold"].tolist())) == 1


def test_saelens_factor_of_ones_is_nothing_and_others_scale_the_decoder(changed, tmp_path):
    ones = changed("saelens_old", scaling_factor=np.ones(24, np.float32))
    plain = load_sae(GOLDEN / "saelens_old")
    np.testing.assert_array_equal(encode(load_sae(ones), X), encode(plain, X))
    shutil.rmtree(ones)
    factor = np.linspace(0.5, 2, 24, dtype=np.float32)
    tuned = load_sae(changed("saelens_old", scaling_factor=factor))
    np.testing.assert_allclose(encode(tuned, X), encode(plain, X) * factor, rtol=1e-4, atol=1e-5)
    bias = plain.b_dec
    wanted = (np.asarray(encode(plain, X)) * factor) @ np.asarray(plain.w_dec) + bias
    np.testing.assert_allclose(reconstruct(tuned, X), wanted, atol=1e-4)


def test_saelens_of_a_model_with_centred_writing_weights_reads_raw_residuals(changed):
    """GPT-2's were trained on residuals less their mean, which the model as published has."""
    about = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    sae = load_sae(changed("saelens_old", about))
    plain = load_sae(GOLDEN / "saelens_old")
    centred = X - X.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(encode(sae, X), encode(plain, centred), atol=1e-5)
    np.testing.assert_allclose(reconstruct(sae, X), reconstruct(plain, centred), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "temporal"}, "'temporal' SAE"),
        ({"activation_fn": "tanh-relu"}, "tanh-relu activation"),
        ({"normalize_activations": "covariance_whitening"}, "covariance_whitening"),
    ],
)
def test_saelens_unknown_parts_raise(changed, changes, message):
    with pytest.raises(SelfxError, match=message):
        load_sae(changed("saelens_standard", changes))


def test_saelens_of_one_head_raises(changed):
    with pytest.raises(SelfxError, match="head 3 alone"):
        load_sae(changed("saelens_old", {"hook_point_head_index": 3}))


# Llama Scope


def test_llama_scope_scaled_as_saelens_does_is_the_same_up_to_units(changed, tmp_path):
    """SAELens: W_enc * s, threshold * s, decoder lengths left. The same where those are 1."""
    folder = changed("llama_scope_res", file="hyperparams.json")
    weights = next(folder.rglob("*.safetensors"))
    parts = {name: part.astype(np.float32) for name, part in load_file(weights).items()}
    parts["decoder.weight"] /= np.linalg.norm(parts["decoder.weight"], axis=0)
    save_file(parts, weights)
    s, threshold = np.sqrt(12) / 10.8125, 0.35546875
    pre = X @ (parts["encoder.weight"].T * s) + parts["encoder.bias"]
    f = np.where(pre > threshold * s, np.maximum(pre, 0), 0)
    np.testing.assert_allclose(encode(load_sae(folder), X) * s, f, atol=1e-5)


def test_llama_scope_distilled_needs_the_scale_that_its_files_lack(tmp_path):
    with pytest.raises(SelfxError, match="norm_scaling_factor"):
        load_sae(GOLDEN / "llama_scope_distill")
    folder = tmp_path / "llamascopium"
    shutil.copytree(GOLDEN / "llama_scope_distill", folder)
    weights = next(folder.rglob("*.safetensors"))
    length = np.float32(np.sqrt(12) / 0.61)
    key = "dataset_average_activation_norm.blocks.5.hook_resid_post"
    save_file({**load_file(weights), key: np.full((), length)}, weights)
    told = load_sae(GOLDEN / "llama_scope_distill", scale=0.61)
    np.testing.assert_allclose(encode(load_sae(folder), X), encode(told, X), rtol=1e-4, atol=1e-5)


def test_llamascopium_names_its_tensors_otherwise(changed):
    folder = changed("llama_scope_distill", file="config.json")
    weights = next(folder.rglob("*.safetensors"))
    old = load_file(weights)
    save_file(
        {
            "W_E": np.ascontiguousarray(old["encoder.weight"].T),
            "b_E": old["encoder.bias"],
            "W_D": np.ascontiguousarray(old["decoder.weight"].T),
            "b_D": old["decoder.bias"],
            "activation_function.log_jumprelu_threshold": old["log_jumprelu_threshold"],
        },
        weights,
    )
    told = load_sae(GOLDEN / "llama_scope_distill", scale=0.61)
    ours = load_sae(folder, scale=0.61)
    np.testing.assert_allclose(encode(ours, X), encode(told, X), rtol=1e-5, atol=1e-5)


def test_llama_scope_as_trained_is_topk_by_decoder_length(changed):
    folder = changed("llama_scope_res", {"act_fn": "topk", "top_k": 4}, file="hyperparams.json")
    sae = load_sae(folder)
    assert (sae.rule, sae.k, sae.order) == ("topk", 4, None)


@pytest.mark.parametrize("part", [{"use_glu_encoder": True}, {"norm_activation": "batch-wise"}])
def test_llama_scope_unknown_parts_raise(changed, part):
    with pytest.raises(SelfxError, match="norms its input"):
        load_sae(changed("llama_scope_res", part, file="hyperparams.json"))
