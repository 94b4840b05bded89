"""Commands about a model itself: fetch it, weigh it, examine it."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import tyro

from selfx.cli.arguments import mesh_shape

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclasses.dataclass(frozen=True)
class Pull:
    """Bring a model into the cache and check its hash; or only say what it would take.

    For example:
      selfx pull smollm2-135m-instruct
      selfx pull meta-llama/Llama-3.2-1B
      selfx pull meta-llama/Llama-3.1-70B --dry-run --dtype bfloat16 --mesh 1x8
    """

    model: Annotated[str, tyro.conf.Positional]
    """A packaged model, a hub id, a folder, or with --dry-run a config.json."""
    dry_run: bool = False
    """Fetch no weights: parameters, memory and sharding from the config alone."""
    dtype: Dtype = "float32"
    """With --dry-run: of the weights."""
    mesh: str = "1x1"
    """With --dry-run: devices that share the batch x devices that share the weights."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> Any:
        """Where the model is, or what it would take."""
        if self.dry_run:
            from selfx.weights.plan import plan

            return plan(self.model, dtype=self.dtype, mesh_shape=mesh_shape(self.mesh))
        from selfx.weights.digest import weights_hash
        from selfx.weights.fetch import pull

        path = pull(self.model)
        return {"model": self.model, "path": str(path), "hash": weights_hash(path)}


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Prove that a model runs as it was trained; exit 1 if anything fails.

    Tokenizer round trip, identity edits, batch = single, padding, cache, sums between sites, and
    every step of every layer computed anew from the checkpoint's own files.

    For example:
      selfx doctor smollm2-135m-instruct
      selfx doctor path/to/model --reference transformers
    """

    model: Annotated[str, tyro.conf.Positional]
    """A packaged model, a hub id, a folder, or a .gguf file."""
    reference: Literal["transformers"] | None = None
    """Also compare logits and residuals with this, in torch, where it is installed."""
    dtype: Dtype = "float32"
    """Of the weights."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> Any:
        """What every check found."""
        from selfx.doctor.run import examine
        from selfx.progress import progress

        with progress("examining") as report:
            return examine(self.model, dtype=self.dtype, reference=self.reference, report=report)
