import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfx.explainer import lora
from selfx.explainer.batches import Batch
from selfx.explainer.injection import injection, rescale
from selfx.explainer.step import Optimization, answer_loss, init_state, make_step
from selfx.models.decoder import forward
from selfx.models.generate import generate
from selfx.tasks.example import SLOT, Example
from selfx.testing import tiny_config, tiny_model

pytestmark = pytest.mark.usefixtures("compiled_once", "compiled_quickly")

STRENGTH = 5.0


@pytest.fixture(scope="module")
def adapters(tiny):
    """Away from the start, so that every gradient is there."""
    fresh = lora.init(tiny.config, rank=2, alpha=4.0, key=jax.random.key(0))
    rng = np.random.default_rng(3)
    draw = {name: 0.1 * rng.standard_normal(x.b.shape) for name, x in fresh.items()}
    return {n: x.replace(b=jnp.asarray(draw[n], jnp.float32)) for n, x in fresh.items()}


@pytest.fixture(scope="module")
def batch(plan_of):
    """Three rows with a vector, one without, answers of different lengths."""
    rng = np.random.default_rng(0)
    made = [
        Example(
            f"e{i}",
            "t",
            "train",
            "g",
            "c",
            "",
            (f"{SLOT * (i < 3)}{'a' * (3 * i)}?",),
            "yes"[: i % 3 + 1],
            True,
            "x",
            rng.standard_normal(32).astype(np.float32) if i < 3 else None,
            {},
        )
        for i in range(4)
    ]
    plan = plan_of(made)
    return plan.collate([row[0] for row in plan.rows])


def plain_loss(adapters, model, batch, scaling="matched", **more):
    return answer_loss(adapters, model, batch, scaling, STRENGTH, **more)


STATIC = ("scaling", "remat")
loss_of = jax.jit(plain_loss, static_argnames=STATIC)
value_and_grad = jax.jit(jax.value_and_grad(plain_loss), static_argnames=STATIC)


def widened(batch, columns=0, rows=0, answers=0):
    """The batch with more padding, more rows of no weight, more room for answers."""
    n, t = batch.tokens.shape
    wide = {
        "tokens": ((0, rows), (0, columns)),
        "mask": ((0, rows), (0, columns)),
        "ask": ((0, rows), (0, answers)),
        "answers": ((0, rows), (0, answers)),
        "weights": ((0, rows), (0, answers)),
        "vectors": ((0, rows), (0, 0)),
        "slots": ((0, rows),),
        "layers": ((0, rows),),
    }
    fill = {"ask": -1, "slots": -1, "layers": -1}
    return Batch(
        **{
            name: np.pad(getattr(batch, name), pad, constant_values=fill.get(name, 0))
            for name, pad in wide.items()
        }
    )


def close(one, other, rtol=1e-4):
    """Equal up to rounding: relative to the largest entry of each leaf."""

    def check(a, b):
        np.testing.assert_allclose(a, b, atol=rtol * np.abs(b).max(), rtol=0)

    jax.tree.map(check, one, other)


@pytest.mark.parametrize("more", [{"columns": 7}, {"rows": 3}, {"columns": 40, "answers": 5}])
def test_loss_and_gradients_do_not_see_padding(tiny, adapters, batch, more):
    loss, grads = value_and_grad(adapters, tiny, batch)
    wide_loss, wide_grads = value_and_grad(adapters, tiny, widened(batch, **more))
    assert abs(float(loss) - float(wide_loss)) < 1e-6
    close(wide_grads, grads)


def test_what_stands_in_the_padding_does_not_matter(tiny, adapters, batch):
    tokens = np.where(batch.mask, batch.tokens, 77).astype(np.int32)
    spoilt = batch.replace(tokens=tokens)
    spoilt = spoilt.replace(answers=np.where(batch.weights > 0, batch.answers, 99))
    assert abs(float(loss_of(adapters, tiny, spoilt) - loss_of(adapters, tiny, batch))) < 1e-6


def test_the_loss_is_the_mean_cross_entropy_of_the_answer_tokens(tiny, adapters, batch):
    """Each row alone, unpadded, its logits at every position; softmax in float64."""
    run = jax.jit(forward)
    losses = []
    for row in range(4):
        ids = batch.tokens[row][batch.mask[row]]
        vector, slot = batch.vectors[row : row + 1], batch.slots[row]
        edits = injection(tiny, vector, np.array([slot]), "matched", STRENGTH)
        edits = edits if slot >= 0 else None
        logits = np.asarray(run(tiny, ids[None], edits=edits, lora=adapters).logits[0], float)
        count = int(batch.weights[row].sum())
        for place in range(len(ids) - count, len(ids)):
            before = logits[place - 1]
            losses.append(np.log(np.exp(before - before.max()).sum()) + before.max())
            losses[-1] -= before[ids[place]]
    assert len(losses) == batch.weights.sum() == sum((2, 3, 4, 2))
    np.testing.assert_allclose(loss_of(adapters, tiny, batch), np.mean(losses), rtol=1e-5)


