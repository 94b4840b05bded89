"""The doctor's own instruments: gaps, limits, the reader of raw tensors, identities, the report."""

import json
import types

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from selfx.doctor.compare import FLOAT32, Gap, gap, judged, limit
from selfx.doctor.identities import identities
from selfx.doctor.raw import RawFolder
from selfx.doctor.report import Report, skipped, stated
from selfx.doctor.run import examine, examine_decoder
from selfx.doctor.trial import Trial
from selfx.errors import SelfxError
from selfx.models.config import Config
from selfx.testing import tiny_model, tiny_tokenizer

AXES = ("layer", "position")


def test_a_gap_is_relative_to_its_own_place():
    want = np.array([[[100.0, 1], [1, 2]], [[4, 4], [8, 1]]])
    got = want.copy()
    got[0, 0, 1] += 1  # 1 of 100
    got[0, 1, 0] += 1  # 1 of 2
    assert gap(got, want, AXES, AXES) == Gap(0.5, "layer 0, position 1")
    assert gap(got, want, AXES, ("layer",)).size == 0.01
    assert gap(want, want, AXES, AXES) == Gap(0.0)
    assert gap(got, want, AXES, AXES, scale=10 * want).size == 0.05


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_infinitely_far(bad):
    want = np.ones((1, 2, 3))
    got = want.copy()
    got[0, 1, 2] = bad
    assert gap(got, want, AXES, AXES) == Gap(np.inf, "layer 0, position 1")
    assert gap(want[:, :1], want, AXES, AXES).size == np.inf
    assert gap(want, np.zeros_like(want), AXES, AXES).size == np.inf


def test_limits():
    assert limit(jnp.float32) == limit(jnp.float32, 50) == FLOAT32
    assert limit(jnp.bfloat16) == 4 * 2**-7
    assert limit(jnp.float16, 9) == 12 * 2**-10


def test_tensors_are_those_of_the_safetensors_library(tmp_path):
    """In every type, from one file or from those that an index names."""
    rng = np.random.default_rng(0)
    types_ = {"a": "float32", "b": "float16", "c": "float64", "d": jnp.bfloat16}
    tensors = {name: rng.standard_normal((3, 4)).astype(kind) for name, kind in types_.items()}
    tensors["one"] = np.ones((), "float32")
    save_file(tensors, tmp_path / "model.safetensors")
    raw = RawFolder(tmp_path)
    for name, want in load_file(tmp_path / "model.safetensors").items():
        np.testing.assert_array_equal(raw.read(name).reshape(want.shape), want)
        assert raw.read(name).dtype == want.dtype
    with pytest.raises(SelfxError, match="no tensor e"):
        raw.read("e")
    (tmp_path / "model.safetensors").unlink()
    halves = {"x.safetensors": {"a", "b"}, "y.safetensors": {"c", "d"}}
    for file, names in halves.items():
        save_file({name: tensors[name] for name in names}, tmp_path / file)
    table = {name: file for file, names in halves.items() for name in names}
    index = {"metadata": {}, "weight_map": table}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    raw = RawFolder(tmp_path)
    for name in table:
        np.testing.assert_array_equal(raw.read(name), tensors[name])


BROKEN_BY = {
    "embeddings": {"stream"},
    "resid_pre": {"stream", "resid_mid"},
    "value": {"z"},
    "attn_probs": {"z"},
    "z": {"z", "o(z)"},
    "attn_out": {"o(z)"},
    "attn_out_post": {"resid_mid"},
    "resid_mid": {"resid_mid", "resid_post"},
    "mlp_act": {"down(mlp_act)"},
    "mlp_out": {"down(mlp_act)"},
    "mlp_out_post": {"resid_post"},
    "resid_post": {"resid_post", "head"},
    "logits": {"head"},
}


@pytest.fixture(scope="module")
def trial():
    tokens = np.random.default_rng(3).integers(6, 262, (2, 9))
    return Trial(tiny_model(), tokens)


@pytest.mark.parametrize("site", BROKEN_BY)
def test_every_identity_notices_a_capture_that_lies(trial, site):
    """One number in one capture of the last layer is off by a thousandth of its size."""
    spoiled = {name: x.copy() for name, x in trial.captures.items()}
    x = spoiled[site][-1] if site not in ("embeddings", "logits") else spoiled[site]
    place = np.unravel_index(np.abs(x).argmax(), x.shape)
    x[place] *= 1.001
    checks = identities(types.SimpleNamespace(model=trial.model, captures=spoiled))
    failed = {check.name.removeprefix("identity: ") for check in checks if check.failed}
    assert failed == BROKEN_BY[site]


def test_identities_hold_where_nobody_lies(trial):
    assert not any(check.failed for check in identities(trial))


def test_a_report_in_json_and_in_words():
    checks = (
        judged("one", "about one", Gap(1e-7, "layer 3"), 5e-5, "never shown"),
        judged("two", "about two", Gap(np.inf, "row 1"), 5e-5, "the base is 2"),
        skipped("three", "about three", "no torch"),
        stated("four", "about four", [], "adds nothing"),
    )
    report = Report("m", "float32", 64, checks)
    found = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (found["model"], found["ok"], found["tokens"]) == ("m", False, 64)
    one, two, three, four = found["checks"]
    assert (one["outcome"], one["note"], one["where"]) == ("passed", "", "layer 3")
    assert (two["outcome"], two["note"], two["worst"]) == ("failed", "the base is 2", None)
    assert (three["outcome"], three["note"]) == ("skipped", "no torch")
    assert (four["outcome"], four["worst"]) == ("passed", None)
    words = str(report)
    assert "two failed: the base is 2" in words
    assert "2 passed, 1 failed, 1 skipped; 64 tokens, float32" in words
    assert Report("m", "float32", 64, (checks[0], checks[2])).ok


def test_a_model_by_the_path_of_its_folder(tiny_folder):
    """From files to report, with its own tokenizer and texts; progress ends at its total."""
    seen = []
    report = examine(
        tiny_folder,
        parts=("tokenizer", "identities", "steps"),
        report=lambda done, total, note: seen.append((done, total, note)),
    )
    assert report.ok, report.failures
    assert report.tokens == 4 * 32
    assert {check.outcome for check in report.checks} == {"passed"}
    done, total, note = seen[-1]
    assert (done, note) == (total, "done")
    assert total == len(report.checks)


def test_without_files_the_steps_are_skipped(tiny):
    report = examine_decoder(tiny, None, tokenizer=tiny_tokenizer(), parts=("steps",))
    assert report.ok
    assert [(check.outcome, check.note) for check in report.checks] == [
        ("skipped", "the model came from no file")
    ]


def test_bad_requests_raise(tiny_folder, tiny):
    with pytest.raises(SelfxError, match="part 'stpes'"):
        examine(tiny_folder, parts=("stpes",))
    with pytest.raises(SelfxError, match="reference 'jax'"):
        examine(tiny_folder, reference="jax")
    with pytest.raises(SelfxError, match="no tokenizer and no tokens"):
        examine_decoder(tiny, None)
    assert isinstance(tiny.config, Config)
