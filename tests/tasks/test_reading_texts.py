"""Windows of text by hand: words, where they end, excerpts; and which tokens are words."""

from collections import Counter

import numpy as np
import pytest

from selfx.tasks.plain_words import bare, first_words, trimmed, word_of
from selfx.tasks.reading_texts import Texts, Window, alone

PIECES = ("The", " vibr", "ant", " city", ",", " with", "\n\n", "two", " halves", " of")
WINDOW = Window("d", tuple(range(10)), PIECES, 0)


def test_words_of_a_window():
    assert WINDOW.text == "The vibrant city, with\n\ntwo halves of"
    assert WINDOW.words == ["The", "vibrant", "city,", "with", "two", "halves", "of"]
    assert [WINDOW.word_at(place) for place in range(10)] == [0, 1, 1, 2, 2, 3, None, 4, 5, 6]
    assert list(WINDOW.places()) == list(range(1, 10))


def test_only_where_a_word_ends_is_it_said():
    said = [WINDOW.said_until(place, 3) for place in range(10)]
    assert said[:4] == [None] * 4
    assert said[4:9] == [
        "The vibrant city,",
        "vibrant city, with",
        None,
        "city, with two",
        "with two halves",
    ]
    assert said[9] is None  # the last word may be cut


def test_what_is_put_before_a_text_is_none_of_it():
    led = Window("d", (99, *range(10)), ("", *PIECES), 1)
    assert led.text == WINDOW.text
    assert list(led.places()) == list(range(1, 11))
    assert [led.word_at(place) for place in range(1, 11)] == [
        WINDOW.word_at(place) for place in range(10)
    ]
    assert led.said_until(5, 3) == "The vibrant city,"


def test_an_excerpt_shows_its_word_anywhere_alike():
    """Over all words that may be drawn, each place in the excerpt is as likely as any other."""
    words = [f"w{n}" for n in range(14)]
    pieces = ("w0", *(f" {word}" for word in words[1:]))
    window, rng = Window("d", tuple(range(14)), pieces, 0), np.random.default_rng(0)
    places = Counter()
    for _ in range(12_000):
        word = int(rng.integers(1, 14))
        some = window.excerpt(word, 4, rng)
        if some is not None:
            assert some == words[int(some[0][1:]) :][:4]
            assert not {"w0", "w13"} & set(some)
            places[some.index(f"w{word}")] += 1
    assert set(places) == {0, 1, 2, 3}
    expected = sum(places.values()) / 4
    assert sum((n - expected) ** 2 / expected for n in places.values()) < 16.3  # p = 0.001


def test_no_excerpt_of_what_does_not_print():
    window = Window("d", tuple(range(5)), ("a", " b", " \ufffd", " d", " e"), 0)
    assert all(window.excerpt(1, 3, np.random.default_rng(n)) is None for n in range(20))


def test_windows_start_with_words_of_their_document(tiny_lm):
    documents = ["The war  was long.\nIt ended in <slot> May.", "one two three four five six " * 4]
    texts, rng = Texts(tiny_lm.tokenizer, documents, 24), np.random.default_rng(0)
    drawn = [texts.draw(rng) for _ in range(200)]
    windows = [window for window in drawn if window is not None]
    assert len({window.document for window in windows}) == 2
    assert None in drawn
    for window in windows:
        (text,) = (text for text in documents if window.text in text)
        assert f" {text}".replace("\n", " ").find(f" {window.text}".replace("\n", " ")) >= 0
        assert len(window.ids) <= 24
        assert len(window.words) >= 4
        assert "<slot>" not in window.text


@pytest.mark.parametrize(
    ("piece", "word"),
    [
        (" the", "the"),
        ("ing", "ing"),
        ("'s", "'s"),
        (" 1920", "1920"),
        (" größer", "größer"),
        ("\n", None),
        (" ...", None),
        ("\ufffd", None),
        (" a b", None),
        ("<b>", None),
        ("1,000", None),
        ("a\x00", None),
    ],
)
def test_words_among_tokens(piece, word):
    assert word_of(piece) == word


def test_first_words_are_different_ones():
    assert first_words([" the", ".", "The", " a", " THE", "b", "c"], 3) == ("the", "a", "b")
    assert first_words([" .", "x"], 3) == ("x",)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (" The  Sea, ", "the sea"),
        ('"Copyright"', "copyright"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("reddish-brown", "reddish-brown"),
        ("...", "..."),
        ("", ""),
        ("की।", "की"),
        ("$5", "$5"),
    ],
)
def test_the_form_in_which_words_are_compared(text, same):
    assert bare(text) == same


def test_trimmed_keeps_case_and_alone_does_not():
    assert trimmed("(Mali),") == "Mali"
    assert alone(["the", "Mali", "of"], "mali,")
    assert not alone(["The", "sea,", "the"], "the")
