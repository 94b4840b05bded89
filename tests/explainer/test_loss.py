"""Losses and gradients in float64: however rows are batched, they are those of each row alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.explainer import lora
from selfx.explainer.batches import Batch, collate, wordings
from selfx.explainer.injection import Way
from selfx.explainer.reader import Reader
from selfx.explainer.step import Frozen, How, answer_logits, loss_and_gradient, total_loss
from selfx.explainer.trained import Trained, parameters
from selfx.tasks.example import SLOT, Example
from selfx.testing import tiny_model

pytestmark = pytest.mark.usefixtures("exact")

HOW = How(Way("add", 0.8), depth=4)
TOLERANCE = 1e-10
COUNTS = (2, 0, 3)
"""Vectors of each row."""


@pytest.fixture(scope="module")
def rows(prompter):
    """Three rows of different lengths and numbers of vectors, of layers, and of answer tokens."""
    rng = np.random.default_rng(0)
    made = []
    for i, m in enumerate(COUNTS):
        question = (
            f"{'a' * (8 * i)}{SLOT * (m > 0)}?" if i % 2 else f"{f'{SLOT} ' * m}: {'b' * (6 * i)}?"
        )
        vectors = 10.0 ** rng.uniform(-1, 1, (m, 1)) * rng.standard_normal((m, 32))
        about = f"e{i}", "t", "train", "g", "c", "", (question,), "yes, a no"[: 1 + 4 * i], True, ""
        given = vectors.astype(np.float32) if m else None
        layers = tuple(int(layer) for layer in rng.permutation(3)[:m])
        made.append(Example(*about, given, {}, layers=layers))
    return [wordings(example, prompter)[0] for example in made]


@pytest.fixture
def model(exact):
    return tiny_model(dtype=jnp.float64)


def drawn(shape, seed, scale):
    return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape), jnp.float64)


@pytest.fixture
def beside(model):
    """Adapters and a whole reader, away from the start, so that every gradient is there."""
    fresh = lora.init(model.config, rank=2, alpha=4.0, key=jax.random.key(0))
    adapters = {
        name: x.replace(a=jnp.asarray(x.a, jnp.float64), b=drawn(x.b.shape, i, 0.1))
        for i, (name, x) in enumerate(fresh.items())
    }
    layered = {"scale": (4,), "bias": (4, 32), "down": (4, 32, 3), "up": (4, 3, 32)}
    told_apart = {"keys": (4, 32, 5), "level": (4, 5), "words": (5, 32)}
    shapes = Reader(**layered, projection=(4, 32, 32), **told_apart)
    parts = {n: drawn(s, i, 0.3) for i, (n, s) in enumerate(dataclasses.asdict(shapes).items())}
    return Trained(adapters, Reader(**parts))


@functools.partial(jax.jit, static_argnames="how")
def measured(trained, model, batch, how=HOW):
    return loss_and_gradient(trained, Frozen(model), batch, how, jax.random.key(0))


def close(one, other):
    """Equal within 1e-10 of the largest entry of each leaf."""
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    for a, b in leaves:
        assert a.dtype == b.dtype == np.float64
        assert np.abs(np.asarray(a) - b).max() <= TOLERANCE * max(np.abs(b).max(), 1e-3)


def together(rows, size=3):
    return collate(rows, size, 32, max(COUNTS))


def alone(row):
    """A row without any padding."""
    batch, t, a = collate([row], 1, 32, max(len(row.slots), 1)), len(row), len(row.answer)
    return batch.replace(
        tokens=batch.tokens[:, :t],
        mask=batch.mask[:, :t],
        **{name: getattr(batch, name)[:, :a] for name in ("ask", "answers", "weights")},
    )


def weighted(trained, model, rows):
    """The mean over all answer tokens of what each row has by itself."""
    counts = np.array([len(row.answer) for row in rows], float)
    each = [measured(trained, model, alone(row)) for row in rows]
    shares = counts / counts.sum()
    return jax.tree.map(
        lambda *leaves: sum(s * x for s, x in zip(shares, leaves, strict=True)), *each
    )


def test_a_batch_is_the_mean_over_the_tokens_of_rows_alone(model, beside, rows):
    batch = together(rows)
    assert batch.tokens.shape[1] > max(map(len, rows)) > min(map(len, rows)) + 8
    found = measured(beside, model, batch)
    close(found, weighted(beside, model, rows))
    grads = found[1]
    for leaf in jax.tree.leaves(grads):
        assert (np.abs(leaf).reshape(len(leaf), -1).max(axis=1) > 1e-7).sum() >= 3, "layers reached"


@pytest.mark.slow
def test_so_it_is_where_all_weights_are_trained(model, rows):
    whole = Trained(model=parameters(model))
    close(measured(whole, model, together(rows)), weighted(whole, model, rows))


def by_hand(oracle, model, trained, batch):
    """The mean cross-entropy from a NumPy decoder: adapters merged, vectors added by a hook."""
    w = oracle.weights(model)
    for name, x in trained.lora.items():
        a, b = np.asarray(x.a), np.asarray(x.b)
        w[f"blocks.{name}.w"] = w[f"blocks.{name}.w"] + x.scale * np.einsum("lir,lro->lio", a, b)
    parts = {name: np.asarray(part) for name, part in trained.reader.given.items()}
    losses = []
    for row in range(len(batch.tokens)):
        held = [
            h
            for h in zip(batch.vectors[row], batch.slots[row], batch.layers[row], strict=True)
            if h[1] >= 0
        ]

        spoken = [
            vector.astype(float) / np.linalg.norm(vector.astype(float)) @ parts["keys"][own]
            + parts["level"][own]
            for vector, _, own in held
        ]
        shares = np.exp(np.mean(spoken, axis=0)) if held else np.zeros(5)
        outcome = shares @ parts["words"] / max(shares.sum(), 1e-9)

        def hook(site, layer, x, held=held, outcome=outcome):
            x = x.copy()
            for vector, slot, own in held if site == "resid_post" else ():
                if own == layer:
                    v = vector.astype(float) / np.linalg.norm(vector.astype(float))
                    read = parts["scale"][own] * (v @ parts["projection"][own])
                    read = read + v @ parts["down"][own] @ parts["up"][own] + parts["bias"][own]
                    read = read + outcome
                    x[slot] += 0.8 * np.linalg.norm(x[slot]) * read
            return x

        ids = batch.tokens[row][batch.mask[row]]
        logits = oracle.run(model, ids, hook, w).logits
        for place in range(len(ids) - int(batch.weights[row].sum()), len(ids)):
            before = logits[place - 1]
            best = before.max()
            losses.append(best + np.log(np.exp(before - best).sum()) - before[ids[place]])
    return np.mean(losses)


def test_the_loss_is_that_of_a_decoder_written_from_the_papers(model, beside, rows, numpy_llama):
    batch = together(rows)
    wanted = by_hand(numpy_llama, model, beside, batch)
    assert abs(float(measured(beside, model, batch)[0]) - wanted) <= TOLERANCE * wanted


def test_the_gradient_is_the_slope_of_the_loss(model, beside, rows):
    """Central differences along a random direction of everything that is trained."""
    batch = together(rows)
    leaves, treedef = jax.tree.flatten(beside)
    toward = jax.tree.unflatten(treedef, [drawn(x.shape, i, 0.3) for i, x in enumerate(leaves)])

    def at(step):
        moved = jax.tree.map(lambda x, v: x + step * v, beside, toward)
        return float(measured(moved, model, batch)[0])

    slope = sum(
        float((g * v).sum())
        for g, v in zip(
            jax.tree.leaves(measured(beside, model, batch)[1]), jax.tree.leaves(toward), strict=True
        )
    )
    np.testing.assert_allclose((at(1e-5) - at(-1e-5)) / 2e-5, slope, rtol=1e-6)


def widened(batch, columns=0, rows=0, answers=0, vectors=0):
    """The batch with more padding, more rows of no weight, more room for answers and vectors."""
    wide = {
        **dict.fromkeys(("tokens", "mask"), ((0, rows), (0, columns))),
        **dict.fromkeys(("ask", "answers", "weights"), ((0, rows), (0, answers))),
        **dict.fromkeys(("slots", "layers"), ((0, rows), (0, vectors))),
        "vectors": ((0, rows), (0, vectors), (0, 0)),
    }
    if batch.likely is not None:
        wide |= dict.fromkeys(("likely", "shares"), ((0, rows), (0, answers), (0, 0)))
    fill = {"ask": -1, "slots": -1, "layers": -1}
    return Batch(
        **{
            name: np.pad(getattr(batch, name), pad, constant_values=fill.get(name, 0))
            for name, pad in wide.items()
        }
    )


def test_loss_and_gradients_do_not_see_padding(model, beside, rows):
    batch = together(rows)
    wide = widened(batch, columns=13, rows=2, answers=5, vectors=2)
    close(measured(beside, model, wide), measured(beside, model, batch))


def test_what_fills_a_short_batch_has_no_effect(model, beside, rows):
    close(measured(beside, model, together(rows, size=8)), weighted(beside, model, rows))


def test_what_stands_in_the_padding_does_not_matter(model, beside, rows):
    batch = together(rows, size=8)
    spoilt = batch.replace(
        tokens=np.where(batch.mask, batch.tokens, 77).astype(np.int32),
        answers=np.where(batch.weights > 0, batch.answers, 99).astype(np.int32),
        vectors=np.where((batch.slots >= 0)[..., None], batch.vectors, 9).astype(np.float32),
    )
    close(measured(beside, model, spoilt), measured(beside, model, batch))


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_add_up_to_it(model, beside, rows, parts):
    """Whatever the parts hold: rows differ in tokens, and the last part is filled up."""
    batch = together(rows, size=8)
    how = dataclasses.replace(HOW, accumulate=parts)
    close(measured(beside, model, batch, how), measured(beside, model, batch))


def test_recomputing_changes_memory_not_gradients(model, beside, rows):
    batch = together(rows)
    how = dataclasses.replace(HOW, remat=True)
    close(measured(beside, model, batch, how), measured(beside, model, batch))


@functools.partial(jax.jit, static_argnames="name")
@functools.partial(jax.grad, argnums=3)
def sensitivity(trained, model, batch, vectors, name):
    """Of the loss to the vectors."""
    return total_loss(trained, Frozen(model), batch.replace(vectors=vectors), How(Way(name)))


@pytest.mark.parametrize("name", ["marker", "add"])
def test_the_loss_depends_on_the_vectors_of_placeholders_and_no_other(model, beside, rows, name):
    batch = together(rows, size=8)
    vectors = np.where((batch.slots >= 0)[..., None], batch.vectors, 3).astype(np.float64)
    grads = np.abs(sensitivity(beside, model, batch, vectors, name)).max(axis=-1)
    assert (grads[batch.slots >= 0] > 1e-6).all()
    assert (grads[batch.slots < 0] == 0).all()


def test_a_mean_over_no_token_is_zero(model, beside, rows):
    batch = together(rows)
    loss, grads = measured(beside, model, batch.replace(weights=0 * batch.weights))
    assert loss == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads))


def softened(row, rng):
    """The row where at every place but the last two other tokens could have come."""
    places = []
    for token in row.answer[:-1]:
        shares = rng.dirichlet([2.0, 1.0, 1.0])
        others = (token + 7) % 90 + 1, (token + 31) % 90 + 1
        places.append(tuple(zip((token, *others), shares.tolist(), strict=True)))
    return dataclasses.replace(row, likely=(*places, ((row.answer[-1], 1.0),)))


def test_shares_weigh_the_log_probabilities_of_what_could_have_come(model, beside, rows):
    rng = np.random.default_rng(5)
    mixed = [softened(rows[0], rng), rows[1], softened(rows[2], rng)]  # of one no share is known
    batch = collate(mixed, 4, 32, max(COUNTS), likely=3)
    said = np.asarray(answer_logits(beside, Frozen(model), batch, HOW), float)
    said = said - np.log(np.exp(said).sum(-1, keepdims=True))
    total = 0.0
    for i, row in enumerate(mixed):
        for place, token in enumerate(row.answer):
            shares = row.likely[place] if row.likely else ((token, 1.0),)
            total -= sum(share * said[i, place, other] for other, share in shares)
    count = sum(len(row.answer) for row in mixed)
    found = measured(beside, model, batch)
    np.testing.assert_allclose(found[0], total / count, rtol=1e-6)  # shares are float32
    wide = widened(batch, columns=13, rows=2, answers=5, vectors=2)
    close(measured(beside, model, wide), found)
    close(measured(beside, model, batch, dataclasses.replace(HOW, accumulate=2)), found)


def test_an_answer_that_is_certain_has_the_loss_of_the_answer_alone(model, beside, rows):
    certain = [
        dataclasses.replace(row, likely=tuple(((t, 1.0), (t + 1, 0.0)) for t in row.answer))
        for row in rows
    ]
    hard, soft = together(rows), collate(certain, 3, 32, max(COUNTS), likely=2)
    close(measured(beside, model, soft), measured(beside, model, hard))
