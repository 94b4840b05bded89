"""Traps of the layouts that say little in their files, and what a reader must refuse."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from selfx.errors import SelfxError
from selfx.features.dictionaries.load import load_sae
from selfx.features.dictionaries.sae import encode, reconstruct
from selfx.features.dictionaries.unpickle import read_state

GOLDEN = Path(__file__).parent / "golden"
X = np.random.default_rng(0).standard_normal((7, 12)).astype(np.float32)


def copied(case, to):
    return Path(shutil.copytree(GOLDEN / case, to / case))


def npz_of(folder):
    path = next(folder.rglob("params.npz"))
    with np.load(path) as stored:
        return path, {name: stored[name] for name in stored.files}


# Gemma Scope


def test_gemma_scope_keys_may_be_in_lower_case(tmp_path):
    folder = copied("gemma_scope_res", tmp_path)
    path, parts = npz_of(folder)
    renamed = {name.replace("W_", "w_"): part for name, part in parts.items()}
    np.savez(path, **renamed)
    plain = load_sae(GOLDEN / "gemma_scope_res")
    np.testing.assert_array_equal(encode(load_sae(folder), X), encode(plain, X))


def test_gemma_scope_takes_nothing_off_its_input():
    _, parts = npz_of(GOLDEN / "gemma_scope_res")
    pre = X @ parts["W_enc"] + parts["b_enc"]
    on = np.asarray(encode(load_sae(GOLDEN / "gemma_scope_res"), X)) > 0
    assert (on == ((pre > parts["threshold"]) & (pre > 0))).all()


def test_gemma_scope_of_embeddings_is_fed_scaled_ones(tmp_path):
    """Trained on the embedding table; the model multiplies it by sqrt(d) before the first layer."""
    path, parts = npz_of(copied("gemma_scope_res", tmp_path))
    folder = tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k" / "average_l0_44"
    folder.mkdir(parents=True)
    shutil.copy(path, folder)
    sae = load_sae(folder)
    assert (sae.site, sae.origin.l0) == ("embeddings", 44)
    pre = X @ parts["W_enc"] + parts["b_enc"]
    f = np.where(pre > parts["threshold"], np.maximum(pre, 0), 0)
    y = f @ parts["W_dec"] + parts["b_dec"]
    root = np.sqrt(12)
    np.testing.assert_allclose(reconstruct(sae, X * root), y * root, rtol=1e-4, atol=1e-4)


def test_gemma_scope_2_skip_is_stored_from_input_to_output():
    """`x @ affine_skip_connection`, where others store `W_skip [d_out, d]`."""
    parts = load_file(next((GOLDEN / "gemma_scope_2_transcoder").rglob("*.safetensors")))
    sae = load_sae(GOLDEN / "gemma_scope_2_transcoder")
    np.testing.assert_array_equal(sae.skip, parts["affine_skip_connection"])


@pytest.mark.parametrize(
    ("folder", "site"),
    [("attn_out", "z"), ("mlp_out", "mlp_out_post"), ("resid_post_all", "resid_post")],
)
def test_gemma_scope_2_folders_mean_other_places_than_they_sound(tmp_path, folder, site):
    inside = tmp_path / "gemma-scope-2-1b-it" / folder / "layer_3_width_16k_l0_big"
    inside.mkdir(parents=True)
    weights = next((GOLDEN / "gemma_scope_2_resid").rglob("*.safetensors"))
    shutil.copy(weights, inside / "params.safetensors")
    sae = load_sae(tmp_path / "gemma-scope-2-1b-it")
    assert (sae.site, sae.layer, sae.origin.model) == (site, 3, "google/gemma-3-1b-it")


def test_gemma_scope_without_its_names_asks_where_it_reads(tmp_path):
    shutil.copy(npz_of(GOLDEN / "gemma_scope_res")[0], tmp_path / "params.npz")
    with pytest.raises(SelfxError, match="do not say where it reads"):
        load_sae(tmp_path)
    sae = load_sae(tmp_path, site="resid_post", layer=20)
    assert (sae.site, sae.layer) == ("resid_post", 20)


def test_cross_layer_transcoders_are_refused(tmp_path):
    folder = copied("gemma_scope_2_transcoder", tmp_path)
    path = next(folder.rglob("*.safetensors"))
    parts = load_file(path)
    save_file({**parts, "w_dec": np.stack([parts["w_dec"]] * 2, axis=1)}, path)
    with pytest.raises(SelfxError, match="writes to several layers"):
        load_sae(folder)


# sparsify


def test_sparsify_transcoders_take_nothing_off_and_saes_do():
    parts = load_file(GOLDEN / "sparsify_skip" / "layers.5.mlp" / "sae.safetensors")
    sae = load_sae(GOLDEN / "sparsify_skip")
    length = np.linalg.norm(parts["W_dec"], axis=1)
    np.testing.assert_allclose(sae.b_enc / length, parts["encoder.bias"], rtol=1e-5)
    assert any("b_dec" in fold for fold in load_sae(GOLDEN / "sparsify_topk").folds)


def test_sparsify_width_is_that_of_the_arrays():
    """`num_latents` is 0 in the config where the expansion factor decides."""
    config = json.loads((GOLDEN / "sparsify_topk" / "layers.5" / "cfg.json").read_text())
    assert config["num_latents"] == 0
    assert load_sae(GOLDEN / "sparsify_topk").w_enc.shape == (12, 24)


def test_sparsify_of_either_sign_is_refused(tmp_path):
    folder = copied("sparsify_topk", tmp_path)
    path = folder / "layers.5" / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "signed": True}))
    with pytest.raises(SelfxError, match="either sign"):
        load_sae(folder)


# dictionary_learning


@pytest.mark.parametrize(
    ("name", "taken_off"),
    [
        ("AutoEncoder", True),
        ("AutoEncoderNew", False),
        ("GatedAutoEncoder", True),
        ("JumpReluAutoEncoder", False),
        ("BatchTopKSAE", True),
    ],
)
def test_dictionary_learning_classes_differ_in_what_they_take_off(name, taken_off):
    folds = load_sae(GOLDEN / f"dictionary_learning_{name}").folds
    assert any("taken off the input" in fold for fold in folds) == taken_off


def rewritten(path, **changes):
    """A copy of a `.pt` file in place, one number of it changed: storages are raw bytes."""
    state = read_state(path)
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    for name, value in changes.items():
        old = np.asarray(state[name]).tobytes()
        [key] = [key for key, data in parts.items() if data == old and "/data/" in key]
        parts[key] = np.asarray(value, state[name].dtype).tobytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for key, data in parts.items():
            archive.writestr(key, data)


def test_dictionary_learning_threshold_never_learned_means_topk(tmp_path):
    folder = copied("dictionary_learning_BatchTopKSAE", tmp_path)
    rewritten(folder / "ae.pt", threshold=-1.0)
    sae = load_sae(folder)
    assert (sae.rule, sae.k) == ("topk", 5)
    assert any("never learned" in fold for fold in sae.folds)
    assert ((np.asarray(encode(sae, X)) > 0).sum(axis=1) <= 5).all()


def test_dictionary_learning_classes_saved_alike_need_their_config(tmp_path):
    folder = copied("dictionary_learning_AutoEncoderTopK", tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(SelfxError, match="AutoEncoderTopK or a BatchTopKSAE"):
        load_sae(folder, site="resid_post", layer=8)


@pytest.mark.parametrize("name", ["AutoEncoder", "GatedAutoEncoder", "MatryoshkaBatchTopKSAE"])
def test_dictionary_learning_classes_saved_apart_are_told_by_their_tensors(tmp_path, name):
    folder = copied(f"dictionary_learning_{name}", tmp_path)
    (folder / "config.json").unlink()
    plain = load_sae(GOLDEN / f"dictionary_learning_{name}")
    found = load_sae(folder, site="resid_post", layer=8)
    np.testing.assert_array_equal(encode(found, X), encode(plain, X))


# Qwen-Scope and Goodfire


def test_qwen_scope_matrices_lie_the_other_way_round(tmp_path):
    state = read_state(next((GOLDEN / "qwen_scope").rglob("*.pt")))
    assert state["W_enc"].shape == (24, 12)
    assert load_sae(GOLDEN / "qwen_scope").w_enc.shape == (12, 24)


def test_qwen_scope_k_is_in_the_repositorys_name_alone(tmp_path):
    shutil.copy(next((GOLDEN / "qwen_scope").rglob("*.pt")), tmp_path)
    with pytest.raises(SelfxError, match="in the name of its repository"):
        load_sae(tmp_path)
    assert load_sae(tmp_path, k=5).k == 5


def test_goodfire_under_another_name_asks_where_it_reads(tmp_path):
    shutil.copy(next((GOLDEN / "goodfire").glob("*.pth")), tmp_path / "sae.pth")
    with pytest.raises(SelfxError, match="do not say where it reads"):
        load_sae(tmp_path)


# Circuit-tracer


@pytest.mark.parametrize(
    ("extra", "rule", "k"),
    [({"k": np.asarray(3)}, "topk", 3), ({"activation_function.threshold": 0.4}, "jumprelu", 0)],
)
def test_circuit_tracer_rule_is_in_its_tensors(tmp_path, extra, rule, k):
    folder = copied("circuit_tracer", tmp_path)
    path = folder / "layer_4.safetensors"
    extra = {name: np.asarray(part) for name, part in extra.items()}
    save_file({**load_file(path), **extra}, path)
    sae = load_sae(folder)
    assert (sae.rule, sae.k) == (rule, k)
