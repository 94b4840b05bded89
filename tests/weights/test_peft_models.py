"""Models that are adapted as they are loaded: `MODEL+ADAPTER`."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import selfx
from selfx.errors import SelfxError
from selfx.explainer.lora import Lora, merge
from selfx.models.decoder import forward
from selfx.models.parameters import parameter_path
from selfx.testing import TINY, tiny_model, tiny_tokenizer
from selfx.weights import adapted
from selfx.weights.adapted import split_name
from selfx.weights.peft import Matrices, write_adapter
from selfx.weights.peft.contents import WEIGHTS
from selfx.weights.peft.read import CONFIG

TOKENS = np.random.default_rng(0).integers(6, 262, (2, 9))


def drawn(config, maps, seed):
    rng = np.random.default_rng(seed)
    return {
        name: Matrices(
            np.float32(rng.standard_normal((config.n_layers, config.map_shape(name)[0], 2))),
            np.float32(0.2 * rng.standard_normal((config.n_layers, 2, config.map_shape(name)[1]))),
            0.5,
        )
        for name in maps
    }


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    path = tmp_path_factory.mktemp("first")
    adapters = drawn(TINY, ("q", "down"), 1)
    write_adapter(path, adapters, base="tiny", config=TINY)
    return path, {n: Lora(jnp.asarray(x.a), jnp.asarray(x.b), x.scale) for n, x in adapters.items()}


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    path = tmp_path_factory.mktemp("second")
    adapters = drawn(TINY, ("q", "v"), 2)
    write_adapter(path, adapters, base="tiny", config=TINY)
    return path, {n: Lora(jnp.asarray(x.a), jnp.asarray(x.b), x.scale) for n, x in adapters.items()}


def weights(model):
    leaves, _ = jax.tree_util.tree_flatten_with_path(model)
    return {parameter_path(path): np.asarray(leaf, np.float32) for path, leaf in leaves}


def published(folder, base, **saved):
    """An adapter as training scripts leave one whose embeddings were trained too."""
    rng = np.random.default_rng(7)
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{side}.weight": np.float32(
            0.1 * rng.standard_normal((2, 32) if side == "A" else (32, 2))
        )
        for layer in range(4)
        for side in "AB"
    }
    tensors |= {f"base_model.model.{name}": value for name, value in saved.items()}
    save_file(tensors, folder / WEIGHTS)
    settings = {
        "peft_type": "LORA",
        "auto_mapping": None,
        "base_model_name_or_path": str(base),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": 4,
        "lora_dropout": 0.05,
        "modules_to_save": ["embed_tokens", "lm_head"],
        "r": 2,
        "revision": None,
        "target_modules": ["q_proj"],
        "task_type": "CAUSAL_LM",
    }
    (folder / CONFIG).write_text(json.dumps(settings))
    return folder


def test_the_base_with_its_adapter_is_a_model(tiny_folder, first):
    path, adapters = first
    lm = selfx.load(f"{tiny_folder}+{path}")
    assert (lm.name, lm.path, lm.adapters) == (f"{tiny_folder}+{path}", tiny_folder, (path,))
    want, got = weights(merge(tiny_model(), adapters)), weights(lm.model)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=0, atol=1e-6)
    logits = forward(tiny_model(), TOKENS, lora=adapters).logits
    np.testing.assert_allclose(
        forward(lm.model, TOKENS).logits, logits, atol=5e-5 * np.abs(logits).max()
    )


def test_several_are_merged_one_after_the_other(tiny_folder, first, second):
    lm = selfx.load(f"{tiny_folder}+{first[0]}+{second[0]}")
    want = weights(merge(merge(tiny_model(), first[1]), second[1]))
    for name, weight in weights(lm.model).items():
        np.testing.assert_allclose(weight, want[name], rtol=0, atol=1e-6)


def test_the_hash_tells_of_base_adapter_and_order(tiny_folder, first, second, tmp_path):
    base, one, two = tiny_folder, first[0], second[0]
    names = [f"{base}", f"{base}+{one}", f"{base}+{one}+{two}", f"{base}+{two}+{one}"]
    hashes = [selfx.load(name).hash for name in names]
    assert len(set(hashes)) == 4
    copy = shutil.copytree(one, tmp_path / "copy")
    assert selfx.load(f"{base}+{copy}").hash == hashes[1]
    settings = json.loads((copy / CONFIG).read_text())
    (copy / CONFIG).write_text(json.dumps({**settings, "lora_alpha": 99}))
    assert selfx.load(f"{base}+{copy}").hash not in hashes


def test_a_finished_run_names_its_adapter(tiny_folder, first, tmp_path):
    shutil.copytree(first[0], tmp_path / "run" / "adapter")
    lm = selfx.load(f"{tiny_folder}+{tmp_path / 'run'}")
    assert lm.hash == selfx.load(f"{tiny_folder}+{first[0]}").hash


def test_an_adapter_may_be_on_the_hub(tiny_folder, first, monkeypatch):
    asked = []
    monkeypatch.setattr(adapted, "from_hub", lambda *name: asked.append(name) or first[0])
    lm = selfx.load(f"{tiny_folder}+someone/oracle")
    assert asked[0][0] == "someone/oracle"
    assert WEIGHTS in asked[0][1]
    assert lm.adapters == (first[0],)


def test_sharded_weights_stay_sharded(tiny_folder, first):
    mesh = selfx.make_mesh(data=1, model=2)
    plain = selfx.load(f"{tiny_folder}", mesh=mesh).model
    lm = selfx.load(f"{tiny_folder}+{first[0]}", mesh=mesh)
    assert lm.model.blocks.q.w[...].sharding == plain.blocks.q.w[...].sharding
    alone = weights(selfx.load(f"{tiny_folder}+{first[0]}").model)
    for name, weight in weights(lm.model).items():
        np.testing.assert_allclose(weight, alone[name], rtol=0, atol=1e-6)


def test_half_precision_is_kept(tiny_folder, first):
    lm = selfx.load(f"{tiny_folder}+{first[0]}", dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(lm.model)} == {jnp.dtype(jnp.bfloat16)}


HEADS = {
    "plain": ("model.embed_tokens.weight", "lm_head.weight"),
    "wrapped": (
        "model.embed_tokens.modules_to_save.default.weight",
        "lm_head.modules_to_save.default.weight",
    ),
    "base layers": ("model.embed_tokens.base_layer.weight", "lm_head.base_layer.weight"),
}


@pytest.mark.parametrize("spelling", HEADS)
def test_a_published_adapter_with_saved_embeddings_for_more_tokens(spelling, tiny_folder, tmp_path):
    """270 rows for 262 tokens: the embedding is the adapter's, and the vocabulary as long."""
    rng = np.random.default_rng(4)
    embed, head = (np.float32(rng.standard_normal((270, 32))) for _ in range(2))
    names = HEADS[spelling]
    published(tmp_path, tiny_folder, **{names[0]: embed, names[1]: head})
    lm = selfx.load(f"{tiny_folder}+{tmp_path}")
    assert (lm.config.vocab_size, lm.model.config) == (270, lm.config)
    got = weights(lm.model)
    np.testing.assert_array_equal(got["embed"], embed)
    np.testing.assert_array_equal(got["unembed.w"], head.T)
    np.testing.assert_array_equal(got["final_norm.w"], weights(tiny_model())["final_norm.w"])
    assert forward(lm.model, np.array([[5, 269, 263]])).logits.shape == (1, 3, 270)


