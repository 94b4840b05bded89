import random
import time

import pytest

from selfx.evaluation.answers.parsing import UNPARSABLE, Parsed, normalise, parse

ALPHABET = "ab Z.,:\n\t<>*\"'_é中 🙂0"


def test_reads_both_forms_of_the_grammar(word):
    assert parse(word(False, "Paris")) == Parsed(changed=False, content="Paris", ok=True)
    assert parse(word(True, "Paris")) == Parsed(changed=True, content="Paris", ok=True)


@pytest.mark.parametrize("seed", range(4))
def test_inverts_the_grammar_on_random_contents(word, seed):
    rng = random.Random(seed)
    for _ in range(2000):
        content = "".join(rng.choices(ALPHABET, k=rng.randrange(12)))
        if "<<<" in content or ">>>" in content:
            continue
        changed = rng.random() < 0.5
        assert parse(word(changed, content)) == Parsed(changed, content, True), content


@pytest.mark.parametrize(
    ("text", "changed", "content"),
    [
        ("THE OUTPUT WOULD REMAIN UNCHANGED FROM <<<X>>>.", False, "X"),
        ("The output would change to <<<X>>>", True, "X"),
        ("  the  most likely\noutput would\tchange \n to\n<<<X>>>.", True, "X"),
        ("The output would change to <<X>>.", True, "X"),
        ("The output would change to <<<X>>.", True, "X"),
        ("The output would change to <<X>>>.", True, "X"),
        ("The output would change to <X>.", True, "X"),
        ("The output would change to: **<<<X>>>**", True, "X"),
        ("The output would remain unchanged from <<<a > b>>>.", False, "a > b"),
        ("The output would remain unchanged from <<<a >> b>>>.", False, "a >> b"),
        ("The output would change to <<<>>>>.", True, ">"),
        ("The output would change to <<<<b>>>>.", True, "<b>"),
        ("The output would change to <<<\n>>>.", True, "\n"),
        ("The output would change to <<<>>>.", True, ""),
        ("It would change to <<<X>>>. It would remain unchanged from <<<Y>>>.", True, "X"),
        ("It would change to <<<X>>. It would change to <<<Y>>>.", True, "X"),
        ("It would change to <<<X. It would remain unchanged from <<<Y>>>.", False, "Y"),
        ("It would change to something. It would remain unchanged from <<<Y>>>.", False, "Y"),
        (
            "Answer: The output would change to <<<Answer: B>>>. Because of <<<this>>>.",
            True,
            "Answer: B",
        ),
    ],
)
def test_forgives(text, changed, content):
    assert parse(text) == Parsed(changed, content, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "<<<X>>>",
        "The output would change.",
        "The output would change to X.",
        "The output would change to <<<X",
        "The output would change to <<<" + "x" * 2000 + ">>>.",
        "The output would not change to <<<X>>>.",
        "The output is unchanged to <<<X>>>.",
        "The output would remain the same, <<<X>>>.",
    ],
)
def test_does_not_guess(text):
    assert parse(text) is UNPARSABLE
    assert (UNPARSABLE.changed, UNPARSABLE.content, UNPARSABLE.ok) == (None, None, False)


def test_never_raises():
    rng = random.Random(0)
    pieces = [
        "change to ",
        "remain unchanged from",
        "<",
        ">",
        "<<<",
        ">>>",
        "x",
        "\x00",
        "\ud800",
        "\n",
    ]
    for _ in range(5000):
        parsed = parse("".join(rng.choices(pieces, k=rng.randrange(15))))
        assert parsed.ok == (parsed.content is not None) == (parsed.changed is not None)


@pytest.mark.parametrize("piece", ["change to <<<", "change to <", "remain unchanged ", " ", "<"])
def test_a_degenerate_answer_takes_no_time(piece):
    started = time.perf_counter()
    parse("change to " + piece * 4000)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (" Paris. ", "paris"),
        ("PARIS .", "paris"),
        ("U.S.", "u.s"),
        ("...", ".."),
        (".", "."),
        (".5", ".5"),
        ("Straße", "strasse"),
        ("\n", ""),
    ],
)
def test_normalise(content, expected):
    assert normalise(content) == expected
