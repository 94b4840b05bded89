from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerFast

from selfx.testing import tiny_model, tiny_tokenizer
from selfx.weights.load import LanguageModel

WORDS = "the cat sat on a mat while rain fell over old roofs and nobody said anything about it"
SPECIAL = ["<pad>", "<begin>"]


@pytest.fixture(scope="session")
def lm_of():
    """A function: a model of some config as `selfx.load` returns one, with a hash of its name."""

    def make(config, seed=0, *, name="tiny", model=None, tokenizer=None):
        model = tiny_model(config, seed) if model is None else model
        tokenizer = tiny_tokenizer() if tokenizer is None else tokenizer
        return LanguageModel(model, config, tokenizer, name, Path(name), name * 8, (2,))

    return make


@pytest.fixture(scope="session")
def texts():
    """Forty texts of some ten words, no two alike."""
    words = WORDS.split()
    rows = []
    for i in range(40):
        picked = [words[(i * 7 + j * (i % 5 + 1)) % len(words)] for j in range(9 + i % 3)]
        rows.append(" ".join(picked).capitalize() + ".?!;"[i % 4])
    return rows


@pytest.fixture(scope="session")
def merging():
    """A byte-level tokenizer with merges, also across characters, that begins texts with a token.

    Its post-processor trims spaces off the offsets, as that of some published models does.
    """
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([WORDS] * 3 + ["日本語日本語 wörld  über \n\n"] * 9, trainer)
    begin = processors.TemplateProcessing(single="<begin> $A", special_tokens=[("<begin>", 1)])
    trimming = processors.ByteLevel(trim_offsets=True)
    inner.post_processor = processors.Sequence([trimming, begin])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<begin>", pad_token="<pad>", eos_token="<pad>"
    )
