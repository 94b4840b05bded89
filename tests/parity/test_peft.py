"""Adapters against the PEFT library in torch, in both directions, in every family's own layout."""

import importlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.explainer import lora
from selfx.explainer.lora import Lora, merge
from selfx.models.decoder import forward
from selfx.weights.adapted import merged
from selfx.weights.peft import Matrices, read_adapter, write_adapter
from selfx.weights.peft.settings import read_settings

pytestmark = [
    pytest.mark.reference,
]
WITHIN = 1e-5
"""Of the largest logit: what float32 leaves of what PEFT computes in float64."""

FAMILIES = (
    "llama-gqa",
    "qwen3-biases",
    "gpt2-plain",
    "phi3-sliding",
    "gpt_neox-parallel",
    "gemma3_text-local",
    "gemma3-wrapper",
    "qwen3_moe-normed",
    "olmo2-gqa",
)
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL_LINEAR = {"r": 3, "lora_alpha": 7, "target_modules": "all-linear"}
READ = {
    "all linear maps": ("llama-gqa", ALL_LINEAR),
    "biases": ("qwen3-biases", ALL_LINEAR),
    "conv1d": ("gpt2-plain", {**ALL_LINEAR, "fan_in_fan_out": True}),
    "fused one after the other": ("phi3-sliding", ALL_LINEAR),
    "fused by head": ("gpt_neox-parallel", ALL_LINEAR),
    "one of two of a name": (
        "gpt2-plain",
        {"r": 2, "target_modules": ["attn.c_proj", "c_attn"], "fan_in_fan_out": True},
    ),
    "experts": ("qwen3_moe-normed", {"r": 2, "target_modules": ATTENTION}),
    "images beside": ("gemma3-wrapper", {"r": 2, "target_modules": ATTENTION}),
    "rslora": (
        "llama-gqa",
        {"r": 9, "lora_alpha": 6, "target_modules": ["v_proj", "up_proj"]} | {"use_rslora": True},
    ),
    "patterns": (
        "llama-gqa",
        {
            "r": 4,
            "lora_alpha": 5,
            "target_modules": ["q_proj", "k_proj", "down_proj"],
            "rank_pattern": {r"^model\.layers\.[13]\.self_attn\.q_proj": 6, "down_proj": 1},
            "alpha_pattern": {r"layers\.2\..*": 3, "k_proj": 11},
        },
    ),
    "rslora and patterns": (
        "gpt_neox-parallel",
        {
            "r": 4,
            "target_modules": ["query_key_value", "dense"],
            "rank_pattern": {r"2\.attention\.query_key_value": 2},
            "use_rslora": True,
        },
    ),
    "a pattern of names": (
        "phi3-sliding",
        {"r": 2, "target_modules": r"model\.layers\.[02]\.(self_attn\.qkv|mlp\.down)_proj"},
    ),
    "some layers": (
        "gpt2-plain",
        {"r": 2, "target_modules": ["c_fc"], "layers_to_transform": [1, 3], "layers_pattern": "h"}
        | {"fan_in_fan_out": True},
    ),
    "all but": (
        "llama-gqa",
        {"r": 2, "target_modules": "all-linear", "exclude_modules": ["k_proj", "down_proj"]},
    ),
}
REPLACED = {
    "both heads": ("llama-gqa", {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "a norm": ("qwen3-biases", {"modules_to_save": ["norm"]}),
    "a tied embedding": ("llama-tied", {"modules_to_save": ["embed_tokens"]}),
    "a tied head": ("llama-tied", {"modules_to_save": ["lm_head"]}),
    "both, still tied": (
        "llama-tied",
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "some tokens": ("llama-gqa", {"trainable_token_indices": [3, 61]}),
    "some tokens of a tied embedding": ("llama-tied", {"trainable_token_indices": [3, 61]}),
    "some tokens of each": (
        "llama-gqa",
        {"trainable_token_indices": {"embed_tokens": [3, 61], "lm_head": [5]}},
    ),
}


@pytest.fixture(scope="module")
def torch_side(golden):
    """`(torch, peft, a function that makes a case's model in torch, in float64)`."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(golden.FOLDER.parent)
        make_golden = importlib.import_module("make_golden")
        yield torch, peft, lambda case: make_golden.loaded(case, make_golden.DECLARED[case])


def trained(torch, peft, model, config):
    """A PEFT model all of whose new weights have moved from where they start."""
    adapted = peft.get_peft_model(model, peft.LoraConfig(**config))
    draw = torch.Generator().manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_" in name or "trainable_tokens_delta" in name or "modules_to_save" in name:
            noise = torch.randn(weight.shape, generator=draw, dtype=torch.float32)
            weight.data = (0.2 * noise + (weight.data if "lora_" not in name else 0)).float()
    return adapted.eval()


def rows(mine, length=17):
    return np.random.default_rng(length).integers(3, mine.config.vocab_size, (2, length))


def torch_logits(torch, model, tokens):
    with torch.no_grad():
        return model.double()(torch.from_numpy(tokens)).logits.numpy()


@jax.jit
def run(model, tokens, adapters=None):
    return forward(model, tokens, lora=adapters).logits


def assert_close(got, want):
    worst = np.abs(np.asarray(got) - want).max() / np.abs(want).max()
    assert worst <= WITHIN, f"off by {worst:.1e} of the largest logit"


def as_lora(found):
    return {
        name: Lora(jnp.asarray(each.a), jnp.asarray(each.b), each.scale)
        for name, each in found.matrices.items()
    }


@pytest.mark.parametrize("variant", READ)
def test_what_peft_wrote_computes_the_same(variant, torch_side, model, tmp_path):
    torch, peft, load = torch_side
    case, config = READ[variant]
    mine = model(case)
    trained(torch, peft, load(case).float(), config).save_pretrained(tmp_path)
    theirs = peft.PeftModel.from_pretrained(load(case).float(), tmp_path)
    found = read_adapter(tmp_path, mine.config)
    tokens = rows(mine)
    want = torch_logits(torch, theirs, tokens)
    beside = run(mine, tokens, as_lora(found))
    assert_close(beside, want)
    assert_close(run(merge(mine, as_lora(found)), tokens), want)
    assert np.abs(run(mine, tokens) - want).max() > 0.05


@pytest.mark.parametrize("variant", REPLACED)
def test_what_peft_replaced_is_replaced(variant, torch_side, model, tmp_path):
    torch, peft, load = torch_side
    case, config = REPLACED[variant]
    config = {"r": 2, "target_modules": ["q_proj", "up_proj"], **config}
    mine = model(case)
    trained(torch, peft, load(case).float(), config).save_pretrained(tmp_path)
    theirs = peft.PeftModel.from_pretrained(load(case).float(), tmp_path)
    found = read_adapter(tmp_path, mine.config)
    got = merged(jax.tree.map(jnp.copy, mine), found)
    tokens = rows(mine)
    want = torch_logits(torch, theirs, tokens)
    assert_close(run(got, tokens), want)
    only = merged(jax.tree.map(jnp.copy, mine), type(found)(found.matrices, {}, {}, ()))
    assert np.abs(run(only, tokens) - want).max() > 0.01


@pytest.mark.parametrize("case", ["llama-gqa", "llama-tied"])
def test_a_grown_vocabulary_is_read(case, torch_side, model, tmp_path):
    torch, peft, load = torch_side
    torch.manual_seed(0)
    base, mine = load(case).float(), model(case)
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = base.config._name_or_path = str(tmp_path / "base")
    base.resize_token_embeddings(70, mean_resizing=False)
    theirs = trained(torch, peft, base, {"r": 2, "target_modules": ["q_proj"]})
    theirs.save_pretrained(tmp_path / "adapter")
    got = merged(jax.tree.map(jnp.copy, mine), read_adapter(tmp_path / "adapter", mine.config))
    assert (got.config.vocab_size, got.config.tied) == (70, mine.config.tied)
    tokens = np.array([[5, 69, 64, 1, 66, 9]])
    want = torch_logits(torch, theirs, tokens)
    assert_close(run(got, tokens), want)


def drawn(mine, which):
    """Adapters with ranks and scales of their own in each map, for every map or for some."""
    fresh = lora.init(mine.config, rank=2, alpha=3.0, key=jax.random.key(1), maps=which)
    rng = np.random.default_rng(2)
    found = {}
    for i, (name, each) in enumerate(fresh.items()):
        a = np.concatenate([each.a] * (1 + i % 2), axis=2) + 0.01 * i
        b = 0.2 * rng.standard_normal((a.shape[0], a.shape[2], each.b.shape[2]))
        found[name] = Matrices(np.float32(a), np.float32(b), 1.5 if i % 3 else 0.7)
    return found


WRITTEN = [(case, False) for case in FAMILIES] + [(case, True) for case in FAMILIES[2:5]]


@pytest.mark.parametrize(("case", "some"), WRITTEN)
def test_what_we_write_computes_the_same_in_peft(case, some, torch_side, model, tmp_path):
    torch, peft, load = torch_side
    mine = model(case)
    adapters = drawn(mine, ("q", "v", "o") if some else None)
    layers = "model.language_model.layers." if case == "gemma3-wrapper" else ""
    write_adapter(tmp_path, adapters, base="tiny", config=mine.config, layers=layers)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(missing|unexpected|fan_in_fan_out).*")
        theirs = peft.PeftModel.from_pretrained(load(case).float(), tmp_path).eval()
    tokens = rows(mine)
    want = torch_logits(torch, theirs, tokens)
    ours = {n: Lora(jnp.asarray(x.a), jnp.asarray(x.b), x.scale) for n, x in adapters.items()}
    got = run(mine, tokens, ours)
    assert_close(got, want)
    again = run(mine, tokens, as_lora(read_adapter(tmp_path, mine.config)))
    assert_close(again, want)
    assert np.abs(run(mine, tokens) - want).max() > 0.05


NAMES = [
    f"{head}.{layer}.{module}"
    for head in ("model.layers", "transformer.h", "model.language_model.layers")
    for layer in (0, 1, 11)
    for module in ("self_attn.q_proj", "self_attn.k_proj", "attn.c_proj", "mlp.c_proj")
]
SETTINGS = (
    {"target_modules": ["q_proj", "attn.c_proj"]},
    {"target_modules": ["c_proj"], "exclude_modules": ["mlp.c_proj"]},
    {"target_modules": ["q_proj"], "exclude_modules": r".*language.*"},
    {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    {"target_modules": ["c_proj"], "layers_to_transform": 11, "layers_pattern": "h"},
    {
        "target_modules": ["k_proj"],
        "layers_to_transform": [0, 1],
        "layers_pattern": ["h", "layers"],
    },
    {"target_modules": ["k_proj", "q_proj"], "layers_to_transform": []},
    {"target_modules": r"model\.(language_model\.)?layers\.1.*"},
    {"target_modules": ["q_proj"], "modules_to_save": ["self_attn"]},
    {"target_modules": ["model.layers.0.self_attn.q_proj"]},
    {"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 3, r"layers\.1\.self_attn.*": 5}},
    {"target_modules": ["q_proj"], "rank_pattern": {r"1\.self_attn.*": 5, "proj": 7}},
    {"target_modules": ["c_proj"], "rank_pattern": {"attn.c_proj": 2, "^transformer.h.0.*": 9}},
)


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_mean_what_they_mean_to_peft(settings, tmp_path):
    peft = pytest.importorskip("peft")
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.other import get_pattern_key

    theirs = peft.LoraConfig(**settings)
    theirs.save_pretrained(tmp_path)
    theirs = peft.LoraConfig.from_pretrained(tmp_path)
    ours = read_settings(tmp_path / "adapter_config.json")
    for name in NAMES:
        found = check_target_module_exists(theirs, name)
        wanted = bool(found) and "Excluded" not in type(found).__name__
        assert ours.adapts(name) == wanted, name
        rank = theirs.rank_pattern.get(get_pattern_key(theirs.rank_pattern, name), theirs.r)
        assert ours.rank_of(name) == rank, name
