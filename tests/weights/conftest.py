"""Tiny models on disk, written from the formats' own definitions, not from the library's tables."""

import json

import gguf
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import pre_tokenizers

from selfx.testing import tiny_config, tiny_model, tiny_tokenizer

HF_MAPS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
GGUF_MAPS = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>", "<tool>"]
MERGES = ["h e", "l l", "he ll", "Ġ he"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)


def by_path(model):
    """`{path: array}` of a model's weights."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(model)
    names = (jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves)
    return {
        name.removesuffix(".value"): np.asarray(leaf)
        for name, (_, leaf) in zip(names, leaves, strict=True)
    }


def hf_tensors(model):
    """A model's weights under Hugging Face's names, linear maps as `[out, in]`."""
    w = by_path(model)
    tensors = {"model.embed_tokens.weight": w["embed"], "model.norm.weight": w["final_norm.w"]}
    if not model.config.tied:
        tensors["lm_head.weight"] = w["unembed.w"].T
    for layer in range(model.config.n_layers):
        start = f"model.layers.{layer}"
        tensors[f"{start}.input_layernorm.weight"] = w["blocks.attn_norm.w"][layer]
        tensors[f"{start}.post_attention_layernorm.weight"] = w["blocks.mlp_norm.w"][layer]
        for ours, theirs in HF_MAPS.items():
            tensors[f"{start}.{theirs}.weight"] = w[f"blocks.{ours}.w"][layer].T
            if f"blocks.{ours}.b" in w:
                tensors[f"{start}.{theirs}.bias"] = w[f"blocks.{ours}.b"][layer]
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def hf_config(config, **changes):
    """`config.json` of a model without rope scaling."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.d_head,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.ropes[0].theta,
        "rope_scaling": None,
        "tie_word_embeddings": config.tied,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "eos_token_id": 4,
        "torch_dtype": "float32",
        "use_cache": True,
        **changes,
    }


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A function: a model written as a Hugging Face folder; `tensors` edits what is written."""

    def write(model, *, shards=1, dtype=np.float32, tensors=None, **config_changes):
        path = tmp_path_factory.mktemp("folder")
        state = {name: value.astype(dtype) for name, value in hf_tensors(model).items()}
        state = tensors(state) if tensors else state
        (path / "config.json").write_text(json.dumps(hf_config(model.config, **config_changes)))
        tiny_tokenizer().save_pretrained(path)
        if shards == 1:
            save_file(state, path / "model.safetensors")
            return path
        names = {n: f"model-{i % shards:05}.safetensors" for i, n in enumerate(sorted(state))}
        for file in set(names.values()):
            save_file({n: state[n] for n in names if names[n] == file}, path / file)
        index = {"metadata": {}, "weight_map": names}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
        return path

    return write


def permuted(rows, heads):
    """Rows as the converter to GGUF orders them: each head's two halves interleaved."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def gguf_tensors(model):
    """A model's weights under GGUF's names, query and key rows interleaved."""
    w, config = by_path(model), model.config
    tensors = {"token_embd.weight": w["embed"], "output_norm.weight": w["final_norm.w"]}
    if not config.tied:
        tensors["output.weight"] = w["unembed.w"].T
    heads = {"q": config.n_heads, "k": config.n_kv_heads}
    for layer in range(config.n_layers):
        tensors[f"blk.{layer}.attn_norm.weight"] = w["blocks.attn_norm.w"][layer]
        tensors[f"blk.{layer}.ffn_norm.weight"] = w["blocks.mlp_norm.w"][layer]
        for ours, theirs in GGUF_MAPS.items():
            named = {"weight": w[f"blocks.{ours}.w"][layer].T}
            if f"blocks.{ours}.b" in w:
                named["bias"] = w[f"blocks.{ours}.b"][layer]
            for kind, value in named.items():
                value = permuted(value, heads[ours]) if ours in heads else value
                tensors[f"blk.{layer}.{theirs}.{kind}"] = value
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def gguf_metadata(config):
    """What a converter writes beside the weights, without the tokenizer."""
    return {
        "llama.block_count": config.n_layers,
        "llama.context_length": config.max_positions,
        "llama.embedding_length": config.d_model,
        "llama.feed_forward_length": config.d_ff,
        "llama.attention.head_count": config.n_heads,
        "llama.attention.head_count_kv": config.n_kv_heads,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
        "llama.rope.freq_base": config.ropes[0].theta,
        "llama.rope.dimension_count": config.d_head,
        "llama.vocab_size": config.vocab_size,
    }


def gguf_tokenizer(**changes):
    """A byte-level tokenizer: four special tokens, all bytes, four merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = [merge.replace(" ", "") for merge in MERGES]
    tokens = [*SPECIAL, *letters, *merged]
    fields = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "token_type": [3, 3, 3, 4] + [1] * (len(tokens) - 4),
        "merges": MERGES,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "padding_token_id": 0,
        "add_bos_token": False,
        **changes,
    }
    named = {f"tokenizer.ggml.{key}": value for key, value in fields.items()}
    return {**named, "tokenizer.chat_template": TEMPLATE}


@pytest.fixture(scope="session")
def metadata():
    """A function: the tokenizer's part of a GGUF file's metadata, some of it changed."""
    return gguf_tokenizer


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory):
    """A function: a model written as a GGUF file, quantised as `kind` where rows allow it."""

    def write(model, *, kind="F32", tensors=None, architecture="llama", **changes):
        path = tmp_path_factory.mktemp("gguf") / "model.gguf"
        state = gguf_tensors(model)
        state = tensors(state) if tensors else state
        fields = {**gguf_metadata(model.config), **gguf_tokenizer(), **changes}
        writer = gguf.GGUFWriter(path, architecture)
        for key, value in fields.items():
            _add(writer, key, value)
        for name, value in state.items():
            _add_tensor(writer, name, np.asarray(value, np.float32), kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def _add(writer, key, value):
    if value is None:
        return
    add = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    add[type(value)](key, value)


def _add_tensor(writer, name, value, kind):
    if kind == "F32" or value.ndim == 1:
        writer.add_tensor(name, value)
        return
    quantised = gguf.GGMLQuantizationType[kind]
    writer.add_tensor(name, gguf.quants.quantize(value, quantised), raw_dtype=quantised)


@pytest.fixture(scope="session")
def tiny():
    """A function: a random model whose vocabulary fits both tokenizers of these tests."""
    return lambda **changes: tiny_model(tiny_config(**{"vocab_size": 272, **changes}))


@pytest.fixture(scope="session")
def weights_of():
    """A function: `{path: array}` of a model's weights."""
    return by_path


@pytest.fixture(scope="session")
def bfloat16():
    """The dtype as NumPy knows it."""
    return ml_dtypes.bfloat16
