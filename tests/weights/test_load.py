import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import selfx
from selfx.errors import SelfxError
from selfx.models.block import MAPS
from selfx.models.parameters import parameter_count, parameter_shapes
from selfx.weights.digest import weights_hash
from selfx.weights.layout import deinterleave, interleave
from selfx.weights.tables import LAYOUTS, PEFT_MODULES

BIASES = {"attention_bias": True, "output_bias": True, "mlp_bias": True}


def test_the_layout_names_every_weight(tiny):
    for changes in ({}, BIASES):
        assert parameter_shapes(tiny(**changes).config).keys() <= LAYOUTS["llama"].table.keys()
    assert tuple(PEFT_MODULES) == MAPS


def test_interleaving_and_back_is_nothing():
    rows = np.arange(24).reshape(12, 2)
    np.testing.assert_array_equal(deinterleave(interleave(rows, 3), 3), rows)
    assert interleave(np.arange(8), 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_a_loaded_model_tells_what_it_is(folder, gguf_file, tiny):
    for path in (folder(tiny()), gguf_file(tiny())):
        lm = selfx.load(path)
        assert (lm.name, lm.path, lm.hash) == (str(path), path, weights_hash(path))
        assert len(lm.tokenizer) <= lm.config.vocab_size


def test_every_token_that_ends_an_answer_is_found(folder, gguf_file, tiny):
    path = folder(tiny())
    assert selfx.load(path).eos_ids == (2, 4)  # the chat's turn end, and config.json's
    (path / "generation_config.json").write_text('{"eos_token_id": [4, 7]}')
    assert selfx.load(path).eos_ids == (2, 4, 7)
    end_of_turn = {"tokenizer.ggml.eot_token_id": 9}
    assert selfx.load(gguf_file(tiny(), **end_of_turn)).eos_ids == (2, 9)


def test_a_tokenizer_that_is_too_large_is_refused(folder, gguf_file, tiny):
    small = tiny(vocab_size=100)
    for path in (folder(small), gguf_file(small)):
        with pytest.raises(SelfxError, match=r"has 26\d tokens"):
            selfx.load(path)


def test_errors_of_a_gguf_tokenizer_name_the_file(gguf_file, tiny):
    path = gguf_file(tiny(), **{"tokenizer.ggml.pre": "tekken"})
    with pytest.raises(SelfxError, match=f"{path}.*tekken"):
        selfx.load(path)


@pytest.mark.parametrize("dtype", ["int8", "nonsense", jnp.int32])
def test_a_dtype_that_is_no_float_is_refused(folder, tiny, dtype):
    with pytest.raises(SelfxError, match="dtype"):
        selfx.load(folder(tiny()), dtype=dtype)


def test_weights_are_spread_over_a_mesh(folder, tiny):
    path, tokens = folder(tiny()), jnp.asarray([[5, 90, 33, 7]])
    mesh = selfx.make_mesh(data=2, model=4)
    lm = selfx.load(path, mesh=mesh)
    assert len(lm.model.blocks.q.w[...].sharding.device_set) == 8
    wanted = selfx.forward(selfx.load(path).model, tokens).logits
    np.testing.assert_allclose(selfx.forward(lm.model, tokens).logits, wanted, atol=1e-5)


def test_the_hash_is_of_the_contents(folder, gguf_file, tiny):
    file = gguf_file(tiny())
    assert weights_hash(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    path = folder(tiny(), shards=2)
    before = weights_hash(path)
    assert before == weights_hash(folder(tiny(), shards=2))
    assert before != weights_hash(folder(tiny(tied=True), shards=2))
    config = path / "config.json"
    config.write_text(config.read_text().replace("true", "false"))
    assert weights_hash(path) != before


def test_a_hash_of_nothing_raises(tmp_path):
    with pytest.raises(SelfxError, match="no weights"):
        weights_hash(tmp_path)
    with pytest.raises(SelfxError, match="no weights"):
        weights_hash(tmp_path / "absent")


@pytest.mark.reference
def test_transformers_computes_the_same(folder, tiny):
    torch = pytest.importorskip("torch")
    from transformers import LlamaForCausalLM

    tokens = np.asarray([[5, 90, 33, 7, 260, 12]])
    for changes in (
        {},
        {"tied": True, **BIASES},
    ):
        path = folder(tiny(**changes))
        with torch.no_grad():
            reference = LlamaForCausalLM.from_pretrained(path)(torch.tensor(tokens)).logits.numpy()
        ours = selfx.forward(selfx.load(path).model, jnp.asarray(tokens)).logits
        np.testing.assert_allclose(ours, reference, atol=5e-5 * np.abs(reference).max())


@pytest.mark.model
def test_smollm2_knows_the_capital_of_france(smollm2):
    ids = jnp.asarray([smollm2.tokenizer("The capital of France is")["input_ids"]])
    logits = jax.jit(selfx.forward)(smollm2.model, ids).logits
    assert smollm2.tokenizer.decode([int(logits[0, -1].argmax())]) == " Paris"
    assert parameter_count(smollm2.config) == 134_515_008
    assert smollm2.eos_ids == (2,)
