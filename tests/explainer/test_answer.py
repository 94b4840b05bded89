import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import selfx
from selfx.errors import SelfxError
from selfx.explainer import answer as answering
from selfx.explainer import lora
from selfx.explainer.answer import answer, load_explainer, own_vectors, untrained
from selfx.explainer.injection import Way, inject
from selfx.explainer.lora import Lora
from selfx.explainer.origin import Origin
from selfx.explainer.reader import Reader
from selfx.explainer.run import Run
from selfx.explainer.trained import Trained, parameters
from selfx.explainer.training import Training
from selfx.models.beams import beams
from selfx.models.generate import generate
from selfx.tasks.example import SLOT, Example

PLAIN = Training(rank=2, alpha=4.0, style="plain", strength=3.0)
LIMIT = 8


@pytest.fixture(scope="module")
def adapters(tiny):
    fresh = lora.init(tiny.config, rank=2, alpha=4.0, key=jax.random.key(0))
    rng = np.random.default_rng(3)
    draw = {name: 0.3 * rng.standard_normal(x.b.shape) for name, x in fresh.items()}
    return {n: Lora(x.a, jnp.asarray(draw[n], jnp.float32), x.scale) for n, x in fresh.items()}


def record(lm, training=PLAIN, **changes):
    return {
        "version": selfx.__version__,
        "explainer": lm.name,
        "explainer_hash": lm.hash,
        "quantize": "",
        "origin": {"width": 32, "layers": 4},
        "traces": [],
        "training": dataclasses.asdict(training),
        **changes,
    }


@pytest.fixture(scope="module")
def run(tiny_lm, adapters, tmp_path_factory):
    """A finished run whose adapters are drawn, not trained."""
    made = Run(tmp_path_factory.mktemp("runs") / "run")
    made.open(record(tiny_lm), fresh=False)
    made.save_result(Trained(adapters), None, PLAIN, tiny_lm)
    return made


@pytest.fixture(scope="module")
def explainer(run, tiny_lm):
    return load_explainer(run.path, tiny_lm)


