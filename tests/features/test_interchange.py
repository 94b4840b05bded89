"""Neuronpedia's export out and in, and the published archive: whole, or a clear message."""

import gzip
import json
import pickle

import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.features.descriptions.archive import (
    read_directions,
    read_excerpts,
    read_labels,
    read_places,
)
from selfx.features.descriptions.describe import Description
from selfx.features.descriptions.neuronpedia import Published, load_neuronpedia, save_neuronpedia
from selfx.features.exemplars.excerpts import Evidence, Excerpt, Pieces
from selfx.testing import tiny_tokenizer

IDS = {"model": "smollm2-135m", "source": "12-selfx-res-4k"}


def feature(index, rng):
    kinds = ("top", "top", "sample", "random", "random")
    texts = tuple(
        Excerpt(
            tuple(f" w{n} \n\"é" for n in range(size)),
            (rng.random(size) * (0 if number == 4 else 3)).astype(np.float32),
            kind,
            1,
            number,
            number * 7,
        )
        for number, (kind, size) in enumerate(zip(kinds, (5, 3, 9, 4, 2), strict=True))
    )  # fmt: skip
    evidence = Evidence(index, texts, (" dog", "cat"), ("bird",), 0.01)
    said = (Description("fires on dogs", "built-in", score=0.5), Description("dogs", "gpt"))
    return Published(index, evidence, said, rng.standard_normal(6).astype(np.float32), 3.25)


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return [feature(index, rng) for index in (0, 7, 2000)]


def test_what_is_exported_comes_back_the_same(features, tmp_path):
    folder = save_neuronpedia(features, tmp_path, **IDS, hook="blocks.12.hook_resid_post")
    assert folder == tmp_path / "v1" / IDS["model"] / IDS["source"]
    for got, wanted in zip(load_neuronpedia(folder), features, strict=True):
        assert (got.index, got.descriptions, got.peak) == (
            wanted.index,
            wanted.descriptions,
            wanted.peak,
        )
        np.testing.assert_array_equal(got.vector, wanted.vector)
        for name in ("promoted", "suppressed", "frequency"):
            assert getattr(got.evidence, name) == getattr(wanted.evidence, name)
        pairs = zip(got.evidence.excerpts, wanted.evidence.excerpts, strict=True)
        for one, other in pairs:
            np.testing.assert_array_equal(one.activations, other.activations)
            for name in ("pieces", "kind", "skip", "document", "start"):
                assert getattr(one, name) == getattr(other, name), name


def test_the_layout_is_neuronpedias(features, tmp_path):
    """Keys and values as the importers of the dashboards' exports expect them."""
    folder = save_neuronpedia(features, tmp_path, **IDS, hook="blocks.12.hook_resid_post")
    rows = {
        part: [
            json.loads(line)
            for line in gzip.decompress(
                (folder / part / "batch-0.jsonl.gz").read_bytes()
            ).splitlines()
        ]
        for part in ("features", "activations", "explanations")
    }
    first = rows["features"][0]
    assert (first["modelId"], first["layer"], first["index"]) == (*IDS.values(), "0")
    assert first["maxActApprox"] == 3.25
    assert first["pos_str"] == [" dog", "cat"]
    top, *_, random = rows["activations"][:5]
    assert (top["binMin"], top["binMax"], top["binContains"]) == (-1, 3.25, -1)
    assert (random["binMin"], random["binMax"], random["binContains"]) == (0, 0, 0)
    assert top["values"][top["maxValueTokenIndex"]] == top["maxValue"] == max(top["values"])
    assert len(top["tokens"]) == len(top["values"])
    assert len({row["id"] for row in rows["activations"]}) == len(rows["activations"])
    assert rows["explanations"][1]["explanationModelName"] == "gpt"


def test_the_same_features_give_the_same_bytes(features, tmp_path):
    one, other = (save_neuronpedia(features, tmp_path / name, **IDS) for name in "ab")
    files = sorted(path.relative_to(one) for path in one.rglob("*.*"))
    assert len(files) == 5
    assert all((one / path).read_bytes() == (other / path).read_bytes() for path in files)


