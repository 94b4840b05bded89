"""Tokens are paired where both tokenizers have said the same text, and nowhere else."""

import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.explainer.projection.pairing import cut, paired_texts, reading
from selfx.testing import tiny_config, tiny_tokenizer

ODD = [
    "the cat sat on a mat",
    "  two  spaces, \n\n and lines \n",
    "wörld über 日本語日本語 😀 it's",
    "日日本 nobody said anything",
]


def said(tokenizer, ids):
    """The text of each first so many tokens; None where it ends within a character."""
    texts = [tokenizer.decode(ids[: i + 1], skip_special_tokens=True) for i in range(len(ids))]
    return [None if "\ufffd" in text else text for text in texts]


def same_so_far(one, other, text):
    """All positions but the first at which two tokenizers have said the same, by decoding."""
    ours, theirs = (said(t, t(text).input_ids) for t in (one, other))
    return {
        (i, j)
        for i, here in enumerate(ours)
        for j, there in enumerate(theirs)
        if i and j and here is not None and here == there
    }


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("turned", [False, True])
def test_pairs_are_the_positions_at_which_both_have_said_the_same(lm_of, merging, text, turned):
    tokenizers = (tiny_tokenizer(), merging)[:: -1 if turned else 1]
    models = [lm_of(tiny_config(vocab_size=400), tokenizer=t) for t in tokenizers]
    (piece,) = paired_texts(*models, [text], limit=1000)
    assert {tuple(pair) for pair in piece.places.tolist()} == same_so_far(*tokenizers, text)
    assert list(piece.target) == tokenizers[0](text).input_ids
    assert list(piece.explainer) == tokenizers[1](text).input_ids


def test_merges_leave_out_places_and_a_character_may_lack_one(merging):
    """The texts above try something: tokens that join words' parts, and parts of characters."""
    texts = [ids for text in ODD for ids in said(merging, merging(text).input_ids)]
    assert None in texts
    pairs = [len(same_so_far(tiny_tokenizer(), merging, text)) for text in ODD]
    assert all(count < len(text) for count, text in zip(pairs, ODD, strict=True))


def test_one_tokenizer_with_itself_pairs_every_token_but_the_first(lm_of, texts):
    lm = lm_of(tiny_config())
    for piece in paired_texts(lm, lm, texts, limit=10**6):
        expected = np.arange(1, len(piece.target))
        np.testing.assert_array_equal(piece.places, np.stack([expected, expected], axis=1))


def test_what_stands_after_the_context_is_left_out(merging):
    ids, ends = reading(merging, 5)("the cat sat on a mat")
    assert len(ids) == 5
    assert set(ends.values()) <= {1, 2, 3, 4}


def test_a_character_cut_by_the_context_ends_nowhere():
    ids, ends = reading(tiny_tokenizer(), 4)("aaaé")
    assert len(ids) == 4
    assert ends == {2: 1, 3: 2}


def test_pieces_are_the_whole_text_cut_before_spaces():
    text = "one two three " * 20 + "x" * 70 + " end"
    parts = list(cut(text, 32))
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 32
    assert all(part.startswith((" ", "x")) for part in parts[1:])
    assert list(cut("日" * 70, 32)) == ["日" * 32, "日" * 32, "日" * 6]


def test_the_limit_is_kept_and_a_long_text_takes_no_more_than_its_share(lm_of, texts):
    lm = lm_of(tiny_config())
    long = " ".join(texts * 9)
    pieces = paired_texts(lm, lm, [long, *texts], limit=1600)
    counts = np.bincount([piece.text for piece in pieces], [len(p.places) for p in pieces])
    assert 1600 <= counts.sum() < 1700
    assert counts[0] <= 1600 / 20 + 512
    assert len(counts) > 10


@pytest.mark.parametrize("texts", [[], ["a"] * 20, ["", " "]])
def test_texts_without_a_pair_are_refused(lm_of, texts):
    lm = lm_of(tiny_config())
    with pytest.raises(SelfxError, match="no token of tiny ends where"):
        paired_texts(lm, lm, texts, limit=100)


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(SelfxError, match="a Slow, which keeps no offsets"):
        reading(Slow(), 10)
