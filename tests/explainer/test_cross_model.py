"""An explainer that is not the target: other tokens, width and depth, through a projection."""

import json
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import selfx
from selfx.errors import SelfxError
from selfx.explainer.answer import answer, check_vectors, load_explainer
from selfx.explainer.fit import fit
from selfx.explainer.optimization import Optimization
from selfx.explainer.reader import load_reader
from selfx.explainer.training import Training
from selfx.tasks.store import load_examples
from selfx.testing import CHAT_TEMPLATE, SPECIAL

SETTINGS = Training(
    epochs=10,
    batch_size=16,
    rank=4,
    style="plain",
    held_out=0.25,
    evaluate_every=10,
    optimization=Optimization(5e-3),
)


@pytest.fixture(scope="module")
def explainer(write_tiny):
    """Narrower and shallower than the planted vectors' target, with letters for tokens."""
    folder = write_tiny(3, d_model=16, n_layers=3, vocab_size=len(SPECIAL) + 100)
    letters = [chr(c) for c in range(32, 127)] + ["\n"]
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *reversed(letters)))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL[1:]),
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    for file in folder.glob("token*"):
        file.unlink()
    tokenizer.save_pretrained(folder)
    return selfx.load(folder)


@pytest.fixture(scope="module")
def trace(planted_trace, tmp_path_factory):
    """Vectors of width 32 from a target of seven layers."""
    folder = planted_trace(tmp_path_factory.mktemp("cross") / "trace", train=64, test=16)
    record = json.loads((folder / "trace.json").read_text())
    record["shape"] = {"d_model": 32, "n_layers": 7}
    (folder / "trace.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def run(explainer, trace, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    training = {"trains": ("lora", "projection"), "projection": "random"}
    fit(explainer, [trace], out, Training(**(vars(SETTINGS) | training)))
    return out


def test_without_a_projection_it_is_refused(explainer, trace, tmp_path):
    with pytest.raises(SelfxError, match="--projection"):
        fit(explainer, [trace], tmp_path / "run", SETTINGS)
    assert not (tmp_path / "run").exists()


def test_the_projection_is_kept_with_the_run_and_was_trained(run):
    projection = np.asarray(load_reader(run / "adapter" / "reader.safetensors").projection)
    assert projection.shape == (7, 32, 16)
    # Every planted vector is of layer 2: no other layer's matrix has a reason to move.
    lengths = np.linalg.norm(projection, axis=(1, 2))
    others = np.delete(lengths, 2)
    np.testing.assert_allclose(others, others[0], rtol=1e-3)
    assert abs(lengths[2] / others[0] - 1) > 1e-2


def test_loss_falls_and_the_lift_is_logged(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(np.isfinite(line["lift"]) for line in lines if "held_out_loss" in line)
    assert any("held_out_loss" in line for line in lines)


def test_it_answers_in_its_own_tokens(run, explainer, trace):
    examples = load_examples(trace, "test")[:4]
    asked = load_explainer(run, explainer)
    texts = answer(asked, examples, max_new_tokens=6)
    assert len(texts) == 4
    rotated = [e.vectors @ np.diag([-1.0] * 32).astype(np.float32) for e in examples]
    assert answer(asked, examples, np.stack(rotated), max_new_tokens=6) is not None


def test_vectors_of_the_explainers_own_width_are_not_what_it_reads(run, explainer, planted):
    with pytest.raises(SelfxError, match="width 16"):
        check_vectors(planted(2, width=16), load_explainer(run, explainer))


@pytest.mark.slow
def test_a_run_started_from_it_keeps_its_projection(run, explainer, trace, tmp_path):
    changes = {"trains": ("lora",), "projection": "", "start": str(run), "epochs": 1.0}
    fit(explainer, [trace], tmp_path / "next", Training(**(vars(SETTINGS) | changes)))
    before, after = (
        load_reader(folder / "adapter" / "reader.safetensors").projection
        for folder in (run, tmp_path / "next")
    )
    np.testing.assert_array_equal(before, after)
    shutil.rmtree(tmp_path / "next")
