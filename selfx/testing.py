"""A tiny model and tokenizer with nothing to download, for our tests and for yours."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from selfx.models.config import Config, Rope
from selfx.models.decoder import Decoder
from selfx.models.parameters import from_parameters, parameter_shapes

SPECIAL = ("<pad>", "<|im_start|>", "<|im_end|>", "<begin>", "<end>", "<slot>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TINY = Config(
    family="llama",
    vocab_size=len(SPECIAL) + 256,
    d_model=32,
    d_ff=64,
    n_layers=4,
    n_heads=4,
    n_kv_heads=2,
    d_head=8,
    ropes=(Rope(10_000.0),),
    norm_eps=1e-6,
    max_positions=512,
    tied=False,
)
"""Four layers, grouped-query attention, a token for every byte."""


def tiny_config(**changes: Any) -> Config:
    """`TINY` with some fields changed."""
    return dataclasses.replace(TINY, **changes)


def tiny_model(config: Config = TINY, seed: int = 0, dtype: Any = jnp.float32) -> Decoder:
    """A random decoder whose layers matter: its logits depend on every token and every weight.

    Norms and biases stand away from 1 and 0, so that forgetting one shows. Drawn by NumPy: there
    is nothing to compile.
    """
    rng = np.random.default_rng(seed)
    parameters = {}
    for path, leaf in parameter_shapes(config, dtype).items():
        noise = rng.standard_normal(leaf.shape)
        if path.endswith("norm.w"):
            noise = 0.1 * noise + (config.norm != "rms_plus_one")
        elif path.endswith(".b"):
            noise = 0.1 * noise
        elif path.endswith(".w") or "experts" in path:
            noise = noise / math.sqrt(leaf.shape[-2])
        parameters[path] = jnp.asarray(noise, dtype)
    return from_parameters(config, parameters, dtype)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token a byte (ids from 6), a chat template and explainer markers."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *letters))}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("."), "isolated"), pre_tokenizers.ByteLevel(False)]
    )
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL[1:]),
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
