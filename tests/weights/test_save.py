"""A model written as a Hugging Face folder: the tensors against the checkpoint's own, the model
against what torch computed from the original, and nothing left of what could not be written."""

import dataclasses
import errno
import json
import os

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import PreTrainedTokenizerFast

import selfx
from selfx import files
from selfx.errors import SelfxError
from selfx.models.config import Rope, RopeScaling
from selfx.models.decoder import with_layers
from selfx.testing import tiny_config, tiny_model, tiny_tokenizer
from selfx.weights.hf_config import config_to_hf
from selfx.weights.safetensors import folder_config, folder_weights
from selfx.weights.save import save_model

TOLERANCE = 5e-5
PREFIXES = ("language_model.", "transformer.")
"""What some checkpoints' names begin with, which others of the same family leave out."""
ONE_A_FAMILY = (
    *("gemma2-alternating", "gemma3_text-local", "gemma3-wrapper", "gpt2-inverse"),
    *("gpt_neox-rotary", "llama-llama3", "ministral-layer_types", "mistral-sliding", "olmo2-gqa"),
    *("olmo3-yarn", "phi3-partial_longrope", "qwen2-layer_types", "qwen3-norms"),
    *("qwen3_moe-normed", "smollm3-nope"),
)
"""Of those that transformers has."""


@pytest.fixture(scope="module")
def case_model(golden, tmp_path_factory):
    """A function: the model of a golden case."""

    def load(case, dtype=jnp.float32):
        folder = golden.write_folder(case, tmp_path_factory.mktemp(case))
        return folder_weights(folder, folder_config(folder), dtype)

    return load


def reread(folder, dtype=jnp.float32):
    return folder_weights(folder, folder_config(folder), dtype)


def assert_same_weights(one, other):
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
    for leaf, of_other in zip(leaves, others, strict=True):
        assert leaf.dtype == of_other.dtype
        np.testing.assert_array_equal(leaf, of_other)


def bare(name):
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def test_tensors_are_the_checkpoints_own(golden_case, golden, case_model, tmp_path):
    """Fused, split by head, transposed and by expert as they were, under the names they had."""
    model = case_model(golden_case)
    saved = load_file(save_model(model, tmp_path / "saved") / "model.safetensors")
    about = golden.load(golden_case)
    wanted = {
        bare(name): tensor
        for name, tensor in golden.tensors(golden_case).items()
        if name not in about.ignored
    }
    if model.config.tied:
        wanted = {
            n: t for n, t in wanted.items() if n not in ("lm_head.weight", "embed_out.weight")
        }
    assert saved.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(saved[name], tensor, err_msg=name)
    assert_same_weights(reread(tmp_path / "saved"), model)


