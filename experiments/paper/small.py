"""The same experiments on what runs anywhere: SmolLM2 and siblings of it, tiny random models."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from experiments.paper.scales import Model, Questions, Setup
from experiments.tiny import tiny_world
from selfx.evaluation.run import Evaluation
from selfx.explainer.optimization import Optimization
from selfx.explainer.training import Training
from selfx.tasks.schema import ABLATION, FEATURES, PATCHING
from selfx.testing import tiny_model
from selfx.weights.load import load
from selfx.weights.save import save_model

SMOLLM2 = Model("SmolLM2", "smollm2-135m-instruct", 106e6, chats=False, width=576)
"""Asked in plain text: its template's system message would be a third of a short question."""
CHATTING = dataclasses.replace(SMOLLM2, chats=True)
"""As it is asked about hints: what it explains there happened in its template."""
SIBLING = dataclasses.replace(SMOLLM2, name="sibling", source="runs/siblings/follower/model")
"""What `experiments.siblings` makes: the same model trained on until it behaves otherwise."""

OUTSIDE = ("activations", "differences")


def smollm2(work: Path) -> dict[str, Setup]:
    """An hour or so a script: adapters of rank 16, one pass over a few thousand questions, of the
    short ones on features three."""
    training = Training(
        epochs=1.0,
        batch_size=16,
        injection="embedding",
        optimization=Optimization(1e-3, "linear", 10),
    )
    # Unit directions are added at the residual's length: as embeddings they would be lost in it.
    described = dataclasses.replace(training, epochs=3.0, injection="add")
    evaluation = Evaluation(limit=300)
    patched = dataclasses.replace(evaluation, other_vectors=SIBLING.source)
    # Long questions, of which an hour or so has room for three quarters.
    hinted = dataclasses.replace(training, epochs=0.75)
    chatting = dataclasses.replace(SIBLING, chats=True)
    dictionary = {"dictionary": "runs/sae", "directions": "latents"}
    questions = {
        FEATURES: Questions(
            "features", FEATURES, SMOLLM2, limit=2000, options=dictionary, tokens=60
        ),
        PATCHING: Questions("patching", PATCHING, SMOLLM2, limit=4000),
        ABLATION: Questions(
            "ablation", ABLATION, CHATTING, limit=3200, options={"max_tokens": 152}, tokens=240
        ),
    }
    trainings = {FEATURES: described, PATCHING: training, ABLATION: hinted}
    outside = tuple(
        Questions(kind, FEATURES, SMOLLM2, limit=400, options={"directions": kind})
        for kind in OUTSIDE
    )
    return {
        task: Setup(
            each,
            (chatting if task == ABLATION else SIBLING,),
            {"": trainings[task]},
            evaluation=patched if task == PATCHING else evaluation,
            outside=outside if task == FEATURES else (),
        )
        for task, each in questions.items()
    }


def tiny(work: Path) -> dict[str, Setup]:
    """Seconds: one step, four questions, few rows."""
    world = tiny_world(work / "tiny")
    second = work / "second"
    if not second.exists():
        first = load(world.model)
        save_model(tiny_model(first.config, seed=1), second, tokenizer=first.tokenizer)
    own = Model("tiny", world.model, 2e4, chats=False, width=32)
    other = dataclasses.replace(own, name="second", source=str(second))
    training = Training(
        epochs=0.5,
        batch_size=4,
        rank=2,
        targets=("q",),
        injection="embedding",
        held_out=0.0,
        optimization=Optimization(1e-3),
    )
    rows = {
        FEATURES: (("zero",), ("nearest-cosine", "gold")),
        PATCHING: (("zero", "no-layer"), ("nearest-vector",)),
        ABLATION: (("no-hint",), ("majority-per-cell",)),
    }
    said = {"context": 32, "exemplars": 4, "least": 2, "layers": "1"}
    neurons = {"directions": "neurons", **said}
    outside = tuple(
        Questions(
            kind,
            FEATURES,
            own,
            data=world.text,
            limit=8,
            options={"directions": kind, "facts": world.facts, **said},
        )
        for kind in OUTSIDE[1:]
    )
    hinted = {"answering": "letters", "test_share": 0.4}
    questions = {
        FEATURES: Questions("features", FEATURES, own, data=world.text, limit=12, options=neurons),
        PATCHING: Questions(
            "patching",
            PATCHING,
            own,
            data=world.facts,
            limit=12,
            options={"test_share": 0.4, "chunks": 2},
        ),
        ABLATION: Questions(
            "ablation", ABLATION, own, data=world.questions, limit=10, options=hinted, tokens=600
        ),
    }
    return {
        task: Setup(
            each,
            (other,),
            {"": training},
            evaluation=Evaluation(*rows[task], limit=4, max_new_tokens=2, batch_size=4),
            outside=outside if task == FEATURES else (),
        )
        for task, each in questions.items()
    }