def test_many_features_are_several_batches_in_order(tmp_path):
    rng = np.random.default_rng(0)
    many = [Published(i, Evidence(i, (), ()), (), rng.standard_normal(2)) for i in range(1030)]
    folder = save_neuronpedia(many, tmp_path, **IDS)
    assert len(list((folder / "features").iterdir())) == 2
    assert [one.index for one in load_neuronpedia(folder)] == list(range(1030))
    save_neuronpedia(many[:3], tmp_path, **IDS)
    assert len(load_neuronpedia(folder)) == 3, "what a larger export left is gone"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"index": "0", "tokens": ["a"], "values": [1, 2]}', "2 values for 1 tokens"),
        ('{"index": "0", "tokens": ["a"], "values": [NaN]}', "finite number"),
        ('{"index": "0", "tokens": ["a"], "values": ["x"]}', "tokens and their values"),
        ('{"index": "0", "values": [1]}', "tokens and their values"),
        ('{"tokens": []}', "no index"),
        ("[1]", "no index"),
        ("nonsense", "cannot be read"),
    ],
)
def test_a_broken_line_is_named(features, tmp_path, line, message):
    folder = save_neuronpedia(features, tmp_path, **IDS)
    (folder / "activations" / "batch-1.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(SelfxError, match=message) as caught:
        load_neuronpedia(folder)
    assert "batch-1.jsonl" in str(caught.value)


def test_a_batch_that_was_cut_off_and_a_folder_without_any_are_refused(features, tmp_path):
    folder = save_neuronpedia(features, tmp_path, **IDS)
    path = folder / "features" / "batch-0.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SelfxError, match="cannot be read"):
        load_neuronpedia(folder)
    with pytest.raises(SelfxError, match="no features in"):
        load_neuronpedia(tmp_path / "nowhere")
    with pytest.raises(SelfxError, match="the name of a folder"):
        save_neuronpedia(features, tmp_path, model="../up", source="x")


# The published archive ------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path):
    """The documented layout, written by pickle and NumPy alone: two layers, five features."""
    (tmp_path / "features").mkdir()
    (tmp_path / "explanations").mkdir()
    (tmp_path / "test" / "layer3").mkdir(parents=True)
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((8, 5)).astype(np.float32)
    (tmp_path / "features" / "layer_3.pkl").write_bytes(pickle.dumps(matrix))
    places = [(3, 4), (5, 0), (3, 1)]
    rows = [
        (place, {"chosen_label": f"about {place}", "all_labels": ["other", f"about {place}"],
                 "all_label_scores": {"other": 0.25, f"about {place}": None}})
        for place in places
    ]  # fmt: skip
    dump(tmp_path, "test_explanations", rows)
    dump(tmp_path, "test_layer_feature_idxs", places)
    ids = np.zeros((2, 3, 6), np.int64)
    ids[..., 2:] = rng.integers(70, 90, (2, 3, 4))
    acts = rng.standard_normal((2, 3, 6)).astype(np.float16)
    np.save(tmp_path / "test" / "layer3" / "max_seq_ids.npy", ids)
    np.save(tmp_path / "test" / "layer3" / "max_seq_acts.npy", acts)
    return tmp_path


def dump(folder, name, value):
    (folder / "explanations" / f"{name}.pkl").write_bytes(pickle.dumps(value))


def test_the_archive_is_read_as_documented(archive):
    labels = read_labels(archive, "test")
    assert [(one.layer, one.index) for one in labels] == [(3, 4), (5, 0), (3, 1)]
    assert [said.text for said in labels[0].descriptions] == ["about (3, 4)", "other"]
    assert [said.score for said in labels[0].descriptions] == [None, 0.25]
    directions = read_directions(archive, 3, width=8)
    assert directions.shape == (5, 8), "columns of the file are rows here"
    matrix = pickle.loads((archive / "features" / "layer_3.pkl").read_bytes())
    np.testing.assert_array_equal(directions[4], matrix[:, 4])
    places = read_places(archive, "test")
    assert places == {(3, 4): 0, (5, 0): 0, (3, 1): 1}, "rows count within a layer"


def test_padding_on_the_left_is_taken_off_ids_and_activations_alike(archive):
    at = archive / "test" / "layer3"
    ids, acts = (np.load(at / f"max_seq_{name}.npy") for name in ("ids", "acts"))
    pieces = Pieces(tiny_tokenizer())
    found = read_excerpts(archive, "test", 3, 1, pieces, pad_id=0, most=2)
    assert len(found) == 2
    for rank, excerpt in enumerate(found):
        assert excerpt.ids == tuple(ids[1, rank, 2:].tolist())
        assert excerpt.pieces == pieces(excerpt.ids)
        np.testing.assert_array_equal(excerpt.activations, acts[1, rank, 2:])


class Hostile:
    """Runs a command when a plain unpickler reads it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


def test_a_hostile_pickle_is_refused_and_nothing_runs(archive):
    mark = archive / "ran"
    for name in ("test_explanations", "test_layer_feature_idxs"):
        dump(archive, name, [Hostile(mark)])
    (archive / "features" / "layer_3.pkl").write_bytes(pickle.dumps(Hostile(mark)))
    for read in (
        lambda: read_labels(archive, "test"),
        lambda: read_places(archive, "test"),
        lambda: read_directions(archive, 3, 8),
    ):
        with pytest.raises(SelfxError, match="not only data"):
            read()
    assert not mark.exists()


def test_objects_in_arrays_are_not_unpickled(archive):
    mark = archive / "ran"
    value = np.array([[[Hostile(mark)]]], dtype=object)
    np.save(archive / "test" / "layer3" / "max_seq_acts.npy", value, allow_pickle=True)
    with pytest.raises(SelfxError, match="cannot be read"):
        read_excerpts(archive, "test", 3, 0, Pieces(tiny_tokenizer()), pad_id=0)
    assert not mark.exists()


def test_what_does_not_fit_is_refused(archive):
    pieces = Pieces(tiny_tokenizer())
    with pytest.raises(SelfxError, match=r"expected: \[9, n\]"):
        read_directions(archive, 3, width=9)
    broken = np.full((8, 5), np.nan, np.float32)
    (archive / "features" / "layer_3.pkl").write_bytes(pickle.dumps(broken))
    with pytest.raises(SelfxError, match="feature 0 has a number that is not finite"):
        read_directions(archive, 3, width=8)
    with pytest.raises(SelfxError, match="no file"):
        read_labels(archive, "train")
    with pytest.raises(SelfxError, match="split"):
        read_labels(archive, "../test")
    with pytest.raises(SelfxError, match="row 2"):
        read_excerpts(archive, "test", 3, 2, pieces, pad_id=0)
    dump(archive, "test_explanations", [(3, "x")])
    with pytest.raises(SelfxError, match="no description"):
        read_labels(archive, "test")