@pytest.mark.reference
@pytest.mark.parametrize("case", ONE_A_FAMILY)
def test_transformers_reads_the_same_model(case, golden, case_model, tmp_path):
    """Config and tensors together: torch's logits are those of the original, read by torch."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    save_model(case_model(case), tmp_path / "saved")
    theirs, found = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", dtype=torch.float32, output_loading_info=True
    )
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    about = golden.load(case)
    for row, want in zip(about.rows, about.logits, strict=True):
        with torch.no_grad():
            got = theirs(torch.tensor(row)[None]).logits[0].numpy()
        assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


@pytest.mark.parametrize(("dtype", "said"), [("bfloat16", "BF16"), ("float16", "F16")])
def test_the_dtype_is_kept(dtype, said, case_model, tmp_path):
    model = case_model("gpt_neox-parallel", dtype)
    folder = save_model(model, tmp_path / "saved")
    assert_same_weights(reread(folder, dtype), model)
    file = folder / "model.safetensors"
    assert f'"dtype":"{said}"' in file.read_bytes()[:200].decode()
    assert {t.dtype for t in load_file(file).values()} == {
        np.dtype(getattr(ml_dtypes, dtype, dtype))
    }
    assert json.loads((folder / "config.json").read_text())["dtype"] == dtype


def test_large_models_lie_in_several_files(tiny, tmp_path):
    limit = 40_000
    folder = save_model(tiny(), tmp_path / "saved", shard_bytes=limit)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0].name == f"model-00001-of-{len(shards):05}.safetensors"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for shard in shards:
        held = load_file(shard)
        assert sum(t.nbytes for t in held.values()) <= limit
        assert {name for name, at in index["weight_map"].items() if at == shard.name} == held.keys()
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(tiny()))
    assert index["metadata"]["total_size"] == total
    assert_same_weights(reread(folder), tiny())


def test_a_tensor_larger_than_a_file_has_one_to_itself(tiny, tmp_path):
    folder = save_model(tiny(), tmp_path / "saved", shard_bytes=1)
    assert all(len(load_file(file)) == 1 for file in folder.glob("*.safetensors"))
    assert_same_weights(reread(folder), tiny())


def test_a_loaded_model_is_saved_with_all_that_belongs_to_it(folder, gguf_file, tiny, tmp_path):
    """Tokenizer, chat template, ends; of a folder its own config too; then it hashes anew."""
    text = "hello <|im_end|> there\n"
    for name, path in (("hf", folder(tiny(), use_cache=False)), ("gguf", gguf_file(tiny()))):
        lm = selfx.load(path)
        saved = selfx.load(save_model(lm, tmp_path / name))
        assert_same_weights(saved.model, lm.model)
        assert (saved.config, saved.eos_ids) == (lm.config, lm.eos_ids)
        assert saved.tokenizer(text).input_ids == lm.tokenizer(text).input_ids
        assert saved.tokenizer.chat_template == lm.tokenizer.chat_template
    declared = json.loads((tmp_path / "hf" / "config.json").read_text())
    was = json.loads((selfx.load(folder(tiny(), use_cache=False)).path / "config.json").read_text())
    assert declared == {**{k: v for k, v in was.items() if k != "torch_dtype"}, "dtype": "float32"}


def test_a_config_that_no_longer_fits_is_written_anew(folder, tiny, tmp_path):
    lm = selfx.load(folder(tiny(), use_cache=False))
    other = tiny_model(tiny_config(n_layers=2, tied=True))
    lm = dataclasses.replace(lm, model=other, config=other.config)
    saved = save_model(lm, tmp_path / "saved")
    assert "use_cache" not in json.loads((saved / "config.json").read_text())
    assert_same_weights(selfx.load(saved).model, other)


def test_a_tokenizer_can_be_given(tiny, tmp_path):
    save_model(tiny(), tmp_path / "saved", tokenizer=tiny_tokenizer())
    assert (
        selfx.load(tmp_path / "saved").tokenizer("a").input_ids == tiny_tokenizer()("a").input_ids
    )


def test_what_no_file_can_say_is_refused(tmp_path):
    """Never declared as something else: each differs from its family in what no key can express."""
    linear = RopeScaling("linear", 2.0, 100)
    for changes, words in (
        ({"attention_bias": True}, "output_bias = False"),
        ({"ropes": (Rope(1e4), Rope(1e5))}, "ropes"),
        ({"ropes": (Rope(1e4, linear),)}, "ropes"),
        ({"windows": (4,)}, "windows"),
        ({"family": "mistral", "windows": (4, None)}, "windows"),
        ({"embed_scale": 2.0, "logit_cap": 3.0}, "embed_scale = 2.0, logit_cap = 3.0"),
        ({"family": "t5"}, "'t5'"),
    ):
        with pytest.raises(SelfxError, match=words):
            config_to_hf(tiny_config(**changes))
    with pytest.raises(SelfxError, match="windows"):
        save_model(tiny_model(tiny_config(windows=(4,))), tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_models_that_files_cannot_hold_are_refused(tiny, tmp_path):
    pytest.importorskip("qwix")
    from selfx.models.quantized import quantize

    for model in (quantize(tiny(), "int8"), with_layers(tiny(), selfx.apart(tiny()))):
        with pytest.raises(SelfxError, match="quantised, or whose layers are apart"):
            save_model(model, tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_what_is_there_already_is_not_touched(tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    save_model(tiny(), tmp_path / "empty")
    (tmp_path / "file").write_text("mine")
    for name in ("empty", "file"):
        with pytest.raises(SelfxError, match="there already"):
            save_model(tiny(), tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "part", ["00002-of", "index.json", "generation_config", "/config.json", "replace"]
)
def test_a_full_disk_leaves_nothing(part, tiny_lm, tmp_path, monkeypatch):
    real = files._settle

    def settle(temporary, path):
        if part in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(temporary, path)

    def replace(here, there):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "_settle", settle)
    if part == "replace":
        monkeypatch.setattr("selfx.weights.save.os.replace", replace)
    with pytest.raises(SelfxError, match="disk is full") as caught:
        save_model(tiny_lm, tmp_path / "saved", shard_bytes=100_000)
    assert f"cannot write {tmp_path / 'saved'}:" in caught.value.got
    assert not list(tmp_path.iterdir())


def test_a_really_full_disk_leaves_nothing(small_disk, tiny_lm, tiny):
    """First the weights do not fit, then, on a larger one, the tokenizer does not."""
    with pytest.raises(SelfxError, match="disk is full"):
        save_model(tiny_lm, small_disk / "saved")
    assert not list(small_disk.iterdir())
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(tiny_lm.model))
    small_disk.resize(f"{weights // 1024 + 16}k")
    with pytest.raises(SelfxError):
        save_model(tiny_lm, small_disk / "saved")
    assert not list(small_disk.iterdir())


def test_an_error_of_the_tokenizers_library_is_explained(tiny_lm, tmp_path, monkeypatch):
    def fail(self, folder):
        raise Exception("No space left on device")

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", fail)
    with pytest.raises(SelfxError, match=r"tokenizer cannot be written: No space"):
        save_model(tiny_lm, tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_a_model_spread_over_devices_is_saved_whole(tiny, tmp_path):
    spread = selfx.shard(tiny(), selfx.make_mesh(data=2, model=2))
    assert_same_weights(reread(save_model(spread, tmp_path / "saved")), tiny())
