"""Which candidates are kept."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from selfx.tasks.balance import Kind, Quota, choose, quota, summary


def stream(n, share=0.3, cells=8, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Kind(
            "test" if rng.random() < 0.25 else "train",
            f"cell {min(int(rng.exponential(2)), cells - 1)}",
            bool(rng.random() < share),
        )
        for _ in range(n)
    ]


def count(kinds, chosen, field):
    return Counter((kinds[i].split, getattr(kinds[i], field)) for i in chosen)


def test_a_quota_is_split():
    assert quota(400, 0.25, 16) == Quota(300, 100, 16)
    assert quota(3, 0.25, 16).total == 3


def test_classes_come_out_even_and_cells_capped():
    kinds = stream(4000)
    chosen = choose(kinds, quota(400, 0.25, 8))
    assert len(chosen) == 400
    assert chosen == sorted(set(chosen))
    classes = count(kinds, chosen, "changed")
    assert classes["train", True] == classes["train", False] == 150
    assert classes["test", True] == classes["test", False] == 50
    by_kind = Counter(kinds[i] for i in chosen)
    assert max(n for kind, n in by_kind.items() if kind.split == "train") <= 2 * 150 / 8 + 1


def test_the_first_that_fit_are_kept_and_more_candidates_move_none():
    kinds = stream(4000)
    few, many = (choose(kinds[:n], quota(400, 0.25, 8)) for n in (1000, 4000))
    assert many[: len(few)] == few or set(few) <= set(many)


def test_cells_give_way_at_the_end():
    kinds = [dataclasses.replace(kind, cell="only") for kind in stream(4000)]
    wanted = quota(400, 0.25, 8)
    assert len(choose(kinds, wanted)) < 200
    assert len(choose(kinds, wanted, last=True)) == 400


@pytest.mark.parametrize("share", [0.0, 0.02, 1.0])
def test_no_class_fills_more_than_three_fifths(share):
    kinds = stream(2000, share)
    chosen = choose(kinds, quota(400, 0.25, 8), last=True)
    classes = count(kinds, chosen, "changed")
    assert max(classes[split, kind] for split in ("train",) for kind in (True, False)) <= 180
    assert max(classes["test", kind] for kind in (True, False)) <= 60


def test_odd_numbers_are_met():
    kinds = stream(4000, share=0.5)
    assert len(choose(kinds, quota(401, 0.25, 8))) == 401


def test_what_a_trace_tells():
    told = summary([Kind("train", "b", True), Kind("train", "a", False), Kind("test", "a", True)])
    assert told["train"] == {
        "unchanged": 1,
        "changed": 1,
        "cells": {"a": {"unchanged": 1, "changed": 0}, "b": {"unchanged": 0, "changed": 1}},
    }
    assert told["test"]["changed"] == 1
