"""`selfx explain`: one question now, what is said, what is true, and what cannot be asked."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import selfx
from selfx.explainer import lora
from selfx.explainer.answer import answer, load_explainer
from selfx.explainer.likelihood import log_probabilities
from selfx.explainer.lora import Lora
from selfx.explainer.run import Run
from selfx.explainer.trained import Trained
from selfx.explainer.training import Training
from selfx.models.decoder import forward
from selfx.tasks.example import SLOT
from selfx.tasks.now import of_ablation, of_features, of_reading
from selfx.tasks.store import load_examples

SETTINGS = Training(rank=2, alpha=2.0, style="plain", injection="add", strength=5.0)
SHORT = ("--max-new-tokens", 4)
SEA = ("--text", "the old sea", "--at", "old")
PATCH = (*SEA, "--source-text", "a new hut", "--source-at", -1)
HINT = ("--question", "Two?", "--choices", "a", "b", "c", "d", "--hint", "B")


@pytest.fixture(scope="module")
def write_run(tmp_path_factory, tiny_lm, tiny):
    """A function: a finished run of some tasks, whose adapters are drawn, not trained."""
    rng = np.random.default_rng(3)
    fresh = lora.init(tiny.config, rank=2, alpha=2.0, key=jax.random.key(0))
    drawn = {
        name: Lora(x.a, jnp.asarray(0.3 * rng.standard_normal(x.b.shape), jnp.float32), x.scale)
        for name, x in fresh.items()
    }

    def write(*tasks, finished=True, **target):
        told = {"target": tiny_lm.name, "target_hash": tiny_lm.hash, **target}
        run = Run(tmp_path_factory.mktemp("runs") / "run")
        record = {
            "version": selfx.__version__,
            "explainer": tiny_lm.name,
            "explainer_hash": tiny_lm.hash,
            "quantize": "",
            "origin": {"width": 32, "layers": 4},
            "traces": [{"folder": task, "digest": "", "task": task, **told} for task in tasks],
            "training": dataclasses.asdict(SETTINGS),
        }
        run.open(json.loads(json.dumps(record)), fresh=False)
        if finished:
            run.save_result(Trained(lora=drawn), None, SETTINGS, tiny_lm)
        return run.path

    return write


@pytest.fixture(scope="module")
def run(write_run):
    """A run that knows everything."""
    return write_run(
        "activation-patching", "activation-reading", "input-ablation", "feature-description"
    )


@pytest.fixture
def ask(cli, run):
    """A function: what is told, as JSON, of a question to that run."""

    def told(*arguments, run=run):
        done = cli("explain", "--explainer", run, *SHORT, *arguments, "--json")
        assert done.code == 0, done.err
        assert len(done.out.splitlines()) == 1
        return json.loads(done.out)

    return told


@pytest.fixture(scope="module")
def residual(tiny_lm):
    """A function: the residual of the tiny model at a place, `[l, d]`."""

    def read(text, place):
        tokens = tiny_lm.tokenizer(text, return_tensors="np").input_ids
        out = forward(tiny_lm.model, tokens, capture=("resid_post",))
        return np.asarray(out.captures["resid_post"][:, 0, place])

    return read


@pytest.fixture(scope="module")
def vector_file(tmp_path_factory, residual):
    path = tmp_path_factory.mktemp("vectors") / "v.npy"
    np.save(path, residual("the old sea", 6)[2])
    return path


# What is said


def test_a_residual_is_asked_about_and_found_out(ask, run, residual, tiny_lm):
    asked = (*SEA, "--layer", 2, 1, "--ask", "here", "next", "--task", "activation-reading")
    told = ask(*asked, "--verify")
    assert told["run"] == str(run)
    assert told["warnings"] == []
    asks = [each["about"]["ask"] for each in told["answers"]]
    assert asks == ["here", "next"] * 2
    here, following, *_ = told["answers"]
    assert (here["about"]["position"], here["about"]["token"]) == (6, "d")
    assert here["question"] == f"At layer 2, {SLOT} was read at the token"
    assert here["verified"]["answer"] == "d"
    logits = forward(tiny_lm.model, np.array([tiny_lm.tokenizer("the old").input_ids])).logits
    said = tiny_lm.tokenizer.decode([int(logits[0, -1].argmax())])
    assert following["verified"]["next"] == said
    _check_sure(told["answers"], load_explainer(run), residual("the old sea", 6))


def _check_sure(answers, explainer, states):
    """Answer and probabilities are what the explainer gives for the vector read here."""
    examples = [
        of_reading._example(about["ask"], tuple(about["layers"]), states[about["layers"]])
        for about in (each["about"] for each in answers)
    ]
    texts = [each["answer"] for each in answers]
    assert texts == answer(explainer, examples, max_new_tokens=4, batch_size=4)
    zeros = np.zeros((len(texts), 1, 32), np.float32)
    own, counts = log_probabilities(explainer, examples, texts, batch_size=4)
    blind, _ = log_probabilities(explainer, examples, texts, zeros, batch_size=4)
    for row, each in enumerate(answers):
        np.testing.assert_allclose(each["log_probability"], own[row], rtol=1e-4)
        np.testing.assert_allclose(each["probability"], np.exp(own[row]), rtol=1e-2)
        without = each["without_vector"]["log_probability"]
        np.testing.assert_allclose(without, blind[row], rtol=1e-4)
        assert each["tokens"] == counts[row]
        assert abs(without - own[row]) > 0.01


def test_a_patch_is_run_for_real(ask, residual, tiny_lm):
    (told,) = ask(*PATCH, "--layers", "1-2", "--verify")["answers"]
    assert told["task"] == "activation-patching"
    assert "at layer 1, 2 is added to tokens <d>" in told["question"]
    vector = residual("a new hut", -1)[1:3].mean(axis=0)
    tokens = tiny_lm.tokenizer("the old sea", return_tensors="np").input_ids
    edits = selfx.patch("resid_post", vector, layers=[1, 2], positions=6)
    after = forward(tiny_lm.model, tokens, edits=edits).logits[0, -1]
    before = forward(tiny_lm.model, tokens).logits[0, -1]
    pieces = [tiny_lm.tokenizer.decode([int(each.argmax())]) for each in (before, after)]
    assert [told["verified"]["before"], told["verified"]["after"]] == pieces
    top = np.sort(np.asarray(after))[::-1]
    np.testing.assert_allclose(told["verified"]["margin"], top[0] - top[1], atol=1e-3)
    assert told["verified"]["right"] is False


def test_a_hint_is_asked_for_real(ask, monkeypatch):
    monkeypatch.setattr(of_ablation, "_measured", lambda desk: np.array([0, 9, 0, 0], np.float32))
    (told,) = ask(*HINT, "--verify")["answers"]
    assert told["task"] == "input-ablation"
    assert told["without_vector"] is None
    assert told["about"]["hint"] == "B"
    facts = told["verified"]
    assert "B" not in (facts["with_hint"], facts["without_hint"])  # the calibration says so
    for name in ("with_hint", "without_hint"):
        assert facts[name] == max(facts[f"scores_{name}"], key=facts[f"scores_{name}"].get)


def test_a_saved_vector_is_the_residual_that_it_was(ask, vector_file, tmp_path, residual):
    at_place = ask(*SEA, "--layer", 2, "--ask", "lens", "--task", "activation-reading", "--verify")
    several = tmp_path / "v.safetensors"
    other = np.ones(32, np.float32)
    save_file({"own": residual("the old sea", 6)[2], "other": other}, several)
    for spec in (vector_file, f"{several}:own"):
        told = ask(
            *("--vector", spec, "--layer", 2, "--ask", "lens", "--verify"),
            *("--task", "activation-reading"),
        )
        assert told["answers"][0]["answer"] == at_place["answers"][0]["answer"]
        assert told["answers"][0]["verified"]["lens"] == at_place["answers"][0]["verified"]["lens"]
    (told,) = ask("--vector", vector_file, "--layer", 2, "--ask", "here", "--verify")["answers"]
    assert told["verified"]["right"] is None
    assert "only the vector is known" in told["verified"]["note"]


def test_a_feature_is_scored(cli, ask, sae_folder, monkeypatch):
    monkeypatch.setattr(of_features, "WINDOWS", 8)
    monkeypatch.setattr(of_features, "CONTEXT", 16)
    (told,) = ask("--feature", f"{sae_folder}:3", "--verify")["answers"]
    assert told["about"] == {"feature": f"{sae_folder}:3", "layer": 2}
    assert told["verified"]["right"] is None
    assert set(told["verified"]) >= {"simulation", "detection", "frequency", "peaks"}
    assert told["verified"]["answer"].startswith("Fires")


@pytest.fixture(scope="module")
def sae_folder(tmp_path_factory):
    """A random dictionary of layer 2, and a function that writes others."""
    return write_sae(tmp_path_factory.mktemp("sae"))


def write_sae(folder, width=32, layer=2):
    rng = np.random.default_rng(0)
    shapes = {"W_enc": (width, 8), "W_dec": (8, width), "b_dec": (width,)}
    tensors = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    tensors["b_enc"] = np.full(8, 0.5, np.float32)
    save_file(tensors, folder / "sae_weights.safetensors")
    config = {"architecture": "standard", "d_in": width, "d_sae": 8}
    config["metadata"] = {
        "hook_name": f"blocks.{layer}.hook_resid_post",
        "sae_lens_version": "6.0.0",
    }
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def test_a_file_is_answered_as_its_lines_are_alone(ask, tmp_path, vector_file):
    rows = [
        {"text": "the old sea", "at": "old", "layer": 3, "ask": "here"},
        {"vector": str(vector_file), "layer": 2, "ask": "lens"},
        {"text": "a", "at": 0, "layer": 1, "ask": ["next", "here"]},
    ]
    rows = [{**row, "task": "activation-reading"} for row in rows]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = ask("--file", file, "--verify")["answers"]
    alone = []
    for number, row in enumerate(rows):
        one = tmp_path / f"{number}.jsonl"
        one.write_text(json.dumps(row) + "\n")
        alone += ask("--file", one, "--verify")["answers"]
    assert [each["about"] for each in told] == [each["about"] for each in alone]
    assert [each["answer"] for each in told] == [each["answer"] for each in alone]
    for both, single in zip(told, alone, strict=True):
        np.testing.assert_allclose(both["log_probability"], single["log_probability"], rtol=1e-4)
        assert both["verified"]["answer"] == single["verified"]["answer"]


def test_a_traces_example_needs_no_target(ask, write_run, planted_trace, tmp_path):
    """The truth is in the trace: its target need not be there any more."""
    gone = write_run("activation-patching", target="gone", target_hash="0" * 64)
    trace = planted_trace(tmp_path / "trace", train=8, test=8)
    examples = load_examples(trace, "test")
    for spec, example in ((trace, examples[0]), (f"{trace}:{examples[3].id}", examples[3])):
        told = ask("--example", spec, "--verify", run=gone)
        assert told["warnings"] == []
        (each,) = told["answers"]
        assert each["question"] == example.question
        assert each["verified"]["answer"] == example.answer
        assert each["verified"]["right"] is False
        assert each["about"]["example"] == f"{trace}:{example.id}"
    assert "another target" in ask("--example", trace)["warnings"][0]


def test_what_people_read(cli, run):
    done = cli(
        *("explain", "--explainer", run, *SHORT, *SEA, "--layer", 2, "--verify"),
        *("--task", "activation-reading", "--ask", "here"),
    )
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("activation-reading: ask 'here', text 'the old sea', position 6")
    assert [line.split()[0] for line in lines[1:]] == [
        *("asked", "answer", "likely", "zeros", "truth", "measured", "likely", "verdict")
    ]
    assert lines[-1].split() == ["verdict", "wrong"]
    quiet = cli("explain", "--explainer", run, *SHORT, *PATCH, "--layer", 2).out
    assert "truth" not in quiet
    assert "verdict" not in quiet


def test_a_task_that_the_run_never_saw(ask, cli, write_run):
    reading = write_run("activation-reading")
    told = ask(*PATCH, "--layer", 1, "--task", "activation-patching", run=reading)
    assert told["warnings"] == ["the run was not trained on activation-patching"]
    done = cli("explain", "--explainer", reading, *PATCH, "--layer", 1)
    assert done.code == 2
    assert "--task activation-patching, which the run was not trained on" in done.err


def test_a_target_that_has_moved(ask, cli, write_run, tiny_lm, tiny_folder, write_tiny, tmp_path):
    """Found by --target, if its weights are the same; a run of other weights is told apart."""
    other = write_tiny(seed=5)
    hashed = selfx.load(other).hash
    moved = shutil.copytree(other, tmp_path / "moved")
    run = write_run("activation-patching", target=str(tmp_path / "gone"), target_hash=hashed)
    asked = ("explain", "--explainer", run, *PATCH, "--layer", 1)
    lost = cli(*asked)
    assert lost.code == 2
    assert "--target MODEL, where it is now" in lost.err
    wrong = cli(*asked, "--target", tiny_folder)
    assert wrong.code == 2
    assert tiny_lm.hash[:12] in wrong.err
    assert hashed[:12] in wrong.err
    (told,) = ask(*PATCH, "--layer", 1, "--target", moved, "--verify", run=run)["answers"]
    assert told["verified"]["before"]


# What cannot be asked


REFUSED = {
    "nothing": ((), "nothing to ask"),
    "an empty text": (("--text", "", "--at", 0, "--layer", 1), "text ''"),
    "no place": (("--text", "a b", "--layer", 1), "--text --at --layer"),
    "no layer": (SEA, "--layer"),
    "a token that is not there": (("--text", "a b", "--at", "c", "--layer", 1), "0 'a', 1 ' '"),
    "a third of two": (("--text", "a a", "--at", "a:3", "--layer", 1), "is there 2 times"),
    "a number too high": (("--text", "a b", "--at", 3, "--layer", 1), "3 tokens"),
    "a layer too deep": ((*SEA, "--layer", 4), "0 to 3"),
    "layers too deep": ((*PATCH, "--layers", "2-4"), "0 to 3"),
    "layers the wrong way": ((*PATCH, "--layers", "3-2"), "such as 12 or 8-15"),
    "a source without a place": ((*SEA, "--source-text", "b", "--layer", 1), "--source-at"),
    "two ways": ((*SEA, "--layer", 1, "--feature", "x:1"), "--feature"),
    "a question without a hint": (HINT[:-2], "--hint"),
    "three choices": ((*HINT[:3], "a", "b", "c", "--hint", "A"), "four texts"),
    "a prompt without a hint": (("--text", "Two?"), "without a hint"),
    "a text too long": (("--text", "a" * 600, "--at", 0, "--layer", 1), "600 tokens"),
    "no dictionary": (("--feature", "nowhere:1"), "nowhere"),
    "no number": (("--feature", "nowhere"), "DICTIONARY:INDEX"),
    "a file and more": (("--file", "f.jsonl", *SEA), "--file with --text"),
    "no file": (("--file", "nowhere.jsonl"), "nowhere.jsonl"),
    "no trace": (("--example", "nowhere"), "nowhere"),
    "no vector": (("--vector", "nowhere.npy", "--layer", 1), "no file nowhere.npy"),
    "no vector's file": (("--vector", "v.txt", "--layer", 1), "FILE.npy"),
    "descriptions of two layers": (
        (*SEA, "--layers", "1-2", "--task", "feature-description"),
        "one layer for each",
    ),
}


def refused(done, *said):
    assert done.code == 2, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert "selfx: " in done.err
    for words in said:
        assert words in done.err, done.err


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_asked_is_refused(cli, run, case):
    arguments, said = REFUSED[case]
    refused(cli("explain", "--explainer", run, *SHORT, *arguments), said)


VECTORS = {
    "another width": (np.ones(33, np.float32), "shape [33]", "[32]"),
    "two of them": (np.ones((2, 32), np.float32), "shape [2, 32]"),
    "NaN": (np.full(32, np.nan, np.float32), "not finite"),
    "zeros": (np.zeros(32, np.float32), "all zeros"),
    "words": (np.array(["a"] * 32), "numbers"),
    "objects": (np.array([None] * 32, dtype=object), "cannot be read"),
}


@pytest.mark.parametrize("case", VECTORS)
def test_a_vector_at_fault_is_refused(cli, run, tmp_path, case):
    array, *said = VECTORS[case]
    np.save(tmp_path / "v.npy", array, allow_pickle=True)
    refused(cli("explain", "--explainer", run, "--vector", tmp_path / "v.npy", "--layer", 1), *said)


def test_tensors_are_named(cli, run, tmp_path):
    path = tmp_path / "v.safetensors"
    save_file({"a": np.ones(32, np.float32), "b": np.ones(32, np.float32)}, path)
    asked = ("explain", "--explainer", run, "--layer", 1, "--vector")
    refused(cli(*asked, path), "2 tensors", "one of a, b")
    refused(cli(*asked, f"{path}:c"), "tensor 'c'", "one of a, b")
    path.write_bytes(b"nothing")
    refused(cli(*asked, path), "cannot be read")


def test_a_dictionary_that_does_not_fit_is_refused(cli, run, tmp_path):
    asked = ("explain", "--explainer", run, "--feature")
    wide, deep, fits = (tmp_path / name for name in ("wide", "deep", "fits"))
    for folder in (wide, deep, fits):
        folder.mkdir()
    refused(cli(*asked, f"{write_sae(wide, width=24)}:1"), "width 24", "32")
    refused(cli(*asked, f"{write_sae(deep, layer=9)}:1"), "layer 9", "0 to 3")
    refused(cli(*asked, f"{write_sae(fits)}:8"), "feature 8", "0 to 7")
    refused(cli(*asked, f"{tmp_path}:8"), "3 dictionaries", f"{tmp_path}/...:INDEX")


def test_an_example_of_the_training_split_is_refused(cli, run, planted_trace, tmp_path):
    trace = planted_trace(tmp_path / "trace", train=4, test=4)
    asked = ("explain", "--explainer", run, "--example")
    refused(cli(*asked, f"{trace}:train-1"), "may have learned", "test-0")
    refused(cli(*asked, f"{trace}:nobody"), "example 'nobody'")
    refused(cli(*asked, trace, "--at", 1), "--example with --at")
    refused(cli(*asked, trace, "--task", "input-ablation"), "an example of activation-patching")


def test_a_run_that_is_none_or_not_finished(cli, write_run, tiny_folder, tmp_path):
    asked = (*PATCH, "--layer", 1)
    unfinished = write_run("activation-patching", finished=False)
    refused(cli("explain", "--explainer", unfinished, *asked), "not finished")
    for folder in (tmp_path, tiny_folder):
        refused(cli("explain", "--explainer", folder, *asked), "no run in")
