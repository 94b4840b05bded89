"""A projection comes back as it was saved, for its own two models alone."""

import dataclasses
import json

import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.explainer.projection.files import Projection, load_projection, save_projection

TARGET, EXPLAINER = "a" * 64, "b" * 64


@pytest.fixture
def projection():
    matrices = np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32)
    figures = ((0.5, 0.25, -0.125), (0.9, 0.8, 0.7), (1e-4, 1e-3, 1e-2))
    return Projection(matrices, (0, 2, 4), "ridge", TARGET, EXPLAINER, *figures)


def test_what_is_saved_comes_back_to_the_bit(projection, tmp_path):
    save_projection(projection, tmp_path / "new" / "folder")
    found = load_projection(tmp_path / "new" / "folder", TARGET, EXPLAINER)
    np.testing.assert_array_equal(found.matrices, projection.matrices)
    assert found.matrices.dtype == np.float32
    names = {each.name for each in dataclasses.fields(Projection)} - {"matrices"}
    assert {n: getattr(found, n) for n in names} == {n: getattr(projection, n) for n in names}


def test_another_models_projection_is_refused(projection, tmp_path):
    save_projection(projection, tmp_path)
    with pytest.raises(SelfxError, match="for the target with hash aaaaaaaaaaaa"):
        load_projection(tmp_path, "c" * 64, EXPLAINER)
    with pytest.raises(SelfxError, match="for the explainer with hash bbbbbbbbbbbb"):
        load_projection(tmp_path, TARGET, "c" * 64)


def test_a_projection_that_is_not_finite_is_neither_saved_nor_loaded(projection, tmp_path):
    save_projection(projection, tmp_path)
    projection.matrices[1, 2, 3] = np.nan
    with pytest.raises(SelfxError, match="layer 1 that is not finite"):
        save_projection(projection, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("layers", [(), (0, 2)])
def test_parts_that_do_not_fit_together_are_refused(projection, layers):
    with pytest.raises(SelfxError, match="matrices of shape"):
        dataclasses.replace(projection, layers=layers).check()
    with pytest.raises(SelfxError, match="figures of"):
        dataclasses.replace(projection, r2=(0.5,)).check()


def damage(folder, name):
    tensors, record = folder / "projection.safetensors", folder / "projection.json"
    about = json.loads(record.read_text())
    match name:
        case "no record":
            record.unlink()
        case "no tensors":
            tensors.unlink()
        case "cut":
            tensors.write_bytes(tensors.read_bytes()[:-8])
        case "another's tensors":
            tensors.write_bytes(tensors.read_bytes()[:-1] + b"\1")
        case "a field too few":
            record.write_text(json.dumps({k: v for k, v in about.items() if k != "layers"}))
        case "a field too many":
            record.write_text(json.dumps({**about, "more": 1}))
        case "a list":
            record.write_text("[]")


@pytest.mark.parametrize(
    "name",
    [
        "no record",
        "no tensors",
        "cut",
        "another's tensors",
        "a field too few",
        "a field too many",
        "a list",
    ],
)
def test_a_damaged_folder_is_refused(projection, tmp_path, name):
    save_projection(projection, tmp_path)
    damage(tmp_path, name)
    with pytest.raises(SelfxError):
        load_projection(tmp_path, TARGET, EXPLAINER)
