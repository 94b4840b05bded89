"""From a Hugging Face `config.json` to an architecture.

A number that is needed and missing raises, and so does a field that would change the computation
and is not honoured here: the model that runs must be the model that was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfx.errors import SelfxError
from selfx.models.config import Config
from selfx.models.rotary import rotary_width
from selfx.models.zoo.classics import CLASSICS
from selfx.models.zoo.family import Family
from selfx.models.zoo.fields import Fields
from selfx.models.zoo.gemmas import GEMMAS
from selfx.models.zoo.keys import HARMLESS, NEUTRAL
from selfx.models.zoo.llamas import LLAMAS
from selfx.models.zoo.rope import ROPE_KEYS

FAMILIES: dict[str, Family] = {**LLAMAS, **GEMMAS, **CLASSICS}
"""`{family: how it is read}`, named as HF's `model_type` is."""

_WRAPPERS = {"gemma3": "gemma3_text"}
"""Models of text and images, and the family of their text half."""

_BESIDE_TEXT = frozenset(
    [
        "boi_token_index",
        "eoi_token_index",
        "image_token_index",
        "mm_tokens_per_image",
        "vision_config",
        "text_config",
        "model_type",
        "tie_word_embeddings",
        "image_token_id",
        "boi_token_id",
        "eoi_token_id",
    ]
)


def config_from_hf(source: Mapping[str, Any]) -> Config:
    """The architecture that a Hugging Face `config.json` declares.

    Of a model of text and images it is the text half.

    Raises:
      SelfxError: another family, a missing number, or a field that is not honoured.
    """
    name = source.get("model_type")
    if isinstance(name, str) and name in _WRAPPERS:
        name, source = _WRAPPERS[name], _text_half(source, _WRAPPERS[name])
    check_family(name, "config.json")
    family, fields = FAMILIES[str(name)], Fields(source, "config.json")
    read = {"model_type", "tie_word_embeddings", *family.sizes, *family.keys.split()}
    neutral = {key: values for key, values in NEUTRAL.items() if key not in read}
    ignored = HARMLESS | set(family.ignored.split())
    fields.refuse_unknown(frozenset(read | ROPE_KEYS | ignored | neutral.keys()))
    fields.refuse_values(neutral)
    return checked(_read(str(name), fields))


def _read(name: str, fields: Fields) -> Config:
    family = FAMILIES[name]
    sizes = {ours: fields.size(key) for key, ours in family.sizes.items() if key in fields.values}
    missing = next((key for key in family.sizes if key not in fields.values), None)
    if missing is not None:
        fields.size(missing)
    tied = fields.flag("tie_word_embeddings", family.tied)
    return Config(**{"family": name, **sizes, **family.read(fields, sizes), "tied": tied})


def check_family(name: Any, where: str, known: tuple[str, ...] = tuple(FAMILIES)) -> None:
    """Nothing, if the family is one of those known.

    Raises:
      SelfxError: it is not, or none is named.
    """
    if not isinstance(name, str) or name not in known:
        raise SelfxError(
            f"{where} declares the architecture {name!r}",
            expected=f"one of {', '.join(known)}",
            hint="choose a model of one of these families, such as smollm2-135m-instruct",
        )


def checked(config: Config) -> Config:
    """`config`, its sizes found to fit each other.

    Raises:
      SelfxError: they do not.
    """
    if config.n_heads % config.n_kv_heads:
        raise SelfxError(
            f"{config.n_heads} query heads over {config.n_kv_heads} key/value heads",
            expected="a whole number of query heads to each key/value head",
        )
    widths = {rotary_width(rope, config.d_head) for rope in config.ropes if rope is not None}
    if len(widths) > 1 or any(width % 2 or not width for width in widths):
        raise SelfxError(
            f"heads {config.d_head} wide, of which {sorted(widths)} coordinates are turned",
            expected="an even number, for the rotary pairs, the same in every layer",
        )
    if config.experts is not None and config.experts.n_chosen > config.experts.n_experts:
        raise SelfxError(
            f"{config.experts.n_chosen} experts chosen of {config.experts.n_experts}",
            expected="at most as many as there are",
        )
    return config


def _text_half(source: Mapping[str, Any], family: str) -> dict[str, Any]:
    """The text half's own config. Such files hold only what differs from the class's defaults.

    The class is that of transformers, which wrote the file. The head belongs to the whole, which
    ties it unless it says otherwise, and caps no logits.
    """
    from transformers import AutoConfig

    Fields(source, "config.json").refuse_unknown(HARMLESS | _BESIDE_TEXT)
    inner = source.get("text_config")
    if not isinstance(inner, Mapping):
        raise SelfxError("config.json lacks text_config", expected="an object")
    usual = AutoConfig.for_model(family).to_dict()
    if "rope_theta" in inner or "rope_scaling" in inner or "rope_local_base_freq" in inner:
        parameters = usual.pop("rope_parameters")
        usual["rope_theta"] = parameters["full_attention"]["rope_theta"]
        usual["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
    if "layer_types" not in inner:
        del usual["layer_types"]
    usual |= {"sliding_window_pattern": 6}
    tied = source.get("tie_word_embeddings", True)
    fixed = {"tie_word_embeddings": tied, "model_type": family, "final_logit_softcapping": None}
    return {**usual, **inner, **fixed}