def test_an_adapters_own_tokenizer_is_taken(tiny_folder, tmp_path):
    rng = np.random.default_rng(4)
    both = (np.float32(rng.standard_normal((264, 32))) for _ in range(2))
    published(tmp_path, tiny_folder, **dict(zip(HEADS["plain"], both, strict=True)))
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<oracle>", "<answer>"])
    tokenizer.save_pretrained(tmp_path)
    lm = selfx.load(f"{tiny_folder}+{tmp_path}")
    assert lm.tokenizer.convert_tokens_to_ids("<answer>") == 263


def test_a_tied_head_follows_a_saved_embedding(write_tiny, tmp_path):
    base = write_tiny(tied=True)
    rng = np.random.default_rng(4)
    embed = np.float32(rng.standard_normal((262, 32)))
    alike = published(tmp_path, base, **dict.fromkeys(HEADS["plain"], embed))
    assert selfx.load(f"{base}+{alike}").config.tied
    apart = published(tmp_path, base, **dict(zip(HEADS["plain"], (embed, embed + 1), strict=True)))
    lm = selfx.load(f"{base}+{apart}")
    assert not lm.config.tied
    np.testing.assert_array_equal(weights(lm.model)["unembed.w"], embed.T + 1)


def test_embedding_and_head_of_different_lengths(tiny_folder, tmp_path):
    published(tmp_path, tiny_folder, **{HEADS["plain"][0]: np.ones((270, 32), np.float32)})
    with pytest.raises(SelfxError, match="embedding of 270 tokens, and a head of 262"):
        selfx.load(f"{tiny_folder}+{tmp_path}")


def test_too_few_rows_for_the_tokenizer(tiny_folder, tmp_path):
    both = dict.fromkeys(HEADS["plain"], np.ones((200, 32), np.float32))
    published(tmp_path, tiny_folder, **both)
    with pytest.raises(SelfxError, match="262 tokens"):
        selfx.load(f"{tiny_folder}+{tmp_path}")


def test_adapters_that_are_not_there(tiny_folder, tmp_path):
    for missing in ("", "nowhere", str(tmp_path)):
        with pytest.raises(SelfxError, match="no adapter in"):
            selfx.load(f"{tiny_folder}+{missing}")


def test_an_adapter_of_another_model(write_tiny, first):
    with pytest.raises(SelfxError, match=r"(?s)lora_A and lora_B.*both, .*\[48, 2\]"):
        selfx.load(f"{write_tiny(d_model=48)}+{first[0]}")


def test_a_plus_in_a_path_is_no_adapter(tiny_folder, first, tmp_path):
    base = shutil.copytree(tiny_folder, tmp_path / "c++" / "base+tuned")
    adapter = shutil.copytree(first[0], tmp_path / "a+b")
    assert split_name(f"{base}+{adapter}+{first[0]}") == (str(base), [str(adapter), str(first[0])])
    assert split_name("org/model+someone/oracle") == ("org/model", ["someone/oracle"])
    assert selfx.load(base).adapters == ()
    assert selfx.load(f"{base}+{adapter}").adapters == (adapter,)
