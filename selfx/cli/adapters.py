"""Commands about adapters: hand them to other tools."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro


@dataclasses.dataclass(frozen=True)
class ExportPeft:
    """Write a finished run's adapter as a PEFT folder that Hugging Face's tools load.

    adapter_config.json, adapter_model.safetensors in the layout of the base's own code, and a
    README with the base and the placeholder's tokens. An explainer that was trained on
    MODEL+ADAPTER is written for MODEL, both adapters as one.

    For example:
      selfx export peft --run runs/patching --out adapters/patching
      selfx export peft --run runs/patching --out adapters/patching \
--base HuggingFaceTB/SmolLM2-135M-Instruct
    """

    source: Annotated[Path, tyro.conf.arg(name="run")]
    """A finished run."""
    out: Path
    """The PEFT folder."""
    base: str = ""
    """How Hugging Face loads the base: a hub id or a folder; else the name that the run has."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> dict[str, Any]:
        """Where it is, for which base, and its rank."""
        from selfx.explainer.export import export_peft

        return export_peft(self.source, self.out, base=self.base)
