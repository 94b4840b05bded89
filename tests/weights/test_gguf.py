import math

import gguf
import jax.numpy as jnp
import numpy as np
import pytest

import selfx
from selfx.errors import SelfxError
from selfx.models.config import Rope, RopeScaling
from selfx.weights.gguf import gguf_config, open_gguf

TOKENS = jnp.asarray([[5, 90, 33, 7, 260, 12]])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied": True},
        {"n_kv_heads": 4, "attention_bias": True, "output_bias": True},
        {"n_kv_heads": 1, "mlp_bias": True},
    ],
    ids=str,
)
def test_a_folder_and_a_gguf_file_of_one_model_are_one_model(folder, gguf_file, tiny, changes):
    model = tiny(**changes)
    first, second = selfx.load(folder(model)), selfx.load(gguf_file(model))
    assert first.config == second.config == model.config
    wanted = selfx.forward(model, TOKENS).logits
    for lm in (first, second):
        np.testing.assert_array_equal(selfx.forward(lm.model, TOKENS).logits, wanted)


def test_a_head_width_of_its_own_is_read(gguf_file, tiny):
    model = tiny(d_head=16)
    widths = {"llama.attention.key_length": 16, "llama.attention.value_length": 16}
    lm = selfx.load(gguf_file(model, **widths))
    assert lm.config == model.config
    wanted = selfx.forward(model, TOKENS).logits
    np.testing.assert_array_equal(selfx.forward(lm.model, TOKENS).logits, wanted)


@pytest.mark.parametrize(("kind", "error"), [("F16", 1e-3), ("Q8_0", 0.01), ("Q4_1", 0.1)])
def test_quantised_weights_are_near_those_quantised(gguf_file, tiny, weights_of, kind, error):
    model = tiny()
    read = weights_of(selfx.load(gguf_file(model, kind=kind)).model)
    for path, value in weights_of(model).items():
        assert read[path].shape == value.shape
        assert np.abs(read[path] - value).mean() <= error * np.abs(value).mean(), path


def test_dtype_is_as_asked(gguf_file, tiny, weights_of):
    lm = selfx.load(gguf_file(tiny()), dtype=jnp.bfloat16)
    assert {value.dtype for value in weights_of(lm.model).values()} == {jnp.dtype(jnp.bfloat16)}


def test_rope_scalings_are_read(gguf_file, tiny):
    def scaled(kind, **fields):
        named = {f"llama.rope.scaling.{key}": value for key, value in fields.items()}
        path = gguf_file(tiny(), **{"llama.rope.scaling.type": kind, **named})
        return gguf_config(open_gguf(path)).ropes[0].scaling

    assert scaled("none") is None
    assert scaled("linear", factor=4.0) == RopeScaling("linear", 4.0, 512)
    yarn = scaled("yarn", factor=4.0, original_context_length=128)
    assert (yarn.original_max_positions, yarn.beta_fast, yarn.beta_slow) == (128, 32, 1)
    assert yarn.attention_factor == pytest.approx(0.1 * np.log(4) + 1)
    with pytest.raises(SelfxError, match="longrope"):
        scaled("longrope", factor=4.0)
    with pytest.raises(SelfxError, match="lacks rope.scaling.factor"):
        scaled("linear")


def llama3_factors(theta, width, factor, low=1.0, high=4.0, original=8192):
    """What the converter to GGUF writes for Llama 3.1's rule, dimension by dimension."""
    factors = []
    for i in range(0, width, 2):
        wavelength = 2 * math.pi * theta ** (i / width)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.asarray(factors)


