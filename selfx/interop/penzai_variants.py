"""Which of Penzai's decoders a config describes, built by Penzai's own code without its weights.

Penzai 0.2.5 has two: one for Llama, Mistral and Gemma, one for GPT-NeoX. Converting a checkpoint it
looks at the numbers that it knows and passes over the rest, so that a Llama 3.1 or a Qwen 3 comes
out wrong without a word. Here what it cannot compute raises.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from penzai import pz
from penzai.models.transformer.model_parts import TransformerLM
from penzai.models.transformer.variants import gpt_neox, llamalike_common

from selfx.errors import SelfxError
from selfx.models.config import Config, Rope
from selfx.models.rotary import distinct, rotary_width

_MLPS = {"silu": "swiglu", "gelu_tanh": "geglu_approx"}
_NEOX_ACTIVATIONS = {
    "gelu": "gelu_exact",
    "gelu_tanh": "gelu_approx",
    "relu": "relu",
    "silu": "silu",
}


def skeleton(config: Config, dtype: Any, activations: Any) -> TransformerLM:
    """Penzai's decoder with a `pz.ParameterSlot` in the place of every weight.

    Args:
      config: the architecture.
      dtype: of the weights.
      activations: the dtype that it is to compute in.

    Raises:
      SelfxError: Penzai has no such decoder; the message says why.
    """
    _check_known(config)
    build = _gpt_neox if config.norm == "layer" else _llamalike
    with jax.ensure_compile_time_eval():  # numbers that can be compared, under jit as well
        model = build(config, {"parameter_dtype": dtype, "activation_dtype": activations})
        scale = jnp.asarray(config.embed_scale, activations)
    before, rest = [], list(model.body.sublayers)
    while not isinstance(rest[0], pz.nn.Sequential):
        before.append(rest.pop(0))
    if config.embed_scale != 1:
        before.append(pz.nn.ConstantRescale(by=scale))
    layers = [*before, *(_as_configured(layer, before[0].table, config) for layer in rest)]
    return dataclasses.replace(model, body=pz.nn.Sequential(layers))


def _as_configured(layer: pz.nn.Layer, table: pz.nn.EmbeddingTable, config: Config) -> pz.nn.Layer:
    """A layer of the body, where Penzai's builders have no switch for what the config asks.

    They tie the head only together with Gemma's scale of the embeddings, and leave GPT-NeoX's last
    norm at an epsilon of 1e-6.
    """
    if isinstance(layer, pz.nn.Linear) and config.tied:
        return pz.nn.EmbeddingDecode(table)
    if isinstance(layer, pz.nn.LayerNorm):
        standardize = pz.select(layer).at_instances_of(pz.nn.Standardize)
        return standardize.apply(lambda old: dataclasses.replace(old, epsilon=config.norm_eps))
    return layer


def _llamalike(config: Config, dtypes: dict[str, Any]) -> TransformerLM:
    kinds, chosen = distinct(config.windows, config.n_layers)
    attention = [_attention_type(kinds[kind]) for kind in chosen]
    return llamalike_common.build_llamalike_transformer(
        llamalike_common.LlamalikeTransformerConfig(
            num_kv_heads=config.n_kv_heads,
            query_head_multiplier=config.n_heads // config.n_kv_heads,
            embedding_dim=config.d_model,
            projection_dim=config.d_head,
            mlp_hidden_dim=config.d_ff,
            num_decoder_blocks=config.n_layers,
            vocab_size=config.vocab_size,
            mlp_variant=_MLPS[config.activation],
            tie_embedder_and_logits=False,
            rope_wavelength=_rope(config).theta,
            rms_norm_eps=config.norm_eps,
            attention_type=attention,
            use_post_attn_norm=config.post_norm,
            use_post_ffw_norm=config.post_norm,
            final_logit_softcap=config.logit_cap,
            attn_logits_soft_cap=config.score_cap,
            query_scaling_factor=_score_scale(config),
            **dtypes,
        )
    )


def _attention_type(window: int | None) -> llamalike_common.AttentionType:
    if window is None:
        return llamalike_common.AttentionTypeGlobalCausal()
    return llamalike_common.AttentionTypeSlidingWindowCausal(window)


def _gpt_neox(config: Config, dtypes: dict[str, Any]) -> TransformerLM:
    rope = _rope(config)
    return gpt_neox.build_gpt_neox_transformer(
        gpt_neox.GPTNeoXTransformerConfig(
            num_attention_heads=config.n_heads,
            embedding_dim=config.d_model,
            projection_dim=config.d_head,
            mlp_hidden_dim=config.d_ff,
            num_decoder_blocks=config.n_layers,
            vocab_size=config.vocab_size,
            activation_fn=_NEOX_ACTIVATIONS[config.activation],
            rope_subset_size=rotary_width(rope, config.d_head),
            rope_wavelength=rope.theta,
            layernorm_epsilon=config.norm_eps,
            **dtypes,
        )
    )


def _rope(config: Config) -> Rope:
    """The rotary embedding of every layer, of a config that was checked to have one."""
    return next(rope for rope in config.ropes if rope is not None)


def _score_scale(config: Config) -> float:
    return config.d_head**-0.5 if config.score_scales is None else config.score_scales[0]


def _check_known(config: Config) -> None:
    """Raises SelfxError for every part of the config that Penzai would leave out."""
    only = _beyond_gpt_neox(config) if config.norm == "layer" else _beyond_llama(config)
    found = [what for what, there in {**_beyond_both(config), **only}.items() if there]
    if found:
        raise SelfxError(
            f"a {config.family} model with {', '.join(found)}: Penzai has no such decoder",
            expected="what Llama 3.0, Mistral, Gemma 2 or GPT-NeoX are made of",
            hint="show this model's activations instead: captures_to_named(output.captures)",
        )


def _beyond_both(config: Config) -> dict[str, bool]:
    ropes, _ = distinct(config.ropes, config.n_layers)
    scales, _ = distinct(config.score_scales or (None,), config.n_layers)
    return {
        "a mixture of experts": config.experts is not None,
        "normed queries and keys": config.qk_norm is not None,
        "learned positions": config.learned_positions,
        "layers that read the residual without a norm": not config.pre_norm,
        "layers without rotary positions": None in ropes,
        "rotary positions that differ from layer to layer": len(set(ropes) - {None}) > 1,
        "stretched rotary positions": any(rope and rope.scaling for rope in ropes),
        "scales of scores that differ from layer to layer": len(scales) > 1,
    }


def _beyond_llama(config: Config) -> dict[str, bool]:
    biases = config.attention_bias, config.output_bias, config.mlp_bias
    turned = {rotary_width(rope, config.d_head) for rope in config.ropes if rope is not None}
    return {
        "biases beside RMSNorm": any(biases),
        "attention and MLP in parallel": config.parallel,
        "an MLP without a gate": not config.gated,
        f"{config.activation} in its MLP": config.activation not in _MLPS,
        "part of each head turned": turned != {config.d_head} and turned != set(),
    }


def _beyond_gpt_neox(config: Config) -> dict[str, bool]:
    biases = config.attention_bias, config.output_bias, config.mlp_bias
    windows = any(window is not None for window in config.windows)
    return {
        "maps that add no bias": not all(biases),
        "its MLP after the attention": not config.parallel,
        "a gated MLP beside LayerNorm": config.gated,
        f"{config.activation} in its MLP": config.activation not in _NEOX_ACTIVATIONS,
        "grouped queries": config.n_kv_heads != config.n_heads,
        "norms after attention and MLP": config.post_norm,
        "windows": windows,
        "soft caps": config.score_cap is not None or config.logit_cap is not None,
        "another scale of scores": _score_scale(config) != config.d_head**-0.5,
    }
