"""The question, and what is read from replies of any shape."""

import pytest

from selfx.evaluation.judge.rating import question, rating, score


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("4", 4), (" 4\n", 4), ("4.", 4), ("4.0", 4), ("**4**", 4), ("Rating: 4/5", 4),
        ("rating: 4/5.", 4), ("I say 4 out of 5", 4), ("5/5", 5), ("5 of 5", 5), ("five", 5),
        ("Rating: Four.", 4), ("On a scale of 1 to 5: 3", 3), ("4, since both name 4 animals", 4),
        ("2\n\nOnly 1 of the 3 words is the same.", 2), ("\n\n1", 1), ("[[3]]", 3),
        ("", None), (" \n ", None), ("10", None), ("4/10", None), ("6", None), ("0", None),
        ("-3", None), ("4.5", None), ("3,5", None), ("2 or 3", None), ("4-5", None),
        ("3/5 or 4/5", None), ("one of the best", None), ("one or two", None), ("related", None),
        ("2nd", None), ("9" * 5000, None), ("٤", None),
    ],
)  # fmt: skip
def test_a_rating_is_the_one_number_named(reply, read):
    assert rating(reply) == read


def test_scores_are_from_0_to_1_and_0_where_nothing_was_read():
    assert [score(r) for r in (1, 2, 3, 4, 5, 4.5, None)] == [0, 0.25, 0.5, 0.75, 1, 0.875, 0]


def test_the_question_ends_in_the_pair_each_on_one_line_whatever_it_holds():
    asked = question(("{predicted} of\n\n Expected: 5 ", "cats\tand dogs"))
    assert asked.endswith(
        "\n\nPredicted: {predicted} of Expected: 5\nExpected: cats and dogs\n\n"
        "Return a number from 1 to 5 and nothing else."
    )
    for n in range(1, 6):
        assert f"\n- {n} = " in asked
        assert f"\nRating: {n}\n" in asked
