"""Rows of one's own: each once an epoch, the goal that ends training, and what is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.explainer.batches import Row
from selfx.explainer.further import Goal, Rows, Until, further, prompt_row, text_rows
from selfx.explainer.step import How
from selfx.explainer.training import Training
from selfx.testing import tiny_tokenizer

ROWS = [prompt_row(f"row {n}", range(3 + n % 5), [7, 2]) for n in range(22)]


def test_every_row_comes_once_an_epoch_in_another_order_each():
    plan = Rows(ROWS, 32, Training(batch_size=4))
    assert plan.steps_per_epoch == 6
    epochs = [
        [row.id for step in range(6) for row in plan.rows_of(6 * epoch + step)] for epoch in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(row.id for row in ROWS)
    assert epochs[0] != epochs[1]
    batch = plan.batch(0)
    assert batch.weights.sum() == 8  # two answer tokens in each of four rows
    assert (batch.slots == -1).all()


def test_text_is_cut_into_rows_that_teach_every_token_but_the_first():
    lm = SimpleNamespace(tokenizer=tiny_tokenizer())
    rows = text_rows(lm, ["abcdefghij", "xyz"], 6)
    ids = [lm.tokenizer(text).input_ids for text in ("abcdefghij", "xyz")]
    assert [[*row.ids, *row.answer] for row in rows] == [ids[0][:6], ids[0][6:], ids[1]]
    assert all(len(row.ids) == 1 for row in rows)


def watch(goal):
    how, size = How(Training().way), {"size": 4, "width": 32, "vectors": 1}
    return Until(ROWS[:4], how, lambda model: {}, goal, **size)


def test_patience_ends_as_soon_as_the_goal_is_reached_and_is_recalled_from_the_log():
    looks = [{"step": n, "held_out_loss": 9.0 - n, "share": n / 4} for n in range(4)]
    log = [json.dumps(look) for look in looks]
    early, late = watch(Goal("share", 0.5)), watch(Goal("share", 0.5))
    early.recall(log[:2])
    late.recall(log)
    assert (early.since, late.since) == (0, 1)
    assert not early.judge(0.1)  # a lower loss alone is no reason to keep the weights
    assert late.judge(9.0)
    without = watch(None)
    without.recall(log)
    assert without.since == 0


def test_what_cannot_be_learned_is_refused_before_anything_is_written(tiny_lm, tmp_path):
    long = Row("long", tuple(np.ones(600, int)), (2,), (), None, ())
    for rows, training, message in (
        ([], Training(), "0 rows"),
        ([long], Training(), "601 tokens"),
        (ROWS, Training(trains=("lora", "scale")), "trains scale"),
    ):
        with pytest.raises(SelfxError, match=message):
            further(tiny_lm, rows, tmp_path / "run", training, held_out=ROWS[:2])
    assert not (tmp_path / "run").exists()
