"""The files of one dictionary: its tensors by name, and what the JSON files beside them say."""

from __future__ import annotations

import dataclasses
import functools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from selfx.errors import SelfxError
from selfx.features.dictionaries.places import Place, place_of
from selfx.features.dictionaries.sae import Origin
from selfx.features.dictionaries.unpickle import read_state
from selfx.files import read_json

PICKLES = (".pt", ".pth", ".pkl", ".bin")
CONFIGS = ("cfg.json", "config.json", "hyperparams.json", "activation_scaler.json", "config.yaml")
"""What may stand beside the weights, or a folder above them, and is read."""


@dataclasses.dataclass(frozen=True)
class Given:
    """What the caller says of a dictionary, where its files do not, or say it wrongly.

    Attributes:
      site: what it reads.
      layer: of which layer.
      out_site: what it reconstructs.
      scale: what activations were multiplied by before it saw them.
      k: how many latents are on.
    """

    site: str | None = None
    layer: int | None = None
    out_site: str | None = None
    scale: float | None = None
    k: int | None = None


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A file of weights and its surroundings.

    Attributes:
      file: the weights.
      name: where they come from, hub id and folder included: some layouts say all in it.
      configs: `{file name: object}` of those in `CONFIGS` that are JSON.
      texts: `{file name: text}` of the others.
    """

    file: Path
    name: str
    configs: Mapping[str, Mapping[str, Any]]
    texts: Mapping[str, str]

    @functools.cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        """Every tensor, as stored; float32 where it was stored in fewer bits."""
        return {name: _widened(values) for name, values in _read(self.file).items()}

    def has(self, *names: str) -> bool:
        """Whether all these tensors are there."""
        return self.tensors.keys() >= set(names)

    def take(self, *names: str) -> list[np.ndarray]:
        """These tensors.

        Raises:
          SelfxError: one is missing.
        """
        absent = [name for name in names if name not in self.tensors]
        if absent:
            raise SelfxError(
                f"{self.file} lacks {', '.join(absent)}",
                expected=", ".join(names),
                hint=f"it holds {', '.join(sorted(self.tensors)) or 'nothing'}",
            )
        return [self.tensors[name] for name in names]

    def number(self, pattern: str) -> int | None:
        """The number that a pattern finds in the name, the last one if it is there again."""
        found = re.findall(pattern, self.name)
        return int(found[-1]) if found else None

    def config(self, *names: str) -> Mapping[str, Any]:
        """The first of these JSON files that is there, or an empty object."""
        return next((self.configs[name] for name in names if name in self.configs), {})

    def origin(self, layout: str, **said: Any) -> Origin:
        """Where it comes from."""
        return Origin(layout=layout, path=self.name, **said)


def bundle_of(file: Path, name: str) -> Bundle:
    """The dictionary whose weights are in `file`.

    Raises:
      SelfxError: a JSON file beside it is broken.
    """
    configs: dict[str, Mapping[str, Any]] = {}
    texts: dict[str, str] = {}
    for path in (folder / name for folder in (file.parent, file.parent.parent) for name in CONFIGS):
        if path.name in configs or path.name in texts or not path.is_file():
            continue  # the nearer one counts
        if path.suffix == ".yaml":
            texts[path.name] = path.read_text(encoding="utf-8", errors="replace")
        elif isinstance(content := read_json(path), Mapping):
            configs[path.name] = content
    return Bundle(file, name, configs, texts)


def where(given: Given, hook: str | None, out_hook: str | None = None) -> tuple[Place, str | None]:
    """What a dictionary reads and what it reconstructs: as given, else as its hooks say.

    Raises:
      SelfxError: neither says it; it reads one layer and writes to another.
    """
    if hook is None and (given.site is None or given.layer is None):
        raise SelfxError(
            "a dictionary whose files do not say where it reads",
            expected="a site and a layer",
            hint="give them: site='resid_post', layer=12",
        )
    if given.site is not None and given.layer is not None:
        place = Place(given.site, given.layer)
    else:
        place = place_of(str(hook))
        site, layer = given.site or place.site, given.layer
        bare = place.bare and given.site is None
        place = Place(site, place.layer if layer is None else layer, bare)
    if given.out_site is not None or out_hook is None:
        out = given.out_site
    else:
        target = place_of(out_hook)
        if target.layer != place.layer and given.layer is None:
            raise SelfxError(
                f"a dictionary from layer {place.layer} to layer {target.layer}",
                expected="one that stays in its layer",
            )
        out = target.site
    return place, None if out == place.site else out


def _read(file: Path) -> Mapping[str, np.ndarray]:
    """The tensors of a file.

    Raises:
      SelfxError: it cannot be read.
    """
    if file.suffix in PICKLES:
        return read_state(file)
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        with safe_open(file, framework="numpy") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SelfxError(
            f"{file} cannot be read: {error}",
            expected="a whole .safetensors or .npz file",
            hint="download it again; a file of a few hundred bytes is a pointer of Git LFS",
        ) from error


def _widened(values: np.ndarray) -> np.ndarray:
    """Floats as float32; whole numbers as they are."""
    floats = values.dtype.kind == "f" or values.dtype == ml_dtypes.bfloat16
    return values.astype(np.float32, copy=False) if floats else values
