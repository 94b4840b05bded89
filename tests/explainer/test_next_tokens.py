"""What could come next at each place of an answer, by hand."""

import pytest

from selfx.explainer.batches import next_tokens


def test_answers_part_where_their_tokens_do():
    changed, unchanged = (1, 2, 5, 9), (1, 3, 4, 9)
    could = [(changed, 0.5), ((1, 2, 6, 9), 0.3), (unchanged, 0.2)]
    assert next_tokens(changed, could) == (
        ((1, pytest.approx(1.0)),),
        ((2, pytest.approx(0.8)), (3, pytest.approx(0.2))),
        ((5, pytest.approx(0.625)), (6, pytest.approx(0.375))),
        ((9, pytest.approx(1.0)),),
    )


def test_a_shorter_answer_ends_earlier():
    could = [((1, 2, 9), 0.75), ((1, 9), 0.25)]
    assert next_tokens((1, 2, 9), could)[1:] == (((2, 0.75), (9, 0.25)), ((9, 1.0),))


def test_a_true_answer_whose_share_vanishes_is_still_learned():
    assert next_tokens((1, 2), [((1, 2), 0.0), ((1, 3), 1.0)])[1] == ((2, 0.0), (3, 1.0))
    assert next_tokens((1, 2, 4), [((1, 2, 4), 0.0), ((1, 3, 4), 1.0)])[2] == ((4, 1.0),)
