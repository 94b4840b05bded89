"""From traces to a run folder: what it leaves, what is refused, and what is forgotten."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import selfx
from selfx.checkpoint import checkpoints
from selfx.errors import SelfxError
from selfx.explainer import lora
from selfx.explainer.answer import load_explainer
from selfx.explainer.fit import fit
from selfx.explainer.optimization import Optimization
from selfx.explainer.run import Run
from selfx.explainer.step import init_state
from selfx.explainer.trained import Trained
from selfx.explainer.training import Training

pytestmark = pytest.mark.usefixtures("short_questions")

RESULT = ("adapter/adapter_model.safetensors", "config.json", "metrics.jsonl")
SETTINGS = Training(
    epochs=11,
    batch_size=12,
    rank=4,
    style="plain",
    optimization=Optimization(3e-3, "linear", 2),
    held_out=0.25,
    evaluate_every=5,
)
EVERY = {"save_every": 4, "log_every": 3}
STEPS = 11


@pytest.fixture(scope="module")
def data(planted_trace, tmp_path_factory):
    """Twelve examples, of which four are watched: one batch an epoch."""
    return planted_trace(tmp_path_factory.mktemp("data") / "trace", train=12, test=8)


@pytest.fixture(scope="module")
def train(tiny_lm, data):
    """A function: the same training, into a folder."""

    def run(out, training=SETTINGS, **more):
        return fit(tiny_lm, [data], out, training, **{**EVERY, **more})

    return run


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(out)
    return out


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of it."""
    return shutil.copytree(whole, tmp_path / "run")


def result(run):
    return {name: (run / name).read_bytes() for name in RESULT}


def tree(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_uninterrupted_run_leaves_what_it_says(whole):
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 4, 5, 6, 8, 9, 10, 11]
    assert [line["epoch"] for line in lines] == [3, 4, 5, 6, 8, 9, 10, 11]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(np.isfinite(line["grad_norm"]) for line in lines)
    np.testing.assert_allclose(lines[-1]["learning_rate"], 3e-3 / 9, rtol=1e-5)
    looks = [line["step"] for line in lines if "held_out_loss" in line]
    assert looks == [5, 10, 11]
    for name in ("held_out_exact", "zero_loss", "zero_exact", "loss_lift", "lift"):
        assert [line["step"] for line in lines if name in line] == looks
    assert any((whole / "tensorboard").iterdir())
    config = json.loads((whole / "config.json").read_text())
    assert config["version"] == selfx.__version__
    assert config["training"]["rank"] == 4
    assert config["origin"] == {"width": 32, "layers": 4}
    assert config["times"] == [1.0]
    assert config["traces"][0]["task"] == "activation-patching"
    assert len(config["traces"][0]["digest"]) == len(config["explainer_hash"]) == 64
    assert sorted(p.name for p in (whole / "checkpoints").iterdir()) == ["11", "8"]


def test_a_second_uninterrupted_run_is_equal(train, whole, tmp_path):
    fitted = train(tmp_path / "run")
    assert result(tmp_path / "run") == result(whole)
    assert (fitted.steps, fitted.resumed_at) == (STEPS, 0)
    last = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])
    assert (fitted.loss, fitted.lift) == (last["loss"], last["lift"])


def test_a_finished_run_is_left_as_it_is(train, finished):
    before, reports = tree(finished), []
    fitted = train(finished, report=lambda *told: reports.append(told))
    assert tree(finished) == before
    assert reports == []
    last = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    assert (fitted.resumed_at, fitted.loss) == (STEPS, last["loss"])


def test_other_settings_are_refused_with_what_differs(train, finished):
    before = tree(finished)
    other = dataclasses.replace(SETTINGS, rank=8, optimization=Optimization(1e-3, "linear", 2))
    with pytest.raises(SelfxError, match="holds another run") as caught:
        train(finished, other)
    assert "training.rank: 4 there, 8 now" in str(caught.value)
    assert "training.optimization.learning_rate: 0.003 there, 0.001 now" in str(caught.value)
    assert "batch_size" not in str(caught.value)
    assert "--fresh" in caught.value.hint
    assert tree(finished) == before


