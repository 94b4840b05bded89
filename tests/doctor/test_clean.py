"""A model that runs as its checkpoint says passes: every family, every switch."""

import json

import jax
import numpy as np
import pytest

from selfx.doctor.declared import folder_checkpoint
from selfx.doctor.stepwise import steps
from selfx.doctor.trial import Trial
from selfx.models.sites import sites_of
from selfx.models.zoo import FAMILIES

SUMS = {"resid_pre", "resid_mid", "resid_post"}
"""Sites that are sums of others: the identities speak of them."""

CASES = (
    "llama-biases",
    "llama-head_dim",
    "llama-linear",
    "llama-dynamic",
    "llama-llama3",
    "llama-yarn_mscale",
    "llama-yarn_truncate",
    "smollm3-sliding",
    "mistral-sliding",
    "ministral-layer_types",
    "qwen2-sliding",
    "qwen3-norms",
    "qwen3_moe-normed",
    "mimo-mtp",
    "gemma2-mqa",
    "gemma3_text-local",
    "gemma3_text-caps",
    "gemma3-wrapper",
    "gpt2-inverse",
    "gpt_neox-sequential",
    "gpt_neox-tied",
    "olmo2-gqa",
    "olmo3-yarn",
    "phi3-partial_longrope",
    "phi3-sliding",
)
"""Every family, every way to stretch positions, every kind of window and norm."""


@pytest.mark.parametrize("case", CASES)
def test_every_step_and_weight(patient, case):
    """The doctor's own reading of config and tensors leads to the values that the model has."""
    found = patient(case)
    checks = found.examined(parts=("steps", "weights")).checks
    assert [check.name for check in checks if check.outcome != "passed"] == []
    names = [f"step: {site}" for site in sites_of(found.model.config) if site not in SUMS]
    assert [check.name for check in checks] == [*names, "weights"]
    assert all(check.worst < 1e-5 for check in checks[:-1])


def test_a_case_of_every_family_is_among_them():
    assert {case.split("-")[0] for case in CASES} == {*FAMILIES, "gemma3"}


@pytest.mark.parametrize("case", ["gemma2-alternating", "qwen3_moe-raw"])
def test_all_checks_pass(patient, case):
    report = patient(case).examined(name=case)
    assert report.ok
    assert report.failures == ()
    assert [check.name for check in report.checks if check.outcome == "skipped"] == ["tokenizer"]
    found = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert found["ok"] is True
    assert {check["name"] for check in found["checks"]} >= {
        "identity edits",
        "batch = single",
        "pads",
        "cache",
        "identity: head",
        "step: logits",
        "weights",
    }
    assert case in str(report)


def test_the_published_spelling_is_read_alike(golden, patient, tmp_path):
    """Older keys in config.json, read by transformers' classes: the same specs."""
    for case in ("gpt_neox-parallel", "gemma3_text-local", "phi3-partial_longrope"):
        folder = golden.write_folder(case, tmp_path / case, config="config_published")
        ours = folder_checkpoint(patient(case).folder).specs
        for one, two in zip(folder_checkpoint(folder).specs, ours, strict=True):
            assert (one.window, one.scale, one.qk_norm) == (two.window, two.scale, two.qk_norm)
            assert (one.turn.theta, one.turn.width) == (two.turn.theta, two.turn.width)


def test_a_text_with_a_cache_is_skipped_where_it_is_another_computation(patient):
    """LongRoPE turns a token by the length reached; torch's cached run differs in the same way."""
    report = patient("phi3-longrope").examined()
    assert report.ok
    skipped = [check for check in report.checks if check.outcome == "skipped"]
    assert [check.name for check in skipped] == ["tokenizer", "cache"]
    assert "longrope" in skipped[1].note


def test_half_precision_has_wider_limits_and_still_shows_a_fault(patient):
    """The limit of a step is four units of rounding, and a wrong rotary base is off by more."""
    whole = patient("llama-gqa", "bfloat16")
    report = whole.examined()
    assert report.ok, report.failures
    limits = {check.name: check.limit for check in report.checks if check.limit is not None}
    assert limits["step: query"] == 4 * 2**-7
    assert limits["pads"] == pytest.approx(4 * 2**-7 * np.sqrt(whole.model.config.n_layers))
    assert limits["identity edits"] == 0
    rope = whole.model.config.ropes[0]
    other = whole.with_config(ropes=(type(rope)(10.0),))
    assert other.examined(parts=("steps",)).failures == ("step: attn_scores",)


def test_nothing_is_left_on(patient):
    """The doctor's full precision is its own affair."""
    before = jax.config.jax_default_matmul_precision
    patient("llama-gqa").examined(parts=("identities",))
    assert jax.config.jax_default_matmul_precision == before


def test_what_short_texts_cannot_show_is_said(patient):
    """A window longer than the texts, and the rates of texts past the original length."""
    for case, length, site, words in (
        ("mistral-sliding", 5, "attn_probs", "do not reach the edge of a window of 5"),
        ("phi3-longrope", 8, "attn_scores", "say nothing of those longer than 16"),
    ):
        found = patient(case)
        for tokens, said in ((found.tokens[:, :length], True), (found.tokens, False)):
            checks = steps(Trial(found.model, tokens), folder_checkpoint(found.folder))
            note = next(check.note for check in checks if check.name == f"step: {site}")
            assert (words in note) == said
