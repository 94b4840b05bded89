"""Finding a dictionary on disk or on a hub, telling its layout, and refusing what is broken."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import errors
from safetensors.numpy import load_file, save_file

from selfx.errors import SelfxError
from selfx.features.dictionaries import locate
from selfx.features.dictionaries.load import load_sae
from selfx.weights import hub

GOLDEN = Path(__file__).parent / "golden"


def copied(case, to):
    return Path(shutil.copytree(GOLDEN / case, to / case))


@pytest.fixture
def on_hub(monkeypatch, tmp_path):
    """Has the hub hold the files of a golden case under another name; tells what is fetched."""

    def serve(case, prefix="", listing=None):
        asked = []
        root = tmp_path / "hub"
        if case is not None:
            shutil.copytree(GOLDEN / case, root / prefix, dirs_exist_ok=True)
        names = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]

        def client(name, allow_patterns):
            asked.extend(allow_patterns)
            return str(root)

        def listed(name):
            if isinstance(listing, Exception):
                raise listing
            return sorted(names)

        monkeypatch.setattr(hub, "snapshot_download", client)
        monkeypatch.setattr(locate, "list_repo_files", listed)
        return asked

    return serve


def test_a_hub_id_fetches_one_dictionary_and_what_describes_it(on_hub):
    on_hub("saelens_topk", "layer_2")
    asked = on_hub("saelens_topk", "layer_1")
    sae = load_sae("org/repo", "layer_1")
    assert sorted(asked) == ["layer_1/cfg.json", "layer_1/sae_weights.safetensors"]
    assert sae.origin.path == "org/repo/layer_1/sae_weights.safetensors"


def test_a_hub_ids_name_tells_what_the_files_do_not(on_hub):
    asked = on_hub("qwen_scope/SAE-Res-Qwen3-1.7B-Base-W32K-L0_5")
    with pytest.raises(SelfxError, match="in the name of its repository"):
        load_sae("org/renamed")
    sae = load_sae("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_5")
    assert (sae.k, sae.layer, sae.origin.model) == (5, 7, "Qwen/Qwen3-1.7B-Base")
    assert set(asked) == {"layer7.sae.pt"}


def test_several_dictionaries_of_a_repository_are_named(on_hub):
    on_hub("saelens_topk", "layer_1")
    asked = on_hub("saelens_topk", "layer_2")
    with pytest.raises(SelfxError, match="2 dictionaries in org/repo") as raised:
        load_sae("org/repo")
    assert "layer_1/sae_weights.safetensors" in raised.value.hint
    with pytest.raises(SelfxError, match="no dictionary in org/repo at 'layer_3'") as raised:
        load_sae("org/repo", "layer_3")
    assert "layer_2" in raised.value.hint
    assert not asked


def test_a_hub_out_of_reach_serves_from_its_cache(on_hub):
    asked = on_hub("saelens_topk", "layer_1", listing=errors.OfflineModeIsEnabled("offline"))
    assert load_sae("org/repo", "layer_1").layer == 3
    assert asked == ["layer_1*"]


def test_a_hub_that_refuses_says_so(on_hub, monkeypatch):
    response = SimpleNamespace(headers={}, request=None)
    on_hub(None, listing=errors.GatedRepoError("403", response=response))

    def refuse(name, allow_patterns):
        raise errors.GatedRepoError("403", response=response)

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(SelfxError, match="is gated"):
        load_sae("org/repo", "layer_1")


def test_a_folder_of_several_is_chosen_from(tmp_path):
    for layer in (1, 2):
        shutil.copytree(GOLDEN / "saelens_topk", tmp_path / f"layer_{layer}")
    with pytest.raises(SelfxError, match="2 dictionaries"):
        load_sae(tmp_path)
    assert load_sae(tmp_path, "layer_2").origin.layout == "saelens"
    assert load_sae(tmp_path, "layer_2/sae_weights.safetensors").k == 5


def test_files_beside_the_weights_are_no_dictionaries(tmp_path):
    folder = copied("saelens_topk", tmp_path)
    shares = np.log10(np.full(24, 0.25, np.float32))
    save_file({"sparsity": shares}, folder / "sparsity.safetensors")
    save_file({"x": shares}, folder / "activations_store_state.safetensors")
    (folder / "trainer_state.pt").write_bytes(b"")
    assert load_sae(folder).origin.l0 == pytest.approx(6)


@pytest.mark.parametrize("name", ["", "nowhere", "/no/such/path", "a b/c"])
def test_a_name_of_nothing_raises(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SelfxError, match="no dictionary"):
        load_sae(name)


def test_an_unknown_layout_names_the_known_ones_and_what_is_there(tmp_path):
    save_file({"weight": np.zeros((3, 4), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(SelfxError, match="in no layout that is known") as raised:
        load_sae(tmp_path)
    assert "llama_scope" in raised.value.expected
    assert "weight [3, 4]" in raised.value.hint
    with pytest.raises(SelfxError, match="the layout 'sealens'"):
        load_sae(tmp_path, layout="sealens")


def test_the_caller_overrules_the_files():
    sae = load_sae(GOLDEN / "saelens_topk", site="resid_mid", layer=7, k=2)
    assert (sae.site, sae.layer, sae.k) == ("resid_mid", 7, 2)
    assert load_sae(GOLDEN / "saelens_topk", layer=7).site == "resid_post"
    with pytest.raises(SelfxError, match="unknown site"):
        load_sae(GOLDEN / "saelens_topk", site="resid", layer=7)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("W_dec", np.ones((24, 11), np.float32), r"w_dec \[24, 11\] beside an encoder \[12, 24\]"),
        ("W_dec", np.ones((20, 12), np.float32), r"w_dec \[20, 12\]"),
        ("W_dec", np.full((24, 12), np.nan, np.float32), "w_dec that are not finite"),
        ("b_enc", np.full(24, np.inf, np.float32), "b_enc that are not finite"),
        ("threshold", np.ones(3, np.float32), r"threshold \[3\]"),
        ("W_enc", np.ones(24, np.float32), "cannot be read as saelens"),
    ],
)
def test_weights_that_do_not_fit_or_are_not_numbers_raise(tmp_path, name, value, message):
    folder = copied("saelens_jumprelu", tmp_path)
    path = folder / "sae_weights.safetensors"
    save_file({**load_file(path), name: value}, path)
    with pytest.raises(SelfxError, match=message):
        load_sae(folder)


def test_settings_that_are_missing_are_named(tmp_path):
    folder = copied("saelens_topk", tmp_path)
    config = json.loads((folder / "cfg.json").read_text())
    del config["k"]
    (folder / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(SelfxError, match="cannot be read as saelens: no 'k'"):
        load_sae(folder)


def test_a_missing_tensor_is_named(tmp_path):
    folder = copied("saelens_jumprelu", tmp_path)
    path = folder / "sae_weights.safetensors"
    save_file({k: v for k, v in load_file(path).items() if k != "threshold"}, path)
    with pytest.raises(SelfxError, match="lacks threshold"):
        load_sae(folder)


@pytest.mark.parametrize("k", [0, 25])
def test_as_many_latents_as_there_are_not_raise(tmp_path, k):
    folder = copied("saelens_topk", tmp_path)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, "k": k}))
    with pytest.raises(SelfxError, match=f"{k} of 24 latents on"):
        load_sae(folder)


@pytest.mark.parametrize("file", ["sae_weights.safetensors", "cfg.json"])
def test_a_file_that_is_cut_says_so(tmp_path, file):
    folder = copied("saelens_topk", tmp_path)
    path = folder / file
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(SelfxError, match=f"{file} cannot be read"):
        load_sae(folder)


def test_an_npz_of_objects_is_not_unpickled(tmp_path):
    path = tmp_path / "params.npz"
    np.savez(path, w_enc=np.array([{}], dtype=object))
    with pytest.raises(SelfxError, match="cannot be read"):
        load_sae(path, site="resid_post", layer=1)


def test_rows_of_zeros_stay_and_are_never_divided_by(tmp_path):
    folder = copied("saelens_jumprelu", tmp_path)
    path = folder / "sae_weights.safetensors"
    parts = load_file(path)
    parts["W_dec"][3] = 0
    save_file(parts, path)
    sae = load_sae(folder)
    assert np.isfinite(sae.w_enc).all()
    np.testing.assert_array_equal(sae.w_dec[3], 0)
