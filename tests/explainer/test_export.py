"""A run's adapter as a PEFT folder of its own, and the command that writes it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import selfx
from selfx.errors import SelfxError
from selfx.explainer import lora
from selfx.explainer.export import WRAPPED, export_peft
from selfx.explainer.lora import Lora, merge
from selfx.explainer.run import Run
from selfx.explainer.trained import Trained
from selfx.explainer.training import Training
from selfx.files import write_json
from selfx.models.decoder import forward
from selfx.weights.peft import Matrices, write_adapter
from selfx.weights.peft.read import CONFIG

TOKENS = np.random.default_rng(0).integers(6, 262, (2, 9))


def grown(config, seed, maps=None):
    fresh = lora.init(config, rank=2, alpha=8.0, key=jax.random.key(seed), maps=maps)
    rng = np.random.default_rng(seed)
    draw = {name: 0.2 * rng.standard_normal(x.b.shape) for name, x in fresh.items()}
    return {n: Lora(x.a, jnp.asarray(draw[n], jnp.float32), x.scale) for n, x in fresh.items()}


def make_run(path, lm, adapters, **training):
    """A run folder as `selfx train` leaves it."""
    settings = Training(rank=2, alpha=8.0, style="plain", **training)
    record = {
        "version": selfx.__version__,
        "explainer": lm.name,
        "explainer_hash": lm.hash,
        "quantize": lm.quantize,
        "origin": {"width": 32, "layers": 4},
        "traces": [],
        "training": dataclasses.asdict(settings),
    }
    run = Run(path)
    write_json(run.config, record)
    run.save_result(Trained(lora=adapters), None, settings, lm)
    return run


def logits(model):
    return np.asarray(forward(model, TOKENS).logits)


def test_what_is_written_loads_into_the_base(tiny_lm, tmp_path, cli):
    adapters = grown(tiny_lm.config, 1)
    run = make_run(tmp_path / "run", tiny_lm, adapters, injection="add", at=2)
    out = tmp_path / "out"
    done = cli("export", "peft", "--run", run.path, "--out", out, "--base", "org/base", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["adapter"], told["base"], told["rank"]) == (str(out), "org/base", 2)
    assert json.loads((out / CONFIG).read_text())["base_model_name_or_path"] == "org/base"
    got = logits(selfx.load(f"{tiny_lm.name}+{out}").model)
    want = logits(merge(tiny_lm.model, adapters))
    np.testing.assert_allclose(got, want, atol=5e-5 * np.abs(want).max())
    readme = (out / "README.md").read_text()
    for word in ("org/base", tiny_lm.hash, "<begin><slot><end>", "Layer: 2", "plain text"):
        assert word in readme
    assert "Never told" not in readme
    less = make_run(tmp_path / "less", tiny_lm, adapters, withhold=("layer", "token"))
    assert cli("export", "peft", "--run", less.path, "--out", tmp_path / "out-less").code == 0
    readme = (tmp_path / "out-less" / "README.md").read_text()
    assert "Never told of a question: its layer, its token" in readme


def test_an_explainer_of_an_adapted_target_is_written_with_its_adapter(tiny_lm, tmp_path):
    """Trained beside MODEL+ADAPTER; what is written runs alike beside MODEL alone."""
    target = grown(tiny_lm.config, 2, ("q", "up"))
    one = {name: Matrices(each.a, each.b, 0.5) for name, each in target.items()}
    write_adapter(tmp_path / "target", one, base="x", config=tiny_lm.config)
    base = selfx.load(f"{tiny_lm.name}+{tmp_path / 'target'}")
    adapters = grown(tiny_lm.config, 3, ("q", "v"))
    run = make_run(tmp_path / "run", base, adapters)
    told = export_peft(run.path, tmp_path / "out")
    assert (told["base"], told["maps"], told["rank"]) == (tiny_lm.name, ["q", "up", "v"], 4)
    want = logits(merge(base.model, adapters))
    got = logits(selfx.load(f"{tiny_lm.name}+{tmp_path / 'out'}").model)
    np.testing.assert_allclose(got, want, atol=5e-5 * np.abs(want).max())
    assert "target" in (tmp_path / "out" / "README.md").read_text()


def test_a_decoder_inside_another_model_is_addressed_there(tiny_lm, tmp_path, monkeypatch):
    monkeypatch.setitem(WRAPPED, "llama", "model.language_model.layers.")
    run = make_run(tmp_path / "run", tiny_lm, grown(tiny_lm.config, 1, ("q",)))
    export_peft(run.path, tmp_path / "out")
    settings = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert settings["target_modules"].startswith(r"model\.language_model\.layers\.\d+")


def test_runs_that_cannot_be_written(tiny_lm, write_tiny, tmp_path):
    with pytest.raises(SelfxError, match="no run in"):
        export_peft(tmp_path / "nowhere", tmp_path / "out")
    adapters = grown(tiny_lm.config, 1)
    run = make_run(tmp_path / "run", tiny_lm, adapters)
    with pytest.raises(SelfxError, match="expected: a llama of 4 layers and width 32"):
        export_peft(run.path, tmp_path / "out", base=str(write_tiny(d_model=48)))
    other = make_run(tmp_path / "other", dataclasses.replace(tiny_lm, hash="0" * 64), adapters)
    with pytest.raises(SelfxError, match="expected: 000000000000, which"):
        export_peft(other.path, tmp_path / "out")
    reader = make_run(tmp_path / "reader", tiny_lm, None, trains=("scale",))
    with pytest.raises(SelfxError, match="trained scale"):
        export_peft(reader.path, tmp_path / "out")
    run.adapter.rename(tmp_path / "gone")
    with pytest.raises(SelfxError, match="not finished"):
        export_peft(run.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_help_shows_an_example(cli):
    shown = cli("export", "peft", "--help")
    assert shown.code == 0
    assert "selfx export peft --run" in shown.out
    assert "--json" in shown.out