def test_llama3_scaling_is_recovered_from_its_factors(gguf_file, tiny):
    model = tiny(ropes=(Rope(500_000.0),), d_head=16)
    widths = {"llama.attention.key_length": 16, "llama.attention.value_length": 16}
    factors = llama3_factors(500_000.0, 16, 32.0)
    assert len(set(factors)) == 3  # one dimension lies in the blended part

    def write(values):
        return gguf_file(model, tensors=lambda s: {**s, "rope_freqs.weight": values}, **widths)

    assert selfx.load(write(factors)).config.ropes[0].scaling == RopeScaling(
        "llama3", 32.0, 8192, 1.0, 4.0
    )
    assert selfx.load(write(np.ones(8))).config.ropes[0].scaling is None
    with pytest.raises(SelfxError, match="follows no rule"):
        selfx.load(write(factors * np.linspace(1, 1.1, 8)))
    with pytest.raises(SelfxError, match="shape"):
        selfx.load(write(factors[1:]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "qwen3"}, "qwen3"),
        ({"llama.rope.freq_base": None}, "lacks rope.freq_base"),
        ({"llama.block_count": None}, "lacks block_count"),
        ({"llama.attention.layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon"),
        ({"llama.expert_count": 8}, "expert_count"),
        ({"llama.attention.sliding_window": 128}, "sliding_window"),
        ({"llama.rope.dimension_count": 4}, "rope.dimension_count"),
        ({"llama.vocab_size": 271}, "272 rows"),
        ({"llama.block_count": 3}, "unexpected: blk.3"),
        ({"llama.block_count": 5}, "missing: blk.4"),
        ({"llama.feed_forward_length": 96}, "wrong shape"),
        ({"llama.attention.head_count_kv": 3}, "3 key/value heads"),
    ],
    ids=str,
)
def test_what_is_not_honoured_raises_and_is_named(gguf_file, tiny, changes, message):
    path = gguf_file(tiny(), **changes)
    with pytest.raises(SelfxError, match=message) as error:
        selfx.load(path)
    assert str(path) in str(error.value)


def test_tensors_that_do_not_fit_are_all_named(gguf_file, tiny):
    def spoil(state):
        state["blk.0.attn_q.weight"] = state["blk.0.attn_q.weight"][:8]
        state["blk.0.attn_sinks"] = np.ones(4)
        del state["output_norm.weight"]
        return state

    with pytest.raises(SelfxError) as error:
        selfx.load(gguf_file(tiny(), tensors=spoil))
    for part in ("missing: output_norm.weight", "unexpected: blk.0.attn_sinks", "[8, 32]"):
        assert part in str(error.value)


def test_no_embedding(gguf_file, tiny):
    def without(state):
        return {name: value for name, value in state.items() if name != "token_embd.weight"}

    with pytest.raises(SelfxError, match="token_embd.weight"):
        selfx.load(gguf_file(tiny(), tensors=without))


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.001, 0.01, 0.05, 0.3, 0.9, 0.9999])
def test_a_cut_file_is_noticed_wherever_it_ends(gguf_file, tiny, tmp_path, share):
    whole = gguf_file(tiny()).read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(SelfxError, match="cut.gguf is not a readable GGUF file"):
        selfx.load(path)


@pytest.mark.parametrize("seed", range(4))
def test_noise_is_noticed_with_and_without_a_header(tmp_path, seed):
    noise = np.random.default_rng(seed).bytes(5000)
    for start in (b"", b"GGUF\x03\0\0\0", b"GGUF\x03\0\0\0" + bytes([9, 0, 0, 0, 0, 0, 0, 0])):
        path = tmp_path / "noise.gguf"
        path.write_bytes(start + noise)
        with pytest.raises(SelfxError, match="noise.gguf is not a readable GGUF file"):
            selfx.load(path)


def test_a_text_file_is_noticed(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("The capital of France is Paris.")
    with pytest.raises(SelfxError, match="notes.txt is not a readable GGUF file"):
        selfx.load(path)


def test_a_quantisation_that_cannot_be_undone_is_named(gguf_file, tiny, monkeypatch):
    def refuse(*_):
        raise NotImplementedError

    path = gguf_file(tiny())
    monkeypatch.setattr(gguf, "dequantize", refuse)
    with pytest.raises(SelfxError, match="quantised as F32"):
        selfx.load(path)
