"""A trace of descriptions as Neuronpedia has it: through the command, read back line by line."""

import gzip
import json

import pyarrow as pa
import pytest

from selfx.files import write_json
from selfx.tasks.schema import FEATURES, SCHEMAS
from selfx.tasks.store import write_shards


def described(number, split, layer, dictionary):
    excerpt = {"pieces": [" a", " cat"], "activations": [0.0, 2.5], "kind": "top"}
    return {
        "layer": layer,
        "feature_idx": number,
        "chosen_label": f"cats, {number}",
        "vector": [float(number)] * 32,
        "site": "resid_post",
        "dictionary": dictionary,
        "describer": "built-in",
        "peak": 4.0,
        "frequency": 0.25,
        "promoted": ["dog"],
        "suppressed": ["car"],
        "excerpts": [excerpt | {"ids": [6, 7], "skip": 1, "document": number, "start": 0}],
        "id": f"{split}-{layer}-{number}",
        "split": split,
    }


@pytest.fixture
def described_trace(tmp_path):
    """A trace of layers 6 and 14; one feature has a second description."""
    train = [described(n, "train", 6, "layer6-n64-k4") for n in (5, 3)]
    train.append(train[0] | {"id": "again", "chosen_label": "kittens"})
    test = [described(7, "test", layer, f"layer{layer}-n64-k4") for layer in (6, 14)]
    tables = {
        split: [pa.Table.from_pylist(rows, SCHEMAS[FEATURES])]
        for split, rows in {"train": train, "test": test}.items()
    }
    folder = tmp_path / "trace"
    folder.mkdir()
    write_shards(folder, SCHEMAS[FEATURES], tables)
    write_json(folder / "trace.json", {"task": FEATURES, "target": "org/tiny", "texts": "d/a.txt"})
    return folder


def lines(path):
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_a_trace_becomes_an_export_with_a_folder_a_layer(cli, described_trace, tmp_path):
    export = ("export", "neuronpedia", "--data", described_trace, "--out", tmp_path / "out")
    done = cli(*export, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    root = tmp_path / "out" / "v1" / "tiny"
    assert told["sources"] == [str(root / "6-selfx-n64-k4"), str(root / "14-selfx-n64-k4")]
    assert told["features"] == 4
    features = lines(root / "6-selfx-n64-k4" / "features" / "batch-0.jsonl.gz")
    assert [row["index"] for row in features] == ["3", "5", "7"]
    assert features[1]["vector"] == [5.0] * 32
    assert (features[1]["maxActApprox"], features[1]["frac_nonzero"]) == (4.0, 0.25)
    assert (features[1]["pos_str"], features[1]["neg_str"]) == (["dog"], ["car"])
    assert features[1]["hookName"] == "blocks.6.hook_resid_post"
    said = lines(root / "6-selfx-n64-k4" / "explanations" / "batch-0.jsonl.gz")
    assert [(row["index"], row["description"]) for row in said] == [
        *(("3", "cats, 3"), ("5", "cats, 5"), ("5", "kittens"), ("7", "cats, 7"))
    ]
    (shown,) = lines(root / "14-selfx-n64-k4" / "activations" / "batch-0.jsonl.gz")
    assert (shown["tokens"], shown["values"]) == ([" a", " cat"], [0.0, 2.5])
    assert shown["dataSource"] == "a.txt"

    done = cli(*export, "--model", "other", "--name", "mine", "--split", "test")
    assert done.code == 0, done.err
    assert "features: 2" in done.out
    assert (tmp_path / "out" / "v1" / "other" / "6-mine-n64-k4" / "source.jsonl").exists()


def test_what_is_no_trace_of_descriptions_is_not_exported(
    cli, described_trace, planted_trace, tmp_path
):
    export = ("export", "neuronpedia", "--out", tmp_path / "out", "--data")
    other = planted_trace(tmp_path / "patching", train=4, test=4)
    (described_trace / "test-00000.parquet").write_bytes(b"PAR1")
    faults = {
        tmp_path / "nowhere": "no trace in",
        other: "holds activation-patching",
        described_trace: "test-00000.parquet",
    }
    for folder, said in faults.items():
        done = cli(*export, folder)
        assert (done.code, done.out) == (2, "")
        assert said in done.err
        assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()
