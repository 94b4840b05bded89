import dataclasses

import jax
import numpy as np
import pytest

from selfx.tasks.example import SLOT, Example
from selfx.testing import tiny_tokenizer

TURN_END = 2


def examples(n, *, wordings=3, seed=0):
    """Questions of different lengths, each with its number in it; every third has no vector."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        tail = "x" * int(rng.integers(0, 90))
        slot = "" if i % 3 == 2 else SLOT
        questions = tuple(f"{w}:{i}:{slot}{tail}" for w in range(wordings))
        vectors = None if i % 3 == 2 else np.full((1, 32), i + 1, np.float32)
        answer = "y" * int(rng.integers(1, 9)) + str(i)
        made.append(
            Example(f"e{i}", "t", "train", "g", "c", "", questions, answer, True, "x", vectors, {})
        )
    return made


def texts(batch):
    """`(question, answer)` of every row that counts, read back from the arrays."""
    decode = tiny_tokenizer().decode
    read = []
    for row in range(len(batch.tokens)):
        real = batch.tokens[row][batch.mask[row]]
        if not len(real):
            continue
        asked = batch.ask[row][batch.weights[row] > 0]
        read.append((decode(real[: asked[0] + 1]), decode(batch.answers[row, : len(asked) - 1])))
    return read


def number(question):
    return int(question.split(":")[1].rstrip("x\n").split("<")[0].split("x")[0])


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(("n", "size"), [(1, 4), (4, 4), (7, 4), (64, 4), (131, 4), (67, 2)])
def test_every_example_once_an_epoch(plan_of, n, size):
    plan = plan_of(examples(n), batch_size=size)
    assert plan.steps_per_epoch == -(-n // size)
    epochs = []
    for epoch in range(3):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        seen = [number(q) for step in steps for q, _ in texts(plan.batch(step))]
        assert sorted(seen) == list(range(n))
        epochs.append(seen)
    if n > 8:
        assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_is_a_function_of_seed_and_step(plan_of):
    plan = plan_of(examples(37))
    in_sequence = [plan.batch(step) for step in range(3 * plan.steps_per_epoch)]
    for step in np.random.default_rng(0).permutation(len(in_sequence)):
        same(plan_of(examples(37)).batch(int(step)), in_sequence[step])
        same(plan.batch(int(step)), in_sequence[step])


def test_another_seed_is_another_order(plan_of):
    def order(seed):
        plan = plan_of(examples(37), seed=seed)
        return [texts(plan.batch(step)) for step in range(plan.steps_per_epoch)]

    assert order(0) != order(1)


def test_all_wordings_come_up_over_the_epochs(plan_of):
    plan = plan_of(examples(6))
    read = [texts(plan.batch(step)) for step in range(30 * plan.steps_per_epoch)]
    seen = {(number(q), q[0]) for batch in read for q, _ in batch}
    assert seen == {(i, str(w)) for i in range(6) for w in range(3)}


def test_positions_asked_give_the_answer_back(plan_of):
    """Question, answer and end from `tokens` alone; the same answer from `answers`."""
    made = examples(37)
    plan, decode = plan_of(made), tiny_tokenizer().decode
    for step in range(plan.steps_per_epoch):
        batch = plan.batch(step)
        for row in range(4):
            count = int(batch.weights[row].sum())
            if not count:
                continue
            ask = batch.ask[row, :count]
            np.testing.assert_array_equal(batch.weights[row, :count], 1)
            np.testing.assert_array_equal(ask, np.arange(ask[0], ask[0] + count))
            np.testing.assert_array_equal(batch.tokens[row, ask + 1], batch.answers[row, :count])
            assert batch.answers[row, count - 1] == TURN_END
            assert batch.mask[row].sum() == ask[-1] + 2
            example = made[number(decode(batch.tokens[row, : ask[0] + 1]))]
            assert decode(batch.answers[row, : count - 1]) == example.answer
            question = decode(batch.tokens[row, : ask[0] + 1])
            marked = [q.replace(SLOT, "<begin><slot><end>") + "\n" for q in example.questions]
            assert question in marked


def test_vectors_and_slots_go_with_their_rows(plan_of):
    plan = plan_of(examples(37))
    for step in range(plan.steps_per_epoch):
        batch = plan.batch(step)
        read = iter(texts(batch))
        for row in range(4):
            if not batch.mask[row].any():
                continue
            index = number(next(read)[0])
            if index % 3 == 2:
                assert batch.slots[row, 0] == -1
                assert not batch.vectors[row].any()
            else:
                assert batch.tokens[row, batch.slots[row, 0]] == 5
                np.testing.assert_array_equal(batch.vectors[row], np.full((1, 32), index + 1))


def test_what_fills_a_short_batch_has_no_weight(plan_of):
    plan = plan_of(examples(5))
    short = [plan.batch(step) for step in range(2) if plan.batch(step).mask.any(1).sum() == 1]
    assert len(short) == 1
    fill = ~short[0].mask.any(1)
    assert fill.sum() == 3
    assert not short[0].weights[fill].any()
    assert (short[0].ask[fill] == -1).all()
    assert (short[0].slots[fill] == -1).all()
    assert not short[0].vectors[fill].any()


def test_padding_is_on_the_right_and_has_no_weight(plan_of):
    plan = plan_of(examples(37))
    for step in range(plan.steps_per_epoch):
        batch = plan.batch(step)
        lengths = batch.mask.sum(1)
        np.testing.assert_array_equal(batch.mask, np.arange(batch.mask.shape[1]) < lengths[:, None])
        assert not batch.tokens[~batch.mask].any()
        assert ((batch.ask >= 0) == (batch.weights > 0)).all()
        assert batch.n_tokens == lengths.sum()


def test_few_shapes_and_little_padding(plan_of):
    plan = plan_of(examples(400), batch_size=8)
    batches = [plan.batch(step) for step in range(2 * plan.steps_per_epoch)]
    longest = [int(batch.weights.sum(1).max()) for batch in batches]
    assert [batch.ask.shape[1] for batch in batches] == [8 if n <= 8 else 16 for n in longest]
    assert len(set(longest)) > 2
    widths = {batch.tokens.shape for batch in batches}
    assert all(width % 8 == 0 for _, width in widths)
    assert len(widths) <= 12
    real = sum(batch.n_tokens for batch in batches)
    room = sum(batch.tokens.size for batch in batches)
    assert real / room > 0.8  # unsorted it would be about half


def test_batches_of_like_length_do_not_come_in_order_of_length(plan_of):
    plan = plan_of(examples(128), batch_size=4)
    widths = [plan.batch(step).tokens.shape[1] for step in range(plan.steps_per_epoch)]
    assert widths != sorted(widths)
    assert widths != sorted(widths, reverse=True)


DTYPES = {
    "tokens": "int32",
    "mask": "bool",
    "ask": "int32",
    "answers": "int32",
    "weights": "float32",
    "vectors": "float32",
    "slots": "int32",
    "layers": "int32",
}


def dtypes(batch):
    names = [field.name for field in dataclasses.fields(batch)]
    held = {name: getattr(batch, name) for name in names}
    return {name: str(array.dtype) for name, array in held.items() if array is not None}


def test_dtypes_are_what_the_step_compiles_for(plan_of):
    assert dtypes(plan_of(examples(5)).batch(0)) == DTYPES


def test_shares_have_one_room_in_every_batch_of_a_plan(plan_of):
    made = examples(23)
    for i in (3, 8):  # of the others no share is known
        likely = ((made[i].answer, 0.5), ("no", 0.3), ("what", 0.2))[: 2 + i // 8]
        made[i] = dataclasses.replace(made[i], likely=likely)
    plan = plan_of(made, batch_size=4)
    assert plan.likely == 3
    for step in range(plan.steps_per_epoch):
        batch = plan.batch(step)
        assert dtypes(batch) == DTYPES | {"likely": "int32", "shares": "float32"}
        assert batch.likely.shape == batch.shares.shape == (*batch.answers.shape, 3)
        np.testing.assert_allclose(batch.shares.sum(axis=-1), batch.weights, atol=1e-6)
        own = (batch.likely == batch.answers[..., None]) & (batch.shares > 0)
        assert (own.any(axis=-1) == (batch.weights > 0)).all()


def several(n, counts=(0, 1, 3, 2)):
    """Examples with `counts` vectors in turn, side by side and each at its own place in turn."""
    rng = np.random.default_rng(2)
    made = []
    for i in range(n):
        m = counts[i % len(counts)]
        places = " and ".join([SLOT] * m) if i % 2 else SLOT * (m > 0)
        vectors = rng.standard_normal((m, 32)).astype(np.float32) if m else None
        about = f"e{i}", "t", "train", "g", "c", "", (f"0:{i}:{places}?",), f"a{i}", True, "x"
        made.append(Example(*about, vectors, {}, layers=tuple(rng.integers(0, 4, m).tolist())))
    return made


def test_several_vectors_of_a_row_keep_their_order_places_and_layers(plan_of):
    made = several(23)
    plan, decode = plan_of(made), tiny_tokenizer().decode
    seen = set()
    for step in range(plan.steps_per_epoch):
        batch = plan.batch(step)
        assert batch.vectors.shape == (4, 3, 32)
        for row in range(4):
            if not batch.mask[row].any():
                assert (batch.slots[row] == -1).all()
                continue
            example = made[number(decode(batch.tokens[row][batch.mask[row]]))]
            m = len(example.layers)
            slots = batch.slots[row, :m]
            assert (batch.tokens[row, slots] == 5).all()
            assert (np.diff(slots) > 0).all()
            assert (batch.tokens[row] == 5).sum() == m
            assert tuple(batch.layers[row, :m]) == example.layers
            for rest in (batch.slots, batch.layers):
                assert (rest[row, m:] == -1).all()
            assert not batch.vectors[row, m:].any()
            if m:
                np.testing.assert_array_equal(batch.vectors[row, :m], example.vectors)
            seen.add((m, bool(m > 1 and slots[1] == slots[0] + 1)))
    assert seen == {(0, False), (1, False), (2, False), (3, True)}


def ids_of(plan, epoch):
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    return [row.id for step in steps for row in plan.rows_of(step)]


TIMES = [2.0] * 4 + [0.5] * 8 + [0.25] * 12 + [1.6] * 5
"""23 rows an epoch: eight, four, three and eight."""


def test_every_epoch_of_a_mixture_has_as_many_rows_and_whole_times_are_certain(plan_of):
    made = examples(len(TIMES))
    plan = plan_of(made, times=TIMES)
    assert plan.steps_per_epoch == 6
    for epoch in range(20):
        seen = ids_of(plan, epoch)
        assert len(seen) == 23
        counts = [seen.count(example.id) for example in made]
        for count, times in zip(counts, TIMES, strict=True):
            assert int(times) <= count <= -(-times // 1)
    assert ids_of(plan, 0) != ids_of(plan, 1)


def test_a_share_is_how_often_an_example_is_seen_on_average(plan_of):
    """Within 4 standard errors of a coin with that chance, over all examples of a share."""
    made, epochs = examples(len(TIMES), wordings=1), 400
    plan = plan_of(made, times=TIMES)
    counts = dict.fromkeys((example.id for example in made), 0)
    for epoch in range(epochs):
        for id in ids_of(plan, epoch):
            counts[id] += 1
    for times in sorted(set(TIMES)):
        seen = [counts[e.id] for e, own in zip(made, TIMES, strict=True) if own == times]
        chance = times % 1
        error = np.sqrt(chance * (1 - chance) / (epochs * len(seen)))
        assert abs(np.mean(seen) / epochs - times) <= 4 * error + 1e-12, times
        assert min(seen) > 0


def test_a_mixtures_batch_is_a_function_of_seed_and_step(plan_of):
    made = examples(len(TIMES))
    plan = plan_of(made, times=TIMES)
    in_sequence = [plan.batch(step) for step in range(3 * plan.steps_per_epoch)]
    for step in np.random.default_rng(0).permutation(len(in_sequence)):
        same(plan_of(made, times=TIMES).batch(int(step)), in_sequence[step])
    other = plan_of(made, times=TIMES, seed=1)
    assert ids_of(other, 0) != ids_of(plan, 0)


def test_times_of_one_are_no_times(plan_of):
    made = examples(37)
    plain, given = plan_of(made), plan_of(made, times=[1.0] * 37)
    for step in range(plain.steps_per_epoch):
        same(given.batch(step), plain.batch(step))


def test_a_batch_has_room_for_its_own_longest_answer_and_no_other(plan_of):
    """Answers of one letter but one of forty: the vocabulary is paid for once."""
    made = [
        dataclasses.replace(e, answer="y" * (40 if i == 5 else 1))
        for i, e in enumerate(examples(32))
    ]
    plan = plan_of(made)
    rooms = sorted(plan.batch(step).ask.shape[1] for step in range(plan.steps_per_epoch))
    assert rooms == [8] * 7 + [48]
