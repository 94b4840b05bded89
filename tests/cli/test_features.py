"""Commands about features: what they write and print, and what they say to bad input."""

import contextlib
import gzip
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from selfx import cli as command
from selfx.cli import GROUPS
from selfx.features.exemplars.texts import read_texts
from selfx.models.decoder import forward

NESTED = [(group, name) for group, (_, commands) in GROUPS.items() for name in commands]
WORDS = " ".join(f"{word} thing{n}" for n, word in enumerate(["old sea", "new hut"] * 60))
SMALL = (
    *("--layers", 1, "--widths", 48, "--k", 4, "--tokens", 64 * 12, "--batch-size", 64),
    *("--context", 16, "--buffer", 256, "--rows", 8, "--save-every", 4),
)


def refused(done, *said):
    """Checks that a command ended as bad input must."""
    assert done.code == 2, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert "selfx: " in done.err
    for words in said:
        assert words in done.err, done.err


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(f" = One = \n{WORDS[:900]}\n = Two = \n{WORDS[900:]}\n")
    return path


# What the commands say of themselves


@pytest.mark.parametrize("names", NESTED, ids=" ".join)
def test_help_of_a_command_in_a_group_shows_an_example(cli, names):
    group, name = names
    assert group in cli("--help").out
    assert name in cli(group, "--help").out
    shown = cli(*names, "--help")
    assert shown.code == 0
    example = shown.out.partition("For example:")[2]
    assert example.startswith(f"\n  selfx {group} {name} ")
    assert "--json" in shown.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("sae",),
        ("export",),
        ("sae", "dance"),
        ("sae", "train"),
        ("sae", "train", "--model", "m", "--data", "d", "--out", "o", "--layers", "first"),
        ("sae", "train", "--model", "m", "--data", "d", "--out", "o", "--layers", 1, "--kind", "x"),
        ("sae", "inspect", "--model", "m", "--data", "d"),
    ],
)
def test_wrong_flags(cli, arguments):
    done = cli(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert "Traceback" not in done.err


# Training and inspecting


@contextlib.contextmanager
def _interrupted(title):
    """Progress of someone who presses Ctrl-C in the tenth step."""

    def report(done, total, note):
        if done >= 10:
            raise KeyboardInterrupt

    yield report


def numbers(folder, model, tokens, mask):
    """FVU, L0 and dead share of a TopK dictionary of layer 1, in NumPy, first tokens left out."""
    part = load_file(folder / "sae_weights.safetensors")
    seen = forward(model, tokens, mask=mask, capture=("resid_post",)).captures["resid_post"][1]
    counted = mask & (np.arange(tokens.shape[1]) > 0)
    x = np.asarray(seen, np.float64)[counted]
    f = np.maximum(x @ part["W_enc"] + part["b_enc"], 0)
    f = np.where(f >= np.sort(f, axis=1)[:, [-4]], f, 0)
    left = np.square(x - f @ part["W_dec"] - part["b_dec"]).sum()
    fvu = left / np.square(x - x.mean(axis=0)).sum()
    return fvu, (f > 0).sum(axis=1).mean(), (f == 0).all(axis=0).mean()


def test_a_stopped_training_goes_on_and_its_dictionary_is_inspected(
    cli, tiny_folder, tiny_lm, text, tmp_path, monkeypatch
):
    train = ("sae", "train", "--model", tiny_folder, "--data", text, "--out", tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr("selfx.progress.progress", _interrupted)
        stopped = cli(*train, *SMALL, "--json")
    assert (stopped.code, stopped.out) == (130, "")
    done = cli(*train, *SMALL, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["steps"], told["resumed_at"]) == (12, 8)
    assert [row["sae"] for row in told["saes"]] == ["layer1-n48-k4"]
    logged = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in logged] == [4, 8, 12]
    assert told["saes"] == json.loads(logged[-1])["saes"]
    for shown in ("training: 12/12", "FVU ", "L0 4", "dead "):
        assert shown in done.err

    refused(cli(*train, *SMALL, "--seed", 1), "seed: 0 there, 1 now", "--fresh")
    _check_inspection(cli, tiny_folder, tiny_lm, text, tmp_path / "run")


def _check_inspection(cli, folder, lm, text, run):
    inspect = ("sae", "inspect", run, "--model", folder, "--data", text, "--context", 16)
    done = cli(*inspect, "--limit", 1000, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    ids = [lm.tokenizer(each, add_special_tokens=False).input_ids for each in read_texts(text)]
    row = [*ids[0], lm.tokenizer.eos_token_id, *ids[1]]  # between documents, as `pack` has it
    tokens = np.zeros((-(-len(row) // 16), 16), np.int32)
    tokens.ravel()[: len(row)] = row
    mask = np.arange(tokens.size).reshape(tokens.shape) < len(row)
    fvu, l0, dead = numbers(run / "sae" / "layer1-n48-k4", lm.model, tokens, mask)
    assert told["tokens"] == len(row) - len(tokens)
    assert told["fvu"] == pytest.approx(fvu, rel=1e-3)
    assert told["l0"] == pytest.approx(l0, rel=1e-3)
    assert told["dead"] == pytest.approx(dead)
    assert told["layout"] == "saelens"

    shown = cli(*inspect, "--limit", 1000)  # without --json, a table for people
    assert shown.code == 0, shown.err
    for words in ("resid_post of layer 1", "loss recovered", "variance left", "declared"):
        assert words in shown.out


def test_numbers_that_are_not_finite_are_null_in_json(monkeypatch, capsys):
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Command:
        """Returns something. For example: selfx command"""

        json: bool = False

        def run(self):
            return {"a": float("nan"), "b": [1.5, {"c": float("inf")}]}

    monkeypatch.setitem(command.COMMANDS, "pull", Command)
    assert command.main(["pull", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5, {"c": None}]}


# Dictionaries that are at fault


class Hostile:
    """Unpickles by running a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def archive(folder):
    """A file laid out as torch's, whose pickle runs a command."""
    with zipfile.ZipFile(folder / "ae.pt", "w") as file:
        file.writestr("ae/data.pkl", pickle.dumps({"encoder.weight": Hostile(folder / "ran")}))


def dictionary(folder, width=32, **changes):
    """A SAELens folder of a dictionary of layer 1, some of its tensors other ones."""
    rng = np.random.default_rng(0)
    shapes = {"W_enc": (width, 8), "b_enc": (8,), "W_dec": (8, width), "b_dec": (width,)}
    tensors = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    save_file(tensors | changes, folder / "sae_weights.safetensors")
    config = {"architecture": "standard", "d_in": width, "d_sae": 8}
    config["metadata"] = {"hook_name": "blocks.1.hook_resid_post", "sae_lens_version": "6.0.0"}
    (folder / "cfg.json").write_text(json.dumps(config))


FAULTS = {
    "a pickle that runs a command": (archive, "not only data", "system"),
    "NaN weights": (
        lambda folder: dictionary(folder, W_enc=np.full((32, 8), np.nan, np.float32)),
        "not finite",
    ),
    "a decoder of another width": (
        lambda folder: dictionary(folder, W_dec=np.ones((8, 33), np.float32)),
        "w_dec [8, 33]",
        "expected: [8, 32]",
    ),
    "of another model": (lambda folder: dictionary(folder, width=24), "width 24", "32 wide"),
    "nothing": (lambda folder: None, "no dictionary"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_dictionary_at_fault_is_refused(cli, tiny_folder, text, tmp_path, fault):
    make, *said = FAULTS[fault]
    make(tmp_path)
    refused(cli("sae", "inspect", tmp_path, "--model", tiny_folder, "--data", text), *said)
    assert not (tmp_path / "ran").exists()


# Corpora at fault


CORPORA = {
    "none.txt": (None, "no file"),
    "a.csv": (b"words", "no file of texts", ".jsonl"),
    "empty.txt": (b"", "holds no text"),
    "blank.txt.gz": (gzip.compress(b" \n\n \t"), "holds no text"),
    "empty.jsonl": (b"", "holds no text"),
    "blank.jsonl": (b'{"text": " "}\n', "holds no text"),
    "cut.txt.gz": (gzip.compress(b"words " * 99)[:30], "cannot be read"),
    "latin.txt": ("é".encode("latin-1"), "cannot be read", "UTF-8"),
    "other.jsonl": (b'{"text": "a"}\n{"body": "b"}\n', ":2: no column 'text'", "there is body"),
    "broken.jsonl": (b'{"text": "a"\n', ":1: "),
    "list.jsonl": (b'["a"]\n', "a JSON object"),
    "number.jsonl": (b'{"text": 7}\n', "text = 7"),
    "no.parquet": (b"PAR1", "no readable parquet"),
}


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_at_fault_is_refused_before_anything_is_written(cli, tiny_folder, tmp_path, name):
    content, *said = CORPORA[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    out = tmp_path / "run"
    arguments = ("--model", tiny_folder, "--data", tmp_path / name)
    refused(cli("sae", "train", *arguments, "--out", out, "--layers", 1), name, *said)
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--layers", 9), "layer"),
        (("--layers", -1), "layer"),
        (("--layers", 1, "--site", "resid_pst"), "resid_pst"),
        (("--layers", 1, "--k", 5000), "of 4096 latents"),
        (("--layers", 1, "--out-site", "mlp_out"), "transcoder"),
        (("--layers", 1, "--context", 1), "context"),
        (("--layers", 1, "--bos", "yes"), "bos"),
        (("--layers", 1), "tokens of text"),
    ],
)
def test_settings_that_no_run_can_have(cli, tiny_folder, text, tmp_path, flags, said):
    train = ("sae", "train", "--model", tiny_folder, "--data", text, "--out", tmp_path / "run")
    refused(cli(*train, *flags), said)
    assert not (tmp_path / "run").exists()
