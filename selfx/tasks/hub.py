"""Where a trace lies: a folder, or a data set of the hub, one configuration of it, another split.

    traces/patching                                          a folder
    Transluce/act_patch_qwen3_8b_counterfact                 a data set of the hub
    Transluce/act_patch_llama_3.1_8b_counterfact@train_full  training examples from another split
    owner/name:config                                        one of several configurations

A folder may be followed by a configuration and a split as well: so a data set that was copied from
the hub is named like the one there.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load, snapshot_download

from selfx.errors import SelfxError
from selfx.tasks.rows import first_line

TARGETS = {
    "act_patch_llama_3.1_8b_counterfact": "meta-llama/Llama-3.1-8B",
    "act_patch_qwen3_8b_counterfact": "Qwen/Qwen3-8B",
    "input_ablation_llama_3.1_8b_instruct_mmlu_hint": "meta-llama/Llama-3.1-8B-Instruct",
    "input_ablation_qwen3_8b_mmlu_hint": "Qwen/Qwen3-8B",
}
"""The models that the published data sets (arXiv 2511.08579) are of, which no column says."""

_CARD = "README.md"
_NAME = re.compile(r"(?P<base>[^:@]+)(:(?P<config>[\w.-]+))?(@(?P<train>[\w.-]+))?")
_HUB_ID = re.compile(r"[\w-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder of shards.

    Attributes:
      folder: the folder, or the snapshot of a data set.
      base: the name without configuration and split.
      config: the configuration; "" where there is one only.
      train: the split that training examples are taken from.
    """

    folder: Path
    base: str
    config: str = ""
    train: str = "train"

    def shards(self, split: str) -> list[Path]:
        """The files of a split, in order: as the card says, or where the hub puts them."""
        name = self.train if split == "train" else split
        patterns = self._declared(name) or self._usual(name)
        found = (sorted(self.folder.glob(pattern)) for pattern in patterns)
        return next((files for files in found if files), [])

    @property
    def target(self) -> str | None:
        """The model that a published data set is known to be of."""
        return TARGETS.get(Path(self.base).name)

    def check(self) -> None:
        """Raises SelfxError where there is no such configuration, or no such split to train on."""
        configs = sorted(self._configs())
        known = self.config in configs or (not configs and self._has_folder())
        if self.config and not known:
            raise SelfxError(
                f"no configuration {self.config!r} in {self.base}",
                expected=f"one of {', '.join(configs)}" if configs else f"a folder {self.config}",
            )
        if self.train != "train" and not self.shards("train"):
            raise SelfxError(
                f"no split {self.train!r} in {self.base}",
                expected=f"one of {', '.join(self._splits()) or 'those it has: none'}",
            )

    def _usual(self, split: str) -> list[str]:
        inside = f"{self.config}/" if self.config else ""
        return [
            f"{inside}{split}-*.parquet",
            f"data/{inside}{split}-*.parquet",
            f"{inside}data/{split}-*.parquet",
            f"{inside or 'default/'}{split}/*.parquet",
        ]

    def _declared(self, split: str) -> list[str]:
        """What the card says of a split of the configuration; nothing where it says nothing."""
        entries = self._configs().get(self.config, []) if self.config else []
        patterns = []
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and entry.get("split") == split:
                path = entry.get("path", [])
                patterns += [path] if isinstance(path, str) else list(path)
        return patterns

    def _configs(self) -> dict[str, Any]:
        """`{configuration: its data_files}` of the card."""
        card = self.folder / _CARD
        told = metadata_load(card) if card.is_file() else None
        configs = (told or {}).get("configs")
        return {
            str(one["config_name"]): one.get("data_files")
            for one in (configs if isinstance(configs, list) else [])
            if isinstance(one, dict) and "config_name" in one
        }

    def _has_folder(self) -> bool:
        places = (self.folder / inside / self.config for inside in ("", "data"))
        return any(place.is_dir() for place in places)

    def _splits(self) -> list[str]:
        named = (re.fullmatch(r"(\w+)-\d+.*", path.stem) for path in self.folder.rglob("*.parquet"))
        return sorted({found[1] for found in named if found})


def place_of(source: str | Path) -> Place:
    """Where the shards of a trace are; a data set of the hub is downloaded once.

    Raises:
      SelfxError: the hub cannot give it, or it has no such configuration or split.
    """
    name = str(source)
    if Path(name).expanduser().is_dir():
        return Place(Path(name).expanduser(), name)
    parts = _NAME.fullmatch(name)
    if parts is None:
        return Place(Path(name), name)
    base, config, train = parts["base"], parts["config"] or "", parts["train"] or "train"
    folder = Path(base).expanduser()
    if not folder.is_dir() and _HUB_ID.fullmatch(base) and not folder.parent.is_dir():
        folder = _downloaded(base)
    place = Place(folder, base, config, train)
    if folder.is_dir():
        place.check()
    return place


@functools.cache
def _downloaded(name: str) -> Path:
    try:
        patterns = ["*.parquet", _CARD, "trace.json"]
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=patterns))
    except Exception as error:  # the hub's client raises a dozen kinds of its own
        raise SelfxError(
            f"no trace in {name}: no such folder, and the hub gives no data set so called"
            f" ({first_line(error)})",
            expected="a trace folder, or a data set of the hub: owner/name[:config][@split]",
            hint="make one with: selfx trace TASK --target MODEL --out DIR",
        ) from error
