import numpy as np
import pytest
from transformers import GPT2Tokenizer

from selfx.errors import SelfxError
from selfx.weights.tokenizer import from_folder, from_gguf

TEXTS = [
    "The capital of France is Paris.",
    " leading, trailing \n\n and\ttabs  ",
    "naïve café déjà vu: 漢字かな交じり, Ελληνικά, العربية",
    "🎉👩‍👩‍👧 emoji, \u200b zero width, e\u0301 combined",
    "x = 3.14159 * 10**2024  # 0123456789",
    "it's we'll I'D they've",
    "\r\n\r\n  \u00a0",
    "",
]


@pytest.fixture
def tokenizer(metadata):
    return from_gguf(metadata())


@pytest.mark.parametrize("pre", ["smollm", "gpt-2", "llama-bpe"])
@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_the_round_trip(metadata, pre, text):
    tokenizer = from_gguf(metadata(pre=pre, add_bos_token=False))
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_merges_are_applied_in_order(tokenizer):
    assert tokenizer.tokenize("hell hello") == ["hell", "Ġ", "hell", "o"]


def test_special_tokens_are_recognised_inside_text(tokenizer):
    ids = tokenizer("a<|im_end|>b<tool>")["input_ids"]
    assert (ids[1], ids[3]) == (2, 3)
    assert tokenizer.decode(ids) == "a<|im_end|>b<tool>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab<tool>"
    assert tokenizer.decode([1, 2, 0], skip_special_tokens=True) == ""


def test_roles_and_size_are_those_of_the_file(tokenizer, metadata):
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    assert tokenizer.unk_token is None
    tokens = metadata()["tokenizer.ggml.tokens"]
    assert tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))) == tokens


@pytest.mark.parametrize(
    ("changes", "begins", "ends"),
    [
        ({}, False, False),
        ({"add_bos_token": True}, True, False),
        ({"add_bos_token": True, "add_eos_token": True}, True, True),
        ({"pre": "llama-bpe", "add_bos_token": None}, True, False),
        ({"pre": "llama-bpe"}, False, False),
    ],
    ids=str,
)
def test_ends_are_added_where_the_file_asks(metadata, changes, begins, ends):
    fields = {key: value for key, value in metadata(**changes).items() if value is not None}
    tokenizer = from_gguf(fields)
    ids = tokenizer("hi")["input_ids"]
    assert (ids[0] == 1, ids[-1] == 2) == (begins, ends)
    plain = tokenizer("hi", add_special_tokens=False)["input_ids"]
    assert ids == [1] * begins + plain + [2] * ends


def test_digits_are_split_as_the_file_says(metadata):
    def pieces(pre, text):
        inner = from_gguf(metadata(pre=pre)).backend_tokenizer
        return [piece for piece, _ in inner.pre_tokenizer.pre_tokenize_str(text)]

    assert pieces("smollm", "in 2024!") == ["in", "Ġ", "2", "0", "2", "4", "!"]
    assert pieces("gpt-2", "in 2024!") == ["in", "Ġ2024", "!"]
    assert pieces("llama-bpe", "in 2024!") == ["in", "Ġ", "202", "4", "!"]
    assert pieces("llama-bpe", "I'LL go\n\n x") == ["I", "'LL", "Ġgo", "ĊĊ", "Ġx"]


def test_gpt2_splits_as_its_original_does(metadata):
    fields = metadata(pre="gpt-2")
    tokens, merges = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.merges"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    original = GPT2Tokenizer(vocab=vocabulary, merges=[tuple(m.split()) for m in merges])
    ours = from_gguf(fields)
    for text in TEXTS:
        assert ours(text)["input_ids"] == original(text)["input_ids"]


def test_the_chat_template_is_the_files(tokenizer):
    chat = [{"role": "user", "content": "hello"}]
    text = "<|im_start|>user\nhello<|im_end|>\n"
    assert tokenizer.apply_chat_template(chat, tokenize=False) == text
    ids = tokenizer.apply_chat_template(chat)["input_ids"]
    assert ids == tokenizer(text)["input_ids"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "llama"}, "'llama'"),
        ({"pre": "tekken"}, "'tekken'"),
        ({"pre": None}, "None"),
        ({"tokens": None}, "lacks tokenizer.ggml.tokens"),
        ({"merges": None}, "lacks tokenizer.ggml.merges"),
        ({"token_type": [1]}, "differ in number"),
        ({"merges": ["q zz"]}, "merges do not fit"),
        ({"merges": ["q"]}, "merges do not fit"),
        ({"bos_token_id": 10_000}, "bos_token_id"),
        ({"bos_token_id": None, "add_bos_token": True}, "no bos token"),
    ],
    ids=str,
)
def test_what_is_not_understood_raises(metadata, changes, message):
    with pytest.raises(SelfxError, match=message):
        from_gguf(metadata(**changes))


def test_a_vocabulary_with_a_token_twice_raises(metadata):
    fields = metadata()
    tokens = fields["tokenizer.ggml.tokens"]
    with pytest.raises(SelfxError, match="twice"):
        from_gguf({**fields, "tokenizer.ggml.tokens": [*tokens[:-1], tokens[-2]]})


def test_a_folder_without_a_tokenizer_raises(tmp_path):
    with pytest.raises(SelfxError, match="no readable tokenizer"):
        from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(np.random.default_rng(0).bytes(100))
    with pytest.raises(SelfxError, match="no readable tokenizer"):
        from_folder(tmp_path)


@pytest.mark.model
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("The capital of France is", [504, 3575, 282, 4649, 314]),
        (" Paris", [7042]),
        ("Hello world! 123", [19556, 905, 17, 216, 33, 34, 35]),
        ("Café déjà vu.", [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30]),
        ("  multiple   spaces", [216, 2701, 256, 5600]),
        ("<|im_start|>user\n", [1, 4093, 198]),
    ],
)
def test_smollm2_tokenises_as_published(smollm2, text, ids):
    assert smollm2.tokenizer(text)["input_ids"] == ids


@pytest.mark.model
@pytest.mark.parametrize("text", TEXTS)
def test_smollm2_survives_the_round_trip(smollm2, text):
    assert smollm2.tokenizer.decode(smollm2.tokenizer(text)["input_ids"]) == text


@pytest.mark.model
def test_smollm2_renders_its_chat(smollm2):
    chat = [{"role": "user", "content": "Hi"}]
    text = smollm2.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\n"
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
