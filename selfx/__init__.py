"""selfx: language models that explain their own computations, and evidence of how well they do.

    lm = selfx.load("smollm2-135m-instruct")            # weights, config, tokenizer
    out = selfx.forward(lm.model, tokens, capture=("resid_post",))
    edits = selfx.patch("resid_post", value, layers=8, positions=3)
    new = selfx.forward(lm.model, tokens, edits=edits)  # pure: jit, vmap, grad, pmap it
    selfx.generate(lm.model, tokens, max_new_tokens=20, edits=edits)

The rooms, in the order one walks them, none importing a later one:

    models         decoders as parameter trees; `sites` is the glossary of places and axes
    weights        from safetensors, GGUF or a hub to a decoder; adapters in PEFT's layout
    interventions  edits, and many experiments at once
    doctor         proof that a model runs as it was trained
    features       sparse dictionaries, exemplars, descriptions, and how true these are
    tasks          experiments put into questions with true answers, on disk
    explainer      adapters trained to answer them from activations
    evaluation     scores, controls, intervals, report
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from selfx.doctor.run import examine
    from selfx.errors import SelfxError
    from selfx.evaluation.run import evaluate
    from selfx.explainer.answer import answer, load_explainer
    from selfx.explainer.fit import fit
    from selfx.explainer.optimization import Optimization
    from selfx.explainer.training import Training
    from selfx.features.descriptions.describe import describe
    from selfx.features.dictionaries.inspect import inspect_sae
    from selfx.features.dictionaries.load import load_sae
    from selfx.features.dictionaries.sae import Sae, decode, encode, reconstruct
    from selfx.features.dictionaries.save import save_saelens
    from selfx.features.dictionaries.splice import splice
    from selfx.features.exemplars.corpus import windows
    from selfx.features.exemplars.directions import along, of_sae
    from selfx.features.exemplars.excerpts import evidence_of
    from selfx.features.exemplars.mine import mine
    from selfx.features.exemplars.texts import read_texts
    from selfx.features.scores.score import score_simulation
    from selfx.features.scores.simulate import simulate
    from selfx.features.training.objective import Objective
    from selfx.features.training.packing import pack
    from selfx.features.training.settings import SaeTraining
    from selfx.features.training.train import train as train_saes
    from selfx.interventions.attribution import attribute
    from selfx.interventions.build import ablate, inject, patch, steer
    from selfx.interventions.cut import cut
    from selfx.interventions.edits import Affine, Edits
    from selfx.interventions.knock_out import knock_out
    from selfx.interventions.lens import direct_logits, logit_lens
    from selfx.interventions.metric import logit_difference
    from selfx.interventions.pairs import Pair, run_pairs
    from selfx.interventions.path import Place, path_edits, path_patch
    from selfx.interventions.project import interchange, project_out, within
    from selfx.interventions.recorded import replay
    from selfx.interventions.sweep import sweep
    from selfx.interventions.transplant import LinearMap, patchscope, read_state, transplant
    from selfx.models.decoder import Decoder, apart, forward
    from selfx.models.generate import generate
    from selfx.models.tap import Address, At
    from selfx.sharding import make_mesh, shard, shard_batch
    from selfx.tasks.store import load_examples
    from selfx.tasks.trace import trace
    from selfx.weights.load import LanguageModel, load

_HOMES = {
    "SelfxError": "errors",
    "examine": "doctor.run",
    "evaluate": "evaluation.run",
    "answer": "explainer.answer",
    "load_explainer": "explainer.answer",
    "fit": "explainer.fit",
    "Optimization": "explainer.optimization",
    "Training": "explainer.training",
    "describe": "features.descriptions.describe",
    "inspect_sae": "features.dictionaries.inspect",
    "load_sae": "features.dictionaries.load",
    "Sae": "features.dictionaries.sae",
    "decode": "features.dictionaries.sae",
    "encode": "features.dictionaries.sae",
    "reconstruct": "features.dictionaries.sae",
    "save_saelens": "features.dictionaries.save",
    "splice": "features.dictionaries.splice",
    "windows": "features.exemplars.corpus",
    "along": "features.exemplars.directions",
    "of_sae": "features.exemplars.directions",
    "evidence_of": "features.exemplars.excerpts",
    "mine": "features.exemplars.mine",
    "read_texts": "features.exemplars.texts",
    "score_simulation": "features.scores.score",
    "simulate": "features.scores.simulate",
    "Objective": "features.training.objective",
    "pack": "features.training.packing",
    "SaeTraining": "features.training.settings",
    "train_saes": "features.training.train:train",
    "attribute": "interventions.attribution",
    "ablate": "interventions.build",
    "inject": "interventions.build",
    "patch": "interventions.build",
    "steer": "interventions.build",
    "cut": "interventions.cut",
    "Affine": "interventions.edits",
    "Edits": "interventions.edits",
    "knock_out": "interventions.knock_out",
    "direct_logits": "interventions.lens",
    "logit_lens": "interventions.lens",
    "logit_difference": "interventions.metric",
    "Pair": "interventions.pairs",
    "run_pairs": "interventions.pairs",
    "Place": "interventions.path",
    "path_edits": "interventions.path",
    "path_patch": "interventions.path",
    "interchange": "interventions.project",
    "project_out": "interventions.project",
    "within": "interventions.project",
    "replay": "interventions.recorded",
    "sweep": "interventions.sweep",
    "LinearMap": "interventions.transplant",
    "patchscope": "interventions.transplant",
    "read_state": "interventions.transplant",
    "transplant": "interventions.transplant",
    "Decoder": "models.decoder",
    "apart": "models.decoder",
    "forward": "models.decoder",
    "generate": "models.generate",
    "Address": "models.tap",
    "At": "models.tap",
    "make_mesh": "sharding",
    "shard": "sharding",
    "shard_batch": "sharding",
    "load_examples": "tasks.store",
    "trace": "tasks.trace",
    "LanguageModel": "weights.load",
    "load": "weights.load",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `selfx --help` does not wait for jax."""
    if name not in _HOMES:
        raise AttributeError(f"module 'selfx' has no attribute {name!r}")
    module, _, own = _HOMES[name].partition(":")  # its name there, where that is another
    return getattr(importlib.import_module(f"selfx.{module}"), own or name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
