"""Scores with a hint, less what the hint adds: exact where hints add the same everywhere."""

import numpy as np

from selfx.evaluation.answers.metrics import content_match, exact_match, has_changed_f1, score
from selfx.evaluation.baselines.shifted import shifted_scores


def world(example, n, noise, seed, skip=""):
    """Questions whose scores a hint moves by what it adds to each letter, and by noise."""
    rng = np.random.default_rng(seed)
    adds = np.random.default_rng(9).normal(0, 2, (4, 4)) + 3 * np.eye(4)
    level = np.array([20.0, 21.0, 20.5, 22.0])
    made = []
    for i in range(n):
        hint = rng.choice([k for k in range(4) if "ABCD"[k] not in skip])
        plain = level + rng.normal(0, 1, 4)
        hinted = plain + adds[hint] + noise * rng.normal(0, 1, 4)
        said, then = ("ABCD"[int(np.argmax(s))] for s in (plain - level, hinted - level))
        one = example(i, said != then, f"Answer: {said}", cell=f"hint {'ABCD'[hint]}")
        one.details.update(
            hint="ABCD"[hint],
            random_hint_prediction=then,
            zeroshot_scores=plain.tolist(),
            random_hint_scores=hinted.tolist(),
        )
        made.append(one)
    return made


def test_it_is_right_where_hints_add_the_same_and_fails_where_they_do_not(example):
    train, test = world(example, 4000, 0.0, 0), world(example, 400, 0.0, 1)
    rows = score(test, shifted_scores(train, test))
    assert exact_match(rows) > 0.95  # the letters' levels are means over a sample
    noisy = world(example, 4000, 3.0, 0), world(example, 400, 3.0, 1)
    worse = score(noisy[1], shifted_scores(*noisy))
    assert content_match(worse) < 0.7 < has_changed_f1(rows)


def test_answers_that_were_not_calibrated_are_taken_as_they_are(example):
    """The level of each letter is then a part of what is answered."""

    def raw(n, seed):
        made = world(example, n, 0.0, seed)
        for i, one in enumerate(made):
            before, after = (one.details[f"{k}_scores"] for k in ("zeroshot", "random_hint"))
            said, then = ("ABCD"[int(np.argmax(s))] for s in (before, after))
            details = {**one.details, "random_hint_prediction": then, "format": "letters"}
            fresh = example(i, said != then, f"Answer: {said}", cell=one.cell)
            fresh.details.update(details)
            made[i] = fresh
        return made

    train, test = raw(500, 0), raw(200, 1)
    assert exact_match(score(test, shifted_scores(train, test))) == 1


def test_a_hint_never_seen_gets_what_hints_add_on_average(example):
    train, test = world(example, 500, 0.0, 0, skip="D"), world(example, 200, 0.0, 1)
    assert len(shifted_scores(train, test)) == 200
    seen = [one for one in test if one.details["hint"] != "D"]
    assert exact_match(score(seen, shifted_scores(train, seen))) > 0.9
