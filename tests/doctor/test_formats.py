"""GGUF files and the reference in torch, and a real model through all of it."""

import dataclasses

import gguf
import numpy as np
import pytest

from selfx.doctor.run import examine, examine_decoder
from selfx.models.config import Rope, RopeScaling
from selfx.testing import tiny_config, tiny_model

MAPS = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


def neighbours(rows, heads):
    """Rows of a head's two halves, dealt out in turn, as llama's files have them."""
    first, second = np.split(rows.reshape(heads, -1, rows.shape[-1]), 2, axis=1)
    return np.stack([first, second], axis=2).reshape(rows.shape)


def write_gguf(path, model, **more):
    """The model as a GGUF file, without a tokenizer."""
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    sizes = {
        "block_count": config.n_layers,
        "context_length": config.max_positions,
        "embedding_length": config.d_model,
        "feed_forward_length": config.d_ff,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
    }
    for key, value in sizes.items():
        writer.add_uint32(f"llama.{key}", value)
    reals = {"rope.freq_base": config.ropes[0].theta, **more}
    for key, value in {**reals, "attention.layer_norm_rms_epsilon": config.norm_eps}.items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        add(f"llama.{key}", value)
    arrays = {"token_embd": model.embed, "output_norm": model.final_norm.w}
    arrays |= {"output": np.asarray(model.unembed.w[...]).T}
    heads = {"q": config.n_heads, "k": config.n_kv_heads}
    for layer in range(config.n_layers):
        at = f"blk.{layer}."
        arrays[f"{at}attn_norm"] = model.blocks.attn_norm.w[layer]
        arrays[f"{at}ffn_norm"] = model.blocks.mlp_norm.w[layer]
        for name, theirs in MAPS.items():
            rows = np.asarray(getattr(model.blocks, name).w[layer]).T
            arrays[at + theirs] = neighbours(rows, heads[name]) if name in heads else rows
    for name, array in arrays.items():
        writer.add_tensor(f"{name}.weight", np.ascontiguousarray(array, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


TOKENS = np.random.default_rng(4).integers(6, 262, (2, 12))


@pytest.mark.parametrize("scaling", [None, RopeScaling("linear", 4.0, 512)])
def test_a_gguf_file(tmp_path, scaling):
    """Metadata, rows in llama's order, an untied head; and a wrong rotary base in the model."""
    model = tiny_model(tiny_config(ropes=(Rope(1e4, scaling),)))
    more = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0} if scaling else {}
    path = write_gguf(tmp_path / "model.gguf", model, **more)
    report = examine_decoder(model, path, tokens=TOKENS, parts=("steps",))
    assert report.ok, report.failures
    assert len(report.checks) == 17
    if scaling is None:
        wrong = tiny_model(dataclasses.replace(model.config, ropes=(Rope(5e5),)))
        report = examine_decoder(wrong, path, tokens=TOKENS, parts=("steps",))
        assert report.failures == ("step: attn_scores",)


def test_a_gguf_file_of_another_kind_is_skipped(tmp_path):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (check,) = examine_decoder(tiny_model(), path, tokens=TOKENS, parts=("steps",)).checks
    assert (check.outcome, check.note) == ("skipped", "the doctor knows no GGUF files of mamba")


def test_without_torch_the_reference_says_what_to_do(tmp_path, monkeypatch, tiny):
    from selfx.doctor import reference

    monkeypatch.setattr(reference.importlib.util, "find_spec", lambda name: None)
    report = examine_decoder(tiny, tmp_path, tokens=TOKENS, parts=(), reference="transformers")
    assert report.ok
    assert {check.outcome for check in report.checks} == {"skipped"}
    assert "pip install torch" in report.checks[0].note


@pytest.mark.reference
@pytest.mark.parametrize(
    "case", ["llama-yarn", "mimo-mtp", "gemma3-wrapper", "gpt2-plain", "gpt_neox-parallel"]
)
def test_transformers_in_torch(patient, case):
    """Logits and residuals agree, and no longer with another rotary base or activation."""
    pytest.importorskip("torch")
    whole = patient(case)
    report = whole.examined(parts=(), reference="transformers")
    assert report.ok
    assert [check.outcome for check in report.checks] == ["passed", "passed"]
    wrong = whole.with_config(activation="relu").examined(parts=(), reference="transformers")
    assert wrong.failures == ("reference: residuals", "reference: logits")


@pytest.mark.reference
def test_transformers_in_torch_from_a_gguf_file(tmp_path):
    pytest.importorskip("torch")
    model = tiny_model()
    path = write_gguf(tmp_path / "model.gguf", model)
    report = examine_decoder(model, path, tokens=TOKENS, parts=(), reference="transformers")
    assert [check.outcome for check in report.checks] == ["passed", "passed"]


@pytest.mark.slow
@pytest.mark.model
def test_smollm2(smollm2):
    """A real model in a quantised file: every check, none skipped."""
    report = examine(smollm2)
    assert report.ok, str(report)
    assert {check.outcome for check in report.checks} == {"passed"}
