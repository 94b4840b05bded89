"""Embeddings of descriptions: shared words count, and the sentence encoder is the published one."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from selfx.errors import SelfxError
from selfx.features.scores.minilm import load_minilm
from selfx.features.scores.similarity import Tfidf, similarity

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cats", "dogs", "and", "num", "##bers", "of"]
SIZES = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 300,
}
TEXTS = ["cats and dogs", "numbers of dogs", "", "cats", "cats " * 400]


def test_shared_words_make_descriptions_alike_rare_ones_most():
    texts = [
        "words about cats",
        "words about dogs",
        "words about music",
        "words about cats and tea",
    ]
    embedder = Tfidf.of(texts)
    rows = embedder(texts)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    got = rows @ rows.T
    assert got[0, 3] > got[0, 1] > 0
    assert embedder(["cats"]) @ embedder(["cat"]).T == pytest.approx(1), "stems are compared"
    assert (embedder(["", "cats"])[0] == 0).all()


def test_the_nearest_true_description_counts():
    embedder = Tfidf.of(["red wine", "blue sea", "green hill"])
    got = similarity(embedder, ["red wine", "sea", "x"], [["blue sea", "red wine"], ["sea"], []])
    np.testing.assert_allclose(got, [1, 1, 0], atol=1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An encoder of the same shape as the published one, small and random."""
    path = tmp_path_factory.mktemp("minilm")
    config = {"model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12, **SIZES}
    (path / "config.json").write_text(json.dumps({**config, "type_vocab_size": 2}))
    save_file(weights(), path / "model.safetensors")
    inner = Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    inner.enable_padding(length=128)  # as the published file has it
    inner.save(str(path / "tokenizer.json"))
    return path


def weights():
    rng = np.random.default_rng(0)
    d, f = SIZES["hidden_size"], SIZES["intermediate_size"]
    shapes = {
        "embeddings.word_embeddings.weight": (len(WORDS), d),
        "embeddings.position_embeddings.weight": (300, d),
        "embeddings.token_type_embeddings.weight": (2, d),
        "pooler.dense.weight": (d, d),
        "pooler.dense.bias": (d,),
    }
    norms = ["embeddings"]
    for layer in range(2):
        at = f"encoder.layer.{layer}"
        norms += [f"{at}.attention.output", f"{at}.output"]
        maps = {"attention.self.query": (d, d), "attention.self.key": (d, d),
                "attention.self.value": (d, d), "attention.output.dense": (d, d),
                "intermediate.dense": (f, d), "output.dense": (d, f)}  # fmt: skip
        for name, shape in maps.items():
            shapes[f"{at}.{name}.weight"], shapes[f"{at}.{name}.bias"] = shape, shape[:1]
    for at in norms:
        shapes[f"{at}.LayerNorm.weight"] = shapes[f"{at}.LayerNorm.bias"] = (d,)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def oracle(folder, ids):
    """BERT by the paper in NumPy float64, one text at a time: no padding, no mask."""
    w = {name: x.astype(np.float64) for name, x in load_file(folder / "model.safetensors").items()}
    from scipy.special import erf, softmax

    def norm(x, at):
        x = x - x.mean(axis=1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-12)
        return x * w[f"{at}.LayerNorm.weight"] + w[f"{at}.LayerNorm.bias"]

    def linear(x, at):
        return x @ w[f"{at}.weight"].T + w[f"{at}.bias"]

    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings")
    for layer in range(2):
        at = f"encoder.layer.{layer}"
        q, k, v = (linear(x, f"{at}.attention.self.{n}") for n in ("query", "key", "value"))
        heads = [
            softmax(q[:, s] @ k[:, s].T / 2, axis=1) @ v[:, s]
            for s in (slice(0, 4), slice(4, 8), slice(8, 12))
        ]
        mixed = linear(np.concatenate(heads, axis=1), f"{at}.attention.output.dense")
        x = norm(x + mixed, f"{at}.attention.output")
        wide = linear(x, f"{at}.intermediate.dense")
        wide = wide * 0.5 * (1 + erf(wide / np.sqrt(2)))
        x = norm(x + linear(wide, f"{at}.output.dense"), f"{at}.output")
    mean = x.mean(axis=0)
    return mean / np.linalg.norm(mean)


def test_the_encoder_equals_numpy_whatever_the_lengths_beside_it(folder):
    found = load_minilm(folder)(TEXTS)
    ids = [[2, 4, 6, 5, 3], [2, 7, 8, 9, 5, 3], [2, 3], [2, 4, 3], [2, *[4] * 254, 3]]
    for got, row in zip(found, ids, strict=True):
        np.testing.assert_allclose(got, oracle(folder, row), atol=5e-5)


@pytest.mark.reference
def test_the_encoder_equals_torch(folder):
    torch = pytest.importorskip("torch")
    from transformers import BertModel

    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        hidden = model(torch.tensor([[2, 7, 8, 9, 5, 3]])).last_hidden_state[0].mean(dim=0)
    wanted = torch.nn.functional.normalize(hidden, dim=0).numpy()
    np.testing.assert_allclose(load_minilm(folder)(["numbers of dogs"])[0], wanted, atol=5e-5)


def test_no_text_has_no_rows(folder):
    assert load_minilm(folder)([]).shape == (0, 12)


def test_what_is_not_there_or_another_model_is_refused(folder, tmp_path, monkeypatch):
    with pytest.raises(SelfxError, match="no folder"):
        load_minilm(tmp_path / "nowhere")
    with pytest.raises(SelfxError, match="no file"):
        load_minilm(tmp_path)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(SelfxError, match="no encoder that can be read"):
        load_minilm(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SelfxError, match="or use Tfidf"):
        load_minilm()