def test_recomputing_changes_memory_not_gradients(tiny, adapters, batch):
    loss, grads = value_and_grad(adapters, tiny, batch)
    again, regrads = value_and_grad(adapters, tiny, batch, remat=True)
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    close(regrads, grads)


@pytest.mark.parametrize("scaling", ["matched", "raw"])
def test_the_vector_is_read_where_there_is_a_slot(tiny, adapters, batch, scaling):
    def loss(vectors):
        return plain_loss(adapters, tiny, batch.replace(vectors=vectors), scaling)

    grads = jax.jit(jax.grad(loss))(jnp.asarray(batch.vectors))
    reached = np.abs(grads).max(axis=1)
    assert (reached[:3] > 1e-6).all()
    assert reached[3] == 0


def test_a_row_without_a_slot_does_not_feel_a_vector(tiny, adapters, batch):
    vectors = batch.vectors.copy()
    vectors[3] = 50.0
    loss = loss_of(adapters, tiny, batch)
    assert loss_of(adapters, tiny, batch.replace(vectors=vectors)) == loss
    vectors[0] = 50.0
    assert loss_of(adapters, tiny, batch.replace(vectors=vectors)) != loss


def test_a_vector_is_put_exactly_at_its_slot(tiny, batch):
    edits = injection(tiny, batch.vectors, batch.slots, "raw", STRENGTH)
    out = forward(tiny, batch.tokens, mask=batch.mask, edits=edits, capture=("embeddings",))
    seen = np.asarray(out.captures["embeddings"])
    plain = np.asarray(tiny.embed[...])[batch.tokens]
    for row in range(4):
        slot = batch.slots[row]
        if slot >= 0:
            np.testing.assert_array_equal(seen[row, slot], batch.vectors[row])
            plain[row, slot] = seen[row, slot]
    np.testing.assert_array_equal(seen[batch.mask], plain[batch.mask])


def test_matched_vectors_are_as_long_as_embeddings_and_point_as_before(tiny):
    vectors = np.random.default_rng(0).standard_normal((5, 32)).astype(np.float32)
    vectors *= np.array([1e-4, 1, 30, 1e5, 0], np.float32)[:, None]
    scaled = np.asarray(rescale(tiny, vectors, "matched", 3.0))
    length = 3 * np.linalg.norm(np.asarray(tiny.embed[...]), axis=1).mean()
    np.testing.assert_allclose(np.linalg.norm(scaled[:4], axis=1), length, rtol=1e-5)
    cosine = (scaled * vectors).sum(1)[:4] / length / np.linalg.norm(vectors[:4], axis=1)
    np.testing.assert_allclose(cosine, 1, rtol=1e-5)
    np.testing.assert_array_equal(scaled[4], 0)


def test_raw_vectors_are_untouched_and_zeros_stay_zeros(tiny):
    vectors = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    np.testing.assert_array_equal(rescale(tiny, vectors, "raw", 3.0), vectors)
    np.testing.assert_array_equal(rescale(tiny, 0 * vectors, "raw", 3.0), 0 * vectors)


@pytest.mark.parametrize("scaling", ["matched", "raw"])
def test_a_zero_vector_has_finite_gradients(tiny, adapters, batch, scaling):
    zero = batch.replace(vectors=np.zeros_like(batch.vectors))
    loss, grads = value_and_grad(adapters, tiny, zero, scaling)
    assert np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_one_program_for_batches_of_one_shape(tiny, plan_of, planted):
    optimizer = Optimization(1e-2).build(20)
    step = make_step(optimizer, "matched", STRENGTH)
    fresh = lora.init(tiny.config, rank=2, alpha=4.0, key=jax.random.key(0))
    state = init_state(fresh, optimizer)
    plan = plan_of(planted(22))
    for index in range(12):
        state, metrics = step(state, tiny, plan.batch(index))
    shapes = {plan.batch(index).tokens.shape for index in range(12)}
    assert step._cache_size() == len(shapes) <= 3
    assert int(state.step) == 12
    assert float(metrics["grad_norm"]) > 0


