"""Tokenizers that give texts back pass, those that lose some fail, those that tidy are told of."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from selfx.doctor import tokens
from selfx.testing import CHAT_TEMPLATE, tiny_tokenizer

ROWS = 262


def outcomes(tokenizer, rows=ROWS):
    return {check.name: check for check in tokens.tokenizer_checks(tokenizer, rows)}


def test_a_tokenizer_of_bytes_passes_every_check():
    found = outcomes(tiny_tokenizer())
    assert {check.outcome for check in found.values()} == {"passed"}
    assert found["tokenizer: ends"].note == "adds nothing"


def test_lost_spaces_fail():
    """A decoder that was forgotten: bytes come back as the letters that stand for them."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()
    check = outcomes(tokenizer)["tokenizer: round trip"]
    assert check.failed
    assert "becomes" in check.note


def test_what_a_tokenizer_tidies_by_design_is_described():
    """Lower case and one space before every text: said, and no failure."""
    tokenizer = tiny_tokenizer()
    inner = tokenizer.backend_tokenizer
    inner.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Prepend(" ")])
    check = outcomes(tokenizer)["tokenizer: round trip"]
    assert check.failed  # a space more each time: decoding is not stable
    inner.normalizer = normalizers.Lowercase()
    check = outcomes(tokenizer)["tokenizer: round trip"]
    assert check.outcome == "passed"
    assert "normalises by design" in check.note


def test_stripped_accents_fail():
    """Stable, and yet another text."""
    tokenizer = tiny_tokenizer()
    strip = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    tokenizer.backend_tokenizer.normalizer = strip
    assert outcomes(tokenizer)["tokenizer: round trip"].failed


def test_words_with_an_unknown_token_are_described():
    words = {"<unk>": 0, "plain": 1, "words": 2}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    check = outcomes(tokenizer)["tokenizer: round trip"]
    assert check.outcome == "passed"
    assert "<unk>" in check.note


def test_more_tokens_than_rows_fail():
    found = outcomes(tiny_tokenizer(), ROWS - 1)
    assert "id 261, the embedding 261 rows" in found["tokenizer: ids"].note
    assert found["tokenizer: ids"].failed
    assert outcomes(tiny_tokenizer(), ROWS + 2)["tokenizer: ids"].note == "2 rows without a token"


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("added", [True, False])
def test_the_beginning_that_is_declared(declared, added):
    """What the config says against what the tokenizer does, whoever set it up."""
    inner = tiny_tokenizer().backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<begin>", add_bos_token=declared
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=["<begin>", "$A"] if added else ["$A"], special_tokens=[("<begin>", 3)]
    )
    check = outcomes(tokenizer)["tokenizer: ends"]
    assert check.failed == (declared != added), check.note
    if declared == added:
        assert check.note == ("adds ['<begin>'] before" if added else "adds nothing")


def test_a_special_token_outside_the_vocabulary_fails():
    inner = tiny_tokenizer().backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    tokenizer.eos_token = "no such token"
    check = outcomes(tokenizer)["tokenizer: special tokens"]
    assert check.failed
    assert "no such token has no id" in check.note


def test_a_chat_template():
    tokenizer = tiny_tokenizer()
    assert outcomes(tokenizer)["tokenizer: chat template"].outcome == "passed"
    tokenizer.chat_template = None
    assert outcomes(tokenizer)["tokenizer: chat template"].outcome == "skipped"
    tokenizer.chat_template = CHAT_TEMPLATE.replace("message['content']", "'...'")
    check = outcomes(tokenizer)["tokenizer: chat template"]
    assert check.note == "it leaves out what the user said"
    tokenizer.bos_token = "<begin>"
    tokenizer.chat_template = "<begin><begin>" + CHAT_TEMPLATE
    assert "twice" in outcomes(tokenizer)["tokenizer: chat template"].note
