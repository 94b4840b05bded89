"""What an `adapter_config.json` says: which modules are adapted, at what rank, at what scale."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfx.errors import SelfxError
from selfx.files import read_json

HONOURED = frozenset(
    {
        *("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("modules_to_save", "trainable_token_indices", "bias", "init_lora_weights"),
    }
)
INERT = frozenset(
    {
        *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "lora_dropout", "megatron_core", "qalora_group_size"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config"),
        "fan_in_fan_out",  # how the base keeps its matrix; the adapter's lie alike either way
        "ensure_weight_tying",  # what is tied is saved, or not, accordingly
    }
)
"""Settings that change nothing of what a trained adapter computes. Any other must be off."""
STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Ways to begin that leave the base's weights alone."""

Targets = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings that a reader needs, as PEFT means them.

    Attributes:
      rank, alpha: of modules that no pattern names.
      rslora: whether products are scaled by alpha / sqrt(r) (arXiv 2312.03732), else by alpha / r.
      ranks, alphas: `{pattern of modules: value}`.
      targets: which modules are adapted: endings of names, or a pattern of whole names, or
        `all-linear`; None where the file does not say.
      excluded: which are not after all, in the same forms.
      layers: in which layers, None for all; `layers_pattern` is what the list of them is called.
      saved: endings of the names of modules that are replaced whole.
      tokens: `{embedding: the rows that are replaced}`.
    """

    rank: int
    alpha: float
    rslora: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    targets: Targets
    excluded: Targets
    layers: tuple[int, ...] | None
    layers_pattern: tuple[str, ...]
    saved: tuple[str, ...]
    tokens: Mapping[str, tuple[int, ...]]

    def rank_of(self, module: str) -> int:
        """The rank of a module, by its whole name."""
        return self.ranks.get(_pattern(self.ranks, module), self.rank)

    def scale_of(self, module: str) -> float:
        """What the product of a module's matrices is multiplied by."""
        alpha = self.alphas.get(_pattern(self.alphas, module), self.alpha)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    def adapts(self, module: str) -> bool:
        """Whether a linear map of the decoder's layers, by its whole name, is adapted."""
        if _named(self.excluded, module) or any(
            re.match(rf"(^|.*\.){name}($|\..*)", module) for name in self.saved
        ):
            return False
        if isinstance(self.targets, str):
            everything = self.targets.lower() == "all-linear"
            return everything or _named(self.targets, module)
        whole = module in (self.targets or ())
        return whole or (_named(self.targets, module) and self._in_its_layer(module))

    def _in_its_layer(self, module: str) -> bool:
        if self.layers is None:
            return True
        forms = [rf"(?:^|.*?\.){name}\.(\d+)\." for name in self.layers_pattern]
        found = (re.match(form, module) for form in forms or [r".*?\.[^.]*\.(\d+)\."])
        return any(match is not None and int(match[1]) in self.layers for match in found)


def _named(names: Targets, module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names or ())


def _pattern(patterns: Mapping[str, Any], module: str) -> str:
    """The first pattern that the end of a module's name has the form of; else that name."""
    found = (key for key in patterns if re.match(rf"(.*\.)?({key})$", module))
    return next(found, module)


def read_settings(file: Path) -> Settings:
    """What an `adapter_config.json` says.

    Raises:
      SelfxError: it is missing or malformed, or asks for something else than LoRA beside linear
        maps of the base as it is.
    """
    config = read_json(file, hint="a folder that PEFT's save_pretrained or `selfx train` wrote")
    try:
        settings = _settings(config)
    except (KeyError, ValueError, TypeError, AttributeError, re.error) as error:
        raise SelfxError(f"{file}: {error} is missing or malformed", expected="LoRA's") from error
    others = _others(config)
    ranks = [settings.rank, *settings.ranks.values()]
    if min(ranks) < 1 or others:
        raise SelfxError(
            f"{file}: {', '.join(others) or f'rank {min(ranks)}'}",
            expected="LoRA of rank 1 or more beside linear maps, and settings that are known",
            hint="merge it with PEFT (merge_and_unload), save that model and give its folder",
        )
    return settings


def _settings(config: Any) -> Settings:
    pattern = config.get("layers_pattern") or ()
    ranks = {key: int(value) for key, value in (config.get("rank_pattern") or {}).items()}
    alphas = {key: float(value) for key, value in (config.get("alpha_pattern") or {}).items()}
    saved = tuple(config.get("modules_to_save") or ())
    targets, excluded = (_targets(config.get(f"{of}_modules")) for of in ("target", "exclude"))
    for form in (*ranks, *alphas, *saved, *(t for t in (targets, excluded) if type(t) is str)):
        re.compile(form)
    return Settings(
        rank=int(config["r"]),
        alpha=float(config["lora_alpha"]),
        rslora=bool(config.get("use_rslora")),
        ranks=ranks,
        alphas=alphas,
        targets=targets,
        excluded=excluded,
        layers=_layers(config.get("layers_to_transform")),
        layers_pattern=(pattern,) if isinstance(pattern, str) else tuple(pattern),
        saved=saved,
        tokens=_tokens(config.get("trainable_token_indices")),
    )


def _targets(names: Any) -> Targets:
    return names if names is None or isinstance(names, str) else tuple(names)


def _layers(layers: Any) -> tuple[int, ...] | None:
    """The layers of a number or a list of them; an empty list means all."""
    if layers is None or layers == []:
        return None
    return (layers,) if isinstance(layers, int) else tuple(map(int, layers))


def _tokens(indices: Any) -> dict[str, tuple[int, ...]]:
    """Rows by the name of their embedding; a bare list means that of the input."""
    named = indices if isinstance(indices, dict) else {"": indices} if indices else {}
    return {name: tuple(map(int, rows)) for name, rows in named.items()}


def _others(config: Mapping[str, Any]) -> list[str]:
    """Settings that mean another computation, or that nobody here knows."""
    known = HONOURED | INERT
    others = [key for key, value in config.items() if value and key not in known]
    if config.get("bias", "none") not in ("none", None):
        others.append(f"bias {config['bias']!r}")
    if config.get("peft_type", "LORA") != "LORA":
        others.append(f"peft_type {config['peft_type']!r}")
    if config.get("init_lora_weights") not in STARTS:
        others.append(f"init_lora_weights {config['init_lora_weights']!r}, which changes the base")
    return others