@pytest.fixture(scope="module")
def examples():
    """Different lengths in no order, the third of three without a vector, some with several."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(11):
        m = (1, 1 + i % 2, 0)[i % 3]
        vectors = rng.standard_normal((m, 32)).astype(np.float32) if m else None
        tail = "".join(rng.choice(list("abcdefgh"), int(rng.integers(0, 24))))
        about = f"e{i}", "t", "test", "g", "c", "", (f"{SLOT * m}{i}{tail}",), "x", True, "x"
        made.append(Example(*about, vectors, {}, layers=(1,) * m))
    return made


@pytest.fixture(scope="module")
def alone(explainer, examples):
    """Each question asked by itself."""
    return [answer(explainer, [e], max_new_tokens=LIMIT, batch_size=1)[0] for e in examples]


@pytest.mark.parametrize("size", [3, 16])
def test_batched_answers_are_the_answers_given_alone_and_in_order(explainer, examples, alone, size):
    assert len(set(alone)) > 6
    assert answer(explainer, examples, max_new_tokens=LIMIT, batch_size=size) == alone
    backwards = answer(explainer, examples[::-1], max_new_tokens=LIMIT, batch_size=size)
    assert backwards == alone[::-1]


def test_of_several_beams_the_likeliest_counts(explainer, examples, alone):
    decode = explainer.base.tokenizer.decode
    got = answer(explainer, examples, max_new_tokens=LIMIT, beams=3, batch_size=4)
    for example, said in zip(examples, got, strict=True):
        prompt = explainer.prompter.prompt(example)
        vectors = own_vectors([example], 32)
        edits = answering.injected(explainer, vectors, [prompt], [example])
        found = beams(
            explainer.model,
            np.array([prompt.ids]),
            width=3,
            edits=edits,
            end_ids=explainer.base.eos_ids,
            max_new_tokens=LIMIT,
        )
        best = np.asarray(found.tokens[0, 0])
        assert said == decode(best[best >= 0], skip_special_tokens=True).strip()
    assert got != alone, "the likeliest of three is the greedy one of all these questions"


def test_merged_answers_are_those_with_the_adapters_beside(
    explainer, adapters, tiny_lm, examples, alone
):
    decode = tiny_lm.tokenizer.decode
    for example, merged in list(zip(examples, alone, strict=True))[1:3]:
        prompt = explainer.prompter.prompt(example)
        edits = None
        if example.vectors is not None:
            slots, layers = np.array([prompt.slots]), np.array([example.layers])
            way = Way("marker", 3.0)
            edits = inject(way, tiny_lm.model, None, example.vectors[None], slots, layers)
        out = generate(
            tiny_lm.model,
            np.array([prompt.ids]),
            edits=edits,
            lora=adapters,
            end_ids=(2,),
            max_new_tokens=LIMIT,
        )
        row = np.asarray(out.tokens[0])
        assert decode(row[row >= 0], skip_special_tokens=True).strip() == merged


def test_the_vector_given_is_read_instead_of_its_own(explainer, examples, alone):
    asked = [e for e in examples if e.vector is not None]
    own = own_vectors(asked, 32)
    before = [text for text, e in zip(alone, examples, strict=True) if e.vector is not None]
    assert answer(explainer, asked, own, max_new_tokens=LIMIT) == before
    others = answer(explainer, asked, np.roll(own, 1, axis=0), max_new_tokens=LIMIT)
    assert sum(a != b for a, b in zip(others, before, strict=True)) >= 4


def test_a_vector_for_a_question_without_a_slot_changes_nothing(explainer, examples, alone):
    asked = [e for e in examples if e.vector is None]
    fed = np.full((len(asked), 1, 32), 9, np.float32)
    before = [text for text, e in zip(alone, examples, strict=True) if e.vector is None]
    assert answer(explainer, asked, fed, max_new_tokens=LIMIT) == before


def test_own_vectors_are_zero_where_there_is_none(examples):
    own = own_vectors(examples, 32)
    assert own.shape == (11, 2, 32)
    assert own.dtype == np.float32
    for row, example in zip(own, examples, strict=True):
        held = np.zeros((0, 32)) if example.vectors is None else example.vectors
        np.testing.assert_array_equal(row[: len(held)], held)
        assert not row[len(held) :].any()
    assert own_vectors([], 32).shape == (0, 1, 32)


def test_nobody_asked_nothing_answered(explainer):
    assert answer(explainer, []) == []


def test_progress_ends_at_the_number_of_questions(explainer, examples):
    told = []
    answer(
        explainer, examples, max_new_tokens=LIMIT, batch_size=3, report=lambda *t: told.append(t)
    )
    assert [report[:2] for report in told] == [(3, 11), (6, 11), (9, 11), (11, 11)]


def test_vectors_of_another_width_cannot_be_asked_about(explainer, examples):
    wide = dataclasses.replace(examples[0], vectors=np.ones((1, 48), np.float32))
    with pytest.raises(SelfxError, match="width 48") as caught:
        answer(explainer, [wide])
    assert "32, the width of the target" in caught.value.expected
    other = dataclasses.replace(explainer, origin=Origin(48, 4))
    with pytest.raises(SelfxError, match="width 48 for an explainer of width 32") as caught:
        answer(other, [wide])
    assert "projection" in caught.value.expected


def test_questions_longer_than_the_context_cannot_be_asked(explainer, examples):
    short = dataclasses.replace(explainer.base.config, max_positions=20)
    base = dataclasses.replace(explainer.base, config=short)
    with pytest.raises(SelfxError, match="tokens"):
        answer(dataclasses.replace(explainer, base=base), examples)


def test_many_batches_are_answered_as_few(explainer, examples, monkeypatch):
    """Where there are many, the layers are taken apart first."""
    few = answer(explainer, examples, max_new_tokens=LIMIT)
    taken = []
    real = answering.apart
    monkeypatch.setattr(answering, "apart", lambda model: taken.append(1) or real(model))
    monkeypatch.setattr(answering, "MANY_BATCHES", 0)
    assert answer(explainer, examples, max_new_tokens=LIMIT) == few
    assert taken == [1]


def test_a_loaded_explainer_reads_as_it_was_trained(run, tiny_lm, explainer):
    assert explainer.training == PLAIN
    assert explainer.prompter.style == "plain"
    assert explainer.name == str(run.path)
    again = load_explainer(run.path)  # finds the model by the name in the record
    assert again.base.hash == tiny_lm.hash
    np.testing.assert_array_equal(again.model.blocks.q.w[...], explainer.model.blocks.q.w[...])


def test_an_untrained_one_is_the_model_itself(tiny_lm):
    plain = untrained(tiny_lm, PLAIN)
    assert plain.model is tiny_lm.model
    assert plain.name == tiny_lm.name


def test_an_unfinished_run_explains_nothing(tiny_lm, tmp_path):
    Run(tmp_path / "run").open(record(tiny_lm), fresh=False)
    with pytest.raises(SelfxError, match="not finished") as caught:
        load_explainer(tmp_path / "run", tiny_lm)
    assert "selfx train" in caught.value.hint


def test_a_run_of_other_weights_is_refused(run, write_tiny):
    with pytest.raises(SelfxError, match="weights of") as caught:
        load_explainer(run.path, selfx.load(write_tiny(seed=7)))
    assert str(run.path) in caught.value.expected


def test_no_run(tiny_lm, tiny_folder, tmp_path):
    for folder in (tmp_path, tiny_folder):
        with pytest.raises(SelfxError, match="no run in"):
            load_explainer(folder, tiny_lm)


def test_a_damaged_record_is_named(tiny_lm, tmp_path):
    (tmp_path / "config.json").write_text('{"explainer": "tin')
    with pytest.raises(SelfxError, match="config.json cannot be read"):
        load_explainer(tmp_path, tiny_lm)


def test_settings_of_another_version_are_refused(tiny_lm, tmp_path):
    old = record(tiny_lm)
    old["training"]["flavour"] = "mint"
    (tmp_path / "config.json").write_text(json.dumps(old))
    (tmp_path / "adapter").mkdir()
    with pytest.raises(SelfxError, match="flavour|adapter_config"):
        load_explainer(tmp_path, tiny_lm)
    with pytest.raises(SelfxError, match="flavour"):
        Run(tmp_path).training()


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lambda x: x.replace(a=x.a[:3], b=x.b[:3]), "without matrices: model.layers.3"),
        (lambda x: x.replace(a=x.a[:, :30]), r"have shapes .*\[2, 30\]"),
    ],
)
def test_an_adapter_that_does_not_fit_the_model_is_refused(
    tiny_lm, adapters, tmp_path, cut, message
):
    made = Run(tmp_path / "run")
    made.open(record(tiny_lm), fresh=False)
    less = {name: cut(x) for name, x in adapters.items()}
    made.save_result(Trained(less), None, PLAIN, tiny_lm)
    with pytest.raises(SelfxError, match=message):
        load_explainer(made.path, tiny_lm)


def test_what_was_trained_and_what_was_given_come_back(tiny_lm, adapters, tmp_path):
    """Adapters, the parts of a reader that were trained and those that stayed: all that reads."""
    rng = np.random.default_rng(0)
    trained = Reader(bias=jnp.asarray(rng.standard_normal((4, 32)), jnp.float32))
    given = Reader(projection=jnp.asarray(rng.standard_normal((4, 20, 32)), jnp.float32))
    made = Run(tmp_path / "run")
    made.open(record(tiny_lm, origin={"width": 20, "layers": 4}), fresh=False)
    made.save_result(Trained(adapters, trained), given, PLAIN, tiny_lm)
    explainer = load_explainer(made.path, tiny_lm)
    assert explainer.origin == Origin(20, 4)
    np.testing.assert_array_equal(explainer.reader.bias, trained.bias)
    np.testing.assert_array_equal(explainer.reader.projection, given.projection)
    about = "e", "t", "test", "g", "c", "", (f"{SLOT}?",), "x", True, "x"
    made = Example(*about, rng.standard_normal((1, 20)).astype(np.float32), {}, layers=(2,))
    unit = made.vectors[0] / np.linalg.norm(made.vectors[0])
    read = unit @ np.asarray(given.projection)[2] + np.asarray(trained.bias)[2]
    plain = dataclasses.replace(explainer, origin=Origin(32, 4), reader=None)
    length = np.linalg.norm(read)
    way = dataclasses.replace(PLAIN, strength=3.0 * float(length))
    wanted = answer(
        dataclasses.replace(plain, training=way),
        [dataclasses.replace(made, vectors=read[None].astype(np.float32))],
        max_new_tokens=LIMIT,
    )
    assert answer(explainer, [made], max_new_tokens=LIMIT) == wanted


def test_all_weights_come_back(tiny_lm, tmp_path):
    """The folder of weights is a model of its own as well."""
    weights = {path: x + 0.01 for path, x in parameters(tiny_lm.model).items()}
    training = dataclasses.replace(PLAIN, trains=("full",))
    made = Run(tmp_path / "run")
    made.open(record(tiny_lm, training), fresh=False)
    made.save_result(Trained(model=weights), None, training, tiny_lm)
    for model in (load_explainer(made.path, tiny_lm).model, selfx.load(str(made.model)).model):
        for path, leaf in parameters(model).items():
            np.testing.assert_array_equal(leaf, weights[path])
