"""Keys of a Hugging Face `config.json` that change nothing, whatever the family."""

from __future__ import annotations

from typing import Any

_ORIGIN = """
    _attn_implementation _attn_implementation_autoset _commit_hash _flash_attn_2_enabled
    _name_or_path architectures attention_dropout attn_pdrop attention_probs_dropout_prob auto_map
    cache_implementation dtype embd_pdrop hidden_dropout hidden_dropout_prob id2label
    initializer_range is_llama_config label2id license name_or_path pad_token_id bos_token_id
    eos_token_id resid_pdrop
    sep_token_id unk_token_id
    decoder_start_token_id problem_type task_specific_params finetuning_task tokenizer_class
    pretraining_tp torch_dtype torchscript transformers.js_config transformers_version unsloth_fixed
    unsloth_version use_bfloat16 use_cache"""
"""Keys about where a model comes from, and how it was trained and stored."""

_GENERATION = """
    bad_words_ids begin_suppress_tokens chunk_size_feed_forward diversity_penalty do_sample
    early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty
    forced_bos_token_id forced_eos_token_id length_penalty max_length max_new_tokens min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions
    output_hidden_states output_past output_scores prefix remove_invalid_values
    repetition_penalty return_dict
    return_dict_in_generate suppress_tokens temperature top_k top_p typical_p"""
"""Keys about generation and its outputs, which older files keep beside the architecture."""

HARMLESS = frozenset(f"{_ORIGIN} {_GENERATION}".split())

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (None, 1),
    "rope_interleaved": (None, False),
    "sliding_window": (None,),
    "use_sliding_window": (None, False),
    "quantization_config": (None,),
    "is_encoder_decoder": (None, False),
    "is_decoder": (None, False, True),
    "add_cross_attention": (None, False),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (None, False),
    "pruned_heads": (None, {}),
    "tf_legacy_loss": (None, False),
    "use_bidirectional_attention": (None, False),
    "use_mrope": (None, False),
}
"""Keys that change nothing at these values, and would at any other where no family reads them."""
