"""What tensors of adapters are called, and which maps of a decoder their modules are."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

import numpy as np

from selfx.models.config import Config
from selfx.weights.layout import cut
from selfx.weights.tables import LAYOUTS, PEFT_MODULES, Fused

LLAMA_LAYERS = "model.layers."
_MATRIX = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.[^.]+)?\.weight")
_WRAPS = re.compile(r"\.(base_layer|modules_to_save\.[^.]+)(?=\.)")
_BEFORE = re.compile(r"^base_model\.(model\.)?")


@dataclasses.dataclass(frozen=True)
class Module:
    """A linear module of Hugging Face's code: the maps in it, and how they lie if they are several.

    Attributes:
      maps: names in `config.maps`.
      fused: how they lie.
      conv: whether it is GPT-2's `Conv1D`, whose matrix is `[in, out]`.
    """

    maps: tuple[str, ...]
    fused: Fused | None = None
    conv: bool = False

    def columns(self, name: str, config: Config | None) -> np.ndarray | slice:
        """Which of the module's outputs are those of one of its maps."""
        if self.fused is None or config is None:
            return slice(None)
        return cut(np.arange(self.shape(config)[1]), self.fused, name, config)

    def shape(self, config: Config) -> tuple[int, int]:
        """`(in, out)` of the module."""
        widths = [config.map_shape(name)[1] for name in self.maps]
        return config.map_shape(self.maps[0])[0], sum(widths)


Modules = dict[str, Module]
LLAMA_MODULES: Modules = {module: Module((name,)) for name, module in PEFT_MODULES.items()}


def modules_of(config: Config | None) -> Modules:
    """`{name inside a layer: module}` of a model; Llama's if it is not known."""
    if config is None:
        return LLAMA_MODULES
    found: Modules = {}
    for name in config.maps:
        row = LAYOUTS[config.family].table[f"blocks.{name}.w"]
        inside = row.hf.partition("{layer}.")[2].removesuffix(".weight")
        maps = (name,) if row.fused is None else row.fused.maps
        found[inside] = Module(maps, row.fused, conv=not row.transposed)
    return found


def layers_of(config: Config | None) -> str:
    """What names of modules begin with, up to the layer's number, as tables have it."""
    if config is None:
        return LLAMA_LAYERS
    return LAYOUTS[config.family].table["blocks.q.w"].hf.partition("{layer}")[0]


def heads_of(config: Config) -> tuple[str, str]:
    """Names of the embedding and of the unembedding, whose rows are the vocabulary."""
    table = LAYOUTS[config.family].table
    return table["embed"].hf, table["unembed.w"].hf


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A tensor that is one side of a pair.

    Attributes:
      layer, module: where; the module's name inside the layer.
      side: `A` or `B`.
      whole: the module's name in its own file, which patterns of the settings are about.
    """

    layer: int
    module: str
    side: Literal["A", "B"]
    whole: str


@dataclasses.dataclass(frozen=True)
class Saved:
    """A tensor that replaces a weight, or some rows of it: the weight's name as tables have it."""

    name: str
    rows: str = ""


def parse(key: str, config: Config | None) -> Matrix | Saved | None:
    """What a tensor of an adapter's file is; None for one that no decoder here has a use for.

    `base_model.model.` before a name, the adapter's name inside it, and the wrappers' own names
    (`base_layer`, `modules_to_save.default`) may be there or not.
    """
    name = _BEFORE.sub("", key)
    match = _MATRIX.fullmatch(name)
    if match is not None:
        own = _canonical(f"{match['module']}.weight", config)
        return None if own is None else _matrix(own.removesuffix(".weight"), match, config)
    if ".original_module." in name:
        return None
    tokens = re.fullmatch(r"(.+)\.token_adapter\.trainable_tokens_delta(\.[^.]+)?", name)
    if tokens is not None:
        own = _canonical(f"{tokens[1]}.weight", config)
        return None if own is None else Saved(own, rows=tokens[1])
    own = _canonical(_WRAPS.sub("", name), config)
    return None if own is None else Saved(own)


def _matrix(own: str, match: re.Match[str], config: Config | None) -> Matrix | Saved:
    """Which matrix it is; outside the layers none is known."""
    layers = "|".join(map(re.escape, (layers_of(config), LLAMA_LAYERS)))
    place = re.fullmatch(rf"(?:{layers})(\d+)\.(.+)", own)
    if place is None:
        return Saved(f"{own}.lora_{match['side']}.weight")
    side: Literal["A", "B"] = "A" if match["side"] == "A" else "B"
    return Matrix(int(place[1]), place[2], side, match["module"])


def _canonical(name: str, config: Config | None) -> str | None:
    """The name as the family's table has it, also of a model that was wrapped without its head."""
    if config is None:
        return name
    layout = LAYOUTS[config.family]
    own = layout.canonical(name)
    root = layout.table["embed"].hf.rpartition(".weight")[0].rpartition(".")[0]
    if own is None or not root or own.startswith(f"{root}."):
        return own
    whole = f"{root}.{own}"
    known = {row.hf for row in layout.table.values()}
    return whole if own.startswith("layers.") or whole in known else own