def test_a_run_older_than_a_setting_is_found_where_that_asks_for_nothing(train, finished):
    path = finished / "config.json"
    record = json.loads(path.read_text())
    for name in ("withhold", "soften", "blind"):
        del record["training"][name]
    path.write_text(json.dumps(record))
    assert train(finished).path == finished
    with pytest.raises(SelfxError, match="another run"):
        train(finished, dataclasses.replace(SETTINGS, blind=True))


def test_other_data_is_refused(tiny_lm, planted_trace, finished, tmp_path):
    other = planted_trace(tmp_path / "trace", train=12, test=8, seed=1)
    before = tree(finished)
    with pytest.raises(SelfxError, match=r"traces"):
        fit(tiny_lm, [other], finished, SETTINGS, **EVERY)
    assert tree(finished) == before


def test_other_weights_are_refused(write_tiny, data, finished):
    with pytest.raises(SelfxError, match="explainer_hash"):
        fit(selfx.load(write_tiny(seed=7)), [data], finished, SETTINGS, **EVERY)


def test_fresh_forgets_an_earlier_run(train, whole, finished):
    (finished / "notes.txt").write_text("mine")
    train(finished, dataclasses.replace(SETTINGS, seed=1), fresh=True)
    other = result(finished)
    assert all(other[name] != before for name, before in result(whole).items())
    fitted = train(finished, fresh=True)
    assert fitted.resumed_at == 0
    assert result(finished) == result(whole)
    assert (finished / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_of_something_else_is_left_alone(train, tmp_path, fresh):
    out = tmp_path / "thesis"
    (out / "adapter").mkdir(parents=True)
    (out / "adapter" / "chapter").write_text("one")
    (out / "metrics.jsonl").write_text("mine")
    before = tree(out)
    with pytest.raises(SelfxError, match="no run wrote"):
        train(out, fresh=fresh)
    assert tree(out) == before


@pytest.mark.parametrize("fresh", [False, True])
def test_a_models_folder_is_no_run_folder(train, tiny_folder, tmp_path, fresh):
    """It holds a `config.json` too."""
    out = shutil.copytree(tiny_folder, tmp_path / "model")
    before = tree(out)
    with pytest.raises(SelfxError, match="no run wrote"):
        train(out, fresh=fresh)
    assert tree(out) == before


def test_a_file_is_no_run_folder(train, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(SelfxError, match="is a file"):
        train(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_what_a_kill_left_of_the_first_file_is_no_obstacle(train, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / ".config.json.x1y2").write_text('{"ver')
    train(out)
    assert (out / "adapter" / "adapter_config.json").exists()


def test_vectors_of_another_width(tiny_lm, planted_trace, tmp_path):
    wide = planted_trace(tmp_path / "trace", train=4, test=2, width=16)
    with pytest.raises(SelfxError, match="width 16 for an explainer of width 32") as caught:
        fit(tiny_lm, [wide], tmp_path / "run", SETTINGS)
    assert "a projection" in caught.value.expected
    assert "--projection" in caught.value.hint
    assert not (tmp_path / "run").exists()


def test_questions_longer_than_the_context(tiny_lm, planted_trace, tmp_path):
    data = planted_trace(tmp_path / "trace", train=4, test=2)
    short = dataclasses.replace(tiny_lm.config, max_positions=20)
    with pytest.raises(SelfxError, match="answer of [0-9]+ tokens") as caught:
        fit(dataclasses.replace(tiny_lm, config=short), [data], tmp_path / "run", SETTINGS)
    assert "at most 20" in caught.value.expected
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("folders", [[], ["nowhere"]])
def test_no_data(tiny_lm, tmp_path, folders):
    with pytest.raises(SelfxError, match="no "):
        fit(tiny_lm, [tmp_path / name for name in folders], tmp_path / "run", SETTINGS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"epochs": float("nan")},
        {"epochs": float("inf")},
        {"batch_size": 0},
        {"rank": 0},
        {"alpha": -1.0},
        {"strength": -1.0},
        {"strength": float("inf")},
        {"style": "sonnet"},
        {"injection": "layer"},
        {"at": -2},
        {"latest": -2},
        {"trains": ()},
        {"trains": ("lora", "full")},
        {"trains": ("lora", "lora")},
        {"trains": ("embeddings",)},
        {"accumulate": 3},
        {"accumulate": 0},
        {"dropout": 1.0},
        {"held_out": 1.0},
        {"held_out": 0.0, "patience": 1},
        {"patience": -1},
        {"evaluate_every": 0},
        {"reader_rank": 0},
        {"targets": ("lm_head",)},
        {"withhold": ("smell",)},
        {"withhold": ("question",)},
        {"optimization": Optimization(0.0)},
        {"optimization": Optimization(schedule="sine")},
        {"optimization": Optimization(reader_rate=0.0)},
        {"optimization": Optimization(warmup=-1)},
        {"optimization": Optimization(weight_decay=float("nan"))},
        {"optimization": Optimization(clip=0.0)},
    ],
)
def test_settings_that_no_run_can_have(train, tmp_path, change):
    with pytest.raises(SelfxError) as caught:
        train(tmp_path / "run", Training(**change))
    assert caught.value.expected or caught.value.hint
    assert not (tmp_path / "run").exists()


def test_the_result_is_the_last_checkpoint(tiny_lm, whole):
    fresh = lora.init(tiny_lm.config, rank=4, alpha=16.0, key=jax.random.key(0))
    like = init_state(Trained(fresh), SETTINGS.optimization.build(STEPS))
    with checkpoints(whole / "checkpoints") as saved:
        state = saved.restore(like).state
    loaded = Run(whole).load_adapter()
    assert int(state.step) == STEPS
    for name, adapter in state.trained.lora.items():
        np.testing.assert_array_equal(loaded[name].a, adapter.a)
        np.testing.assert_array_equal(loaded[name].b, adapter.b)
        assert loaded[name].scale == adapter.scale == 4.0


def test_several_traces_are_learned_together(tiny_lm, data, planted_trace, tmp_path):
    other = planted_trace(tmp_path / "other", train=5, test=2, seed=3)
    half = dataclasses.replace(SETTINGS, epochs=5.5)
    fitted = fit(tiny_lm, [data, other], tmp_path / "run", half)
    assert fitted.steps == STEPS  # 17 examples are two batches
    assert len(load_explainer(tmp_path / "run", tiny_lm).training.style) == 5


def test_traces_can_be_seen_more_or_less_often(tiny_lm, data, planted_trace, tmp_path):
    other = planted_trace(tmp_path / "other", train=8, test=2, seed=3)
    once = dataclasses.replace(SETTINGS, epochs=1, batch_size=4, held_out=0.0)
    fitted = fit(tiny_lm, [data, other], tmp_path / "run", once, times=(0.5, 2))
    assert fitted.steps == (6 + 16 + 3) // 4
    assert json.loads((tmp_path / "run" / "config.json").read_text())["times"] == [0.5, 2]
    with pytest.raises(SelfxError, match=r"times: 2.0 there, 1.0 now|times"):
        fit(tiny_lm, [data, other], tmp_path / "run", once, times=(0.5, 1))


@pytest.mark.parametrize("times", [(1,), (1, 1, 1), (1, 0), (1, -1), (1, float("nan"))])
def test_times_that_cannot_be(tiny_lm, data, tmp_path, times):
    with pytest.raises(SelfxError, match="--times"):
        fit(tiny_lm, [data, data], tmp_path / "run", SETTINGS, times=times)
    assert not (tmp_path / "run").exists()


def test_what_another_kind_of_run_left_is_forgotten_with_it(train, tiny_lm, finished, tmp_path):
    """Weights of a run that trained them all, and the best look of one with patience."""
    small = dataclasses.replace(SETTINGS, epochs=2, evaluate_every=1)
    train(tmp_path / "full", dataclasses.replace(small, trains=("full",), patience=1))
    assert (tmp_path / "full" / "model").exists()
    assert (tmp_path / "full" / "best.safetensors").exists()
    train(tmp_path / "full", fresh=True)
    assert result(tmp_path / "full") == result(finished)
    one, other = (load_explainer(folder, tiny_lm) for folder in (tmp_path / "full", finished))
    np.testing.assert_array_equal(one.model.blocks.q.w[...], other.model.blocks.q.w[...])
    assert not (tmp_path / "full" / "best.safetensors").exists()
