"""Every usual way to be silently wrong, planted in a model: the right check fails and says why."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from selfx.models import decoder
from selfx.models.config import Rope

COMPUTED = ("identities", "steps")
"""What wrong numbers can show in: padding, company and a cache know nothing of them."""


def shown(report, *checks):
    """The notes of the checks that failed, which must be these."""
    assert set(report.failures) == set(checks)
    assert not report.ok
    return {check.name: check.note for check in report.checks if check.failed}


CONFIGS = {
    "rotary base": (
        "llama-gqa",
        {"ropes": (Rope(1e5),)},
        {"attn_scores": "the rotary base is 100000, the checkpoint says 10000"},
    ),
    "rotary scaling ignored": (
        "llama-yarn",
        {"ropes": (Rope(1e4),)},
        {"attn_scores": "the yarn scaling of positions is ignored"},
    ),
    "local layers turned like global ones": (
        "gemma3_text-local",
        {"ropes": (Rope(100.0),)},
        {"attn_scores": "positions are turned as in layer 0 (layers 3 of 4)"},
    ),
    "layers without positions turned": (
        "smollm3-nope",
        {"ropes": (Rope(2e6),)},
        {"attn_scores": "they should not be"},
    ),
    "no norm of queries and keys": (
        "qwen3-norms",
        {"qk_norm": None},
        {"query": "queries are not normed", "key": "keys are not normed"},
    ),
    "cap of scores": (
        "gemma2-alternating",
        {"score_cap": 3.0},
        {"attn_scores": "scores are capped at 3, the checkpoint says 1.5"},
    ),
    "cap of logits": (
        "gemma2-alternating",
        {"logit_cap": None},
        {"logits": "logits are not capped, the checkpoint says 2"},
    ),
    "scale of scores": (
        "gemma2-alternating",
        {"score_scales": None},
        {"attn_scores": "scores are multiplied by 1/sqrt(e), the checkpoint says 0.333"},
    ),
    "embedding scale": (
        "gemma2-alternating",
        {"embed_scale": 1.0},
        {"embeddings": "not multiplied by the root of their width"},
    ),
    "norm without its 1": (
        "gemma2-alternating",
        {"norm": "rms"},
        dict.fromkeys(
            ("attn_in", "attn_out_post", "mlp_in", "mlp_out_post", "final_norm"),
            "the norm multiplies by its weight without adding 1",
        ),
    ),
    "window ignored": (
        "mistral-sliding",
        {"windows": (None,)},
        {"attn_probs": "the window is ignored, the checkpoint says 5"},
    ),
    "window one too long": (
        "mistral-sliding",
        {"windows": (6,)},
        {"attn_probs": "the window is 6, the checkpoint says 5"},
    ),
    "activation": (
        "gemma2-alternating",
        {"activation": "silu"},
        {"mlp_act": "the activation is silu, the checkpoint says gelu_tanh"},
    ),
    "residuals in parallel": (
        "gpt_neox-parallel",
        {"parallel": False},
        {"mlp_in": "the MLP reads the residual after the attention"},
    ),
}


@pytest.mark.parametrize("fault", CONFIGS)
def test_a_wrong_architecture(patient, fault):
    case, changes, expected = CONFIGS[fault]
    report = patient(case).with_config(**changes).examined(parts=COMPUTED)
    notes = shown(report, *(f"step: {site}" for site in expected))
    for site, words in expected.items():
        assert words in notes[f"step: {site}"]


def one_layer(number, change):
    def changed(stacked):
        stacked[number] = change(stacked[number])
        return stacked

    return changed


WEIGHTS = {
    "queries transposed": (
        {"blocks__q__w": one_layer(1, np.transpose)},
        {"query": "the weight of q is transposed (layers 1 of 4)"},
    ),
    "a norm's weight of 1": (
        {"blocks__attn_norm__w": one_layer(2, np.ones_like)},
        {"attn_in": "the norm's weight is not applied (layers 2 of 4)"},
    ),
    "the bias of values": (
        {"blocks__v__b": np.zeros_like},
        {"value": "the bias of v is not added (layers 0-3 of 4)"},
    ),
    "down maps of two layers": (
        {f"blocks__down__{part}": lambda w: w[[0, 2, 1, 3]] for part in "wb"},
        {"mlp_out": "the weights of layer 2 stand in layer 1 (layers 1-2 of 4)"},
    ),
    "gate and up": (
        {"blocks__gate__w": lambda w: w[:, ::-1]},
        {"mlp_pre": "no usual mistake explains it"},
    ),
}


@pytest.mark.parametrize("fault", WEIGHTS)
def test_wrong_weights(patient, fault):
    changes, expected = WEIGHTS[fault]
    report = patient("llama-biases").with_weights(**changes).examined(parts=COMPUTED)
    notes = shown(report, *(f"step: {site}" for site in expected))
    for site, words in expected.items():
        assert words in notes[f"step: {site}"]


def test_swapped_layers(patient):
    """Everything with a weight fails in both, and each says whose weights stand there."""
    whole = patient("llama-gqa")
    blocks = [path for path in whole.weights() if path.startswith("blocks")]
    swap = {path.replace(".", "__"): lambda w: w[[0, 2, 1, 3]] for path in blocks}
    weighted = ["attn_in", "query", "key", "value", "attn_out"]
    weighted += ["mlp_in", "mlp_pre", "mlp_act", "mlp_out"]
    report = whole.with_weights(**swap).examined(parts=COMPUTED)
    notes = shown(report, *(f"step: {site}" for site in weighted))
    for note in notes.values():
        assert "of layer 2 stand in layer 1 (layers 1-2 of 4)" in note


def test_learned_positions_off_by_one(patient):
    late = patient("gpt2-plain").with_weights(places=lambda w: np.roll(w, -1, axis=0))
    report = late.examined(parts=COMPUTED)
    assert "positions are off by +1" in shown(report, "step: embeddings")["step: embeddings"]


def test_positions_off_by_one_after_a_cache(patient, monkeypatch):
    """Rotary positions are relative: one token further shows only beside keys from before."""
    plain = decoder._positions

    def late(mask, cache):
        position = plain(mask, cache)
        return position if cache is None else jnp.where(position < 0, -1, position + 1)

    monkeypatch.setattr(decoder, "_positions", late)
    assert "other positions" in shown(patient("llama-gqa").examined(), "cache")["cache"]


def test_pads_that_move_positions(patient, monkeypatch):
    """Positions by slot, as if pads were tokens."""

    def by_slot(mask, cache):
        start = 0 if cache is None else cache.filled
        slots = start + jnp.arange(mask.shape[1], dtype=jnp.int32)
        return jnp.where(mask, slots, -1)

    monkeypatch.setattr(decoder, "_positions", by_slot)
    notes = shown(patient("gpt2-plain").examined(), "pads")
    assert "pads move its position" in notes["pads"]


def test_attention_that_sees_pads(patient, monkeypatch):
    """Slots without a token count as seen: pads, and with a cache its empty room too."""

    class Leaking(decoder.Differing):
        def __init__(self, config, position, source):
            super().__init__(config, position, source)
            self.visible = self.back >= 0

    monkeypatch.setattr(decoder, "Differing", Leaking)
    notes = shown(patient("llama-gqa").examined(), "pads", "cache")
    assert "a token attends to pads" in notes["pads"]


def test_a_row_that_sees_its_neighbours(patient, monkeypatch):
    """Only company differs between the runs that are compared: pads and cache see it too."""
    plain = decoder._embed
    monkeypatch.setattr(
        decoder, "_embed", lambda *args: plain(*args) + 0.01 * plain(*args).mean(axis=0)
    )
    assert "batch = single" in patient("llama-gqa").examined().failures


def test_captures_that_are_not_what_the_model_used(patient, monkeypatch):
    """Rounded captures, put back, change the run."""
    from selfx.models import tap

    gather = tap.gather_positions
    monkeypatch.setattr(
        tap, "gather_positions", lambda x, *at: gather(x, *at).astype("bfloat16").astype(x.dtype)
    )
    assert "identity edits" in patient("llama-gqa").examined().failures


def test_not_a_number_fails(patient):
    spoiled = patient("llama-gqa").with_weights(blocks__down__w=one_layer(3, lambda w: w * np.nan))
    report = spoiled.examined(parts=COMPUTED)
    assert "step: mlp_out" in report.failures
    check = next(check for check in report.to_json()["checks"] if check["name"] == "step: mlp_out")
    assert check["worst"] is None
    assert "layer 3" in check["where"]


def test_a_wrong_mixture_of_experts(patient):
    whole = patient("qwen3_moe-raw")
    experts = dataclasses.replace(whole.model.config.experts, normalized=True)
    notes = shown(whole.with_config(experts=experts).examined(parts=COMPUTED), "step: mlp_out")
    assert "weights of the chosen experts are made to sum to 1" in notes["step: mlp_out"]


def unseen(w):
    """A row of the embedding that no text of the tests has (the last one), changed by little."""
    w[-1, 0] += 1e-3
    return w


def test_weights_that_no_text_touches(patient):
    """Rows of other tokens, positions past the end, experts of no token: by comparison alone."""
    untied, gpt2, moe = patient("llama-biases"), patient("gpt2-plain"), patient("qwen3_moe-raw")
    untied = dataclasses.replace(untied, tokens=untied.tokens % 60)
    for whole, changes, words in (
        (untied, {"embed": unseen}, "embed differs in 1 of"),
        (gpt2, {"places": unseen}, "places differs in 1 of"),
        (moe, {"blocks__experts__up": lambda w: w[:, ::-1]}, "blocks.experts.up 0 of layer 0"),
    ):
        report = whole.with_weights(**changes).examined(parts=("weights",))
        assert words in shown(report, "weights")["weights"]
    report = untied.with_weights(embed=unseen).examined(parts=COMPUTED)
    assert report.ok