def test_a_step_changes_the_adapters_and_not_the_model(plan_of, planted):
    model = tiny_model(seed=5)
    before = jax.tree.map(np.array, model)
    optimizer = Optimization(1e-2).build(5)
    fresh = lora.init(model.config, rank=2, alpha=4.0, key=jax.random.key(0))
    start = jax.tree.map(np.array, fresh)
    step = make_step(optimizer, "matched", STRENGTH)
    state = init_state(fresh, optimizer)
    for index in range(2):
        state, _ = step(state, model, plan_of(planted(8)).batch(index))
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, model), before)
    for name, adapter in state.adapters.items():
        assert not np.array_equal(adapter.a, start[name].a)
        assert not np.array_equal(adapter.b, start[name].b)


def test_half_precision_weights_train(plan_of, planted):
    model = tiny_model(tiny_config(), dtype=jnp.bfloat16)
    optimizer = Optimization(1e-2).build(5)
    fresh = lora.init(model.config, rank=2, alpha=4.0, key=jax.random.key(0))
    state, metrics = make_step(optimizer, "matched", STRENGTH)(
        init_state(fresh, optimizer), model, plan_of(planted(8)).batch(0)
    )
    assert np.isfinite(metrics["loss"])
    assert state.adapters["q"].a.dtype == jnp.float32


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Optimization(0.4), [0.4] * 6),
        (Optimization(0.4, "linear"), [0.4, 0.36, 0.32, 0.28, 0.24, 0.2]),
        (Optimization(0.4, "constant", 4), [0, 0.1, 0.2, 0.3, 0.4, 0.4]),
        (Optimization(0.4, "linear", 2), [0, 0.2, 0.4, 0.35, 0.3, 0.25]),
    ],
)
def test_learning_rates(settings, expected):
    rate = settings.rate(10)
    np.testing.assert_allclose([rate(step) for step in range(6)], expected, rtol=1e-6)
    last = 0.0 if settings.schedule == "linear" else 0.4
    np.testing.assert_allclose(rate(10), last, atol=1e-7)


def test_gradients_are_clipped():
    """AdamW hides a gradient's scale; the moments show what came through the clip."""
    optimizer = Optimization(1e-2, clip=0.5).build(5)
    state = optimizer.init(jnp.zeros(4))
    _, state = optimizer.update(jnp.full(4, 100.0), state, jnp.zeros(4))
    first = optax.tree.get(state, "mu")
    np.testing.assert_allclose(np.linalg.norm(first) / 0.1, 0.5, rtol=1e-5)


def trained(model, plan, steps):
    optimizer = Optimization(5e-3).build(steps)
    fresh = lora.init(model.config, rank=8, alpha=16.0, key=jax.random.key(0))
    state, step = init_state(fresh, optimizer), make_step(optimizer, "matched", STRENGTH)
    for index in range(steps):
        state, _ = step(state, model, plan.batch(index))
    return lora.merge(model, state.adapters)


def hits(model, prompter, examples, vectors):
    """The share of examples whose greedy answer is the true one."""
    prompts = [prompter.prompt(example) for example in examples]
    tokens = np.array([prompt.ids for prompt in prompts])
    slots = np.array([prompt.slot for prompt in prompts])
    edits = injection(model, vectors, slots, "matched", STRENGTH)
    out = generate(model, tokens, edits=edits, end_ids=(2,), max_new_tokens=8)
    decode = prompter.tokenizer.decode
    answers = [decode(row[row >= 0]) for row in np.asarray(out.tokens)]
    return np.mean([a == e.answer for a, e in zip(answers, examples, strict=True)])


def test_a_planted_signal_is_learned_from_the_vector_alone(tiny, plan_of, prompter, planted):
    plan = plan_of(planted(256), batch_size=16)
    model = trained(tiny, plan, 150)
    held_out = planted(64, split="test")
    vectors = np.stack([example.vector for example in held_out])
    assert hits(model, prompter, held_out, vectors) > 0.9
    assert hits(model, prompter, held_out, 0 * vectors) <= 0.35
    assert hits(model, prompter, held_out, np.roll(vectors, 1, axis=0)) < 0.1  # all another class
    assert hits(tiny, prompter, held_out, vectors) == 0


def test_vectors_of_somebody_else_teach_nothing(tiny, plan_of, prompter, planted):
    plan = plan_of(planted(256, shuffled=True), batch_size=16)
    model = trained(tiny, plan, 150)
    held_out = planted(64, split="test")
    vectors = np.stack([example.vector for example in held_out])
    assert hits(model, prompter, held_out, vectors) <= 0.5
