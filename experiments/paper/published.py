"""The paper's own configurations, its data sets and checkpoints by hub id.

Feature descriptions were published as an archive (`SAE_feature_explanations_llama3.1_8b.tar.gz`,
27 GB), which is unpacked to `runs/paper/archive` and needs the whole of it. The activations and
differences out of distribution are traced anew: their archives hold no texts to score on that
another simulator could read.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from experiments.paper.scales import Model, Questions, Setup, constant
from selfx.evaluation.run import Evaluation
from selfx.explainer.training import Training
from selfx.tasks.schema import ABLATION, FEATURES, PATCHING

LLAMA = Model("Llama-3.1-8B", "meta-llama/Llama-3.1-8B", 6.98e9, chats=False)
INSTRUCT = Model("Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct", 6.98e9)
LLAMA_3 = Model("Llama-3-8B", "meta-llama/Meta-Llama-3-8B", 6.98e9, chats=False)
LARGE = Model("Llama-3.1-70B", "meta-llama/Llama-3.1-70B", 68.5e9, chats=False, width=8192)
QWEN = Model("Qwen3-8B", "Qwen/Qwen3-8B", 6.95e9)

SPEED = 900.0
"""An H100 at a third of its peak, against 3.3e11 operations a second on two cores."""

LORA = Training(
    injection="embedding",
    trains=("lora",),
    rank=128,
    alpha=16.0,
    dropout=0.1,
    held_out=0.0,
    remat=True,
    optimization=constant(5e-5),
)
"""What the released configurations share where they train adapters: of rank 128, scaled by 1/8."""

BASELINES = ("untrained", "nearest-dot", "nearest-cosine", "selfie-oracle", "majority", "gold")
"""Of descriptions; `selfie` would need texts of training features, which are not read."""

SIMULATOR = "Transluce/features_explain_llama3.1_8b_simulator"

FULL = dataclasses.replace(LORA, trains=("full",), dropout=0.0)


def patching(target: Model, other: Model, data: str, released: str) -> Setup:
    """Tables 2 and 6: twenty epochs of 32 adapters a step; Qwen on Llama ten, with patience 5."""
    twenty = dataclasses.replace(LORA, epochs=20, batch_size=32)
    early = dataclasses.replace(twenty, epochs=10, held_out=0.05, evaluate_every=2000, patience=5)
    n = 13_454 if target is LLAMA else 120_644  # of Qwen the whole set, not balanced
    questions = Questions("patching", PATCHING, target, data, limit=n, tokens=110)
    trainings = {"": twenty} | ({QWEN.name: early} if target is LLAMA else {})
    checkpoints = {target.name: f"{target.source}+{released}"}
    return Setup(questions, (other,), trainings, checkpoints, dtype="bfloat16", speed=SPEED)


def ablation(target: Model, other: Model, data: str, released: str) -> Setup:
    """Tables 2 and 5: all weights, eight a step, thirty epochs; Qwen on itself twenty."""
    thirty = dataclasses.replace(FULL, epochs=30, batch_size=8, optimization=constant(1e-5))
    twenty = dataclasses.replace(thirty, epochs=20)
    questions = Questions("ablation", ABLATION, target, data, limit=12_642, tokens=260)
    trainings = {"": thirty} | ({QWEN.name: twenty} if target is QWEN else {})
    checkpoints = {target.name: released}
    return Setup(questions, (other,), trainings, checkpoints, dtype="bfloat16", speed=SPEED)


def features(work: Path) -> Setup:
    """Table 1: all weights, 64 a step, ten epochs; of the 70B model adapters, 48 a step."""
    ten = dataclasses.replace(FULL, epochs=10, batch_size=64)
    large = dataclasses.replace(LORA, epochs=10, batch_size=48)
    archive = str(work.parent / "archive")
    questions = Questions("features", FEATURES, LLAMA, archive, limit=131_072, tokens=40)
    outside = tuple(
        Questions(kind, FEATURES, LLAMA, limit=2000, options={"directions": kind}, tokens=40)
        for kind in ("activations", "differences")
    )
    ours = "Transluce/features_explain_llama3.1_8b_"
    released = {
        LLAMA.name: f"{ours}llama3.1_8b",
        INSTRUCT.name: f"{ours}llama3.1_8b_instruct",
        LLAMA_3.name: f"{ours}llama3_8b",
    }
    others = (LLAMA_3, INSTRUCT, QWEN, LARGE)
    trainings = {"": ten, LARGE.name: large}
    return Setup(
        questions,
        others,
        trainings,
        released,
        Evaluation(baselines=BASELINES, simulator=SIMULATOR),
        outside,
        dtype="bfloat16",
        speed=SPEED,
    )


def llama(work: Path) -> dict[str, Setup]:
    """Targets Llama-3.1-8B and, of input ablation, its Instruct sibling."""
    return {
        FEATURES: features(work),
        PATCHING: patching(
            LLAMA,
            QWEN,
            "Transluce/act_patch_llama_3.1_8b_counterfact",
            "Transluce/act_patch_llama3.1_8b_llama3.1_8b",
        ),
        ABLATION: ablation(
            INSTRUCT,
            QWEN,
            "Transluce/input_ablation_llama_3.1_8b_instruct_mmlu_hint",
            "Transluce/input_ablation_llama3.1_8b_instruct_llama3.1_8b_instruct",
        ),
    }


def qwen(work: Path) -> dict[str, Setup]:
    """Target Qwen3-8B, of whose features the paper has no descriptions."""
    return {
        PATCHING: patching(
            QWEN,
            LLAMA,
            "Transluce/act_patch_qwen3_8b_counterfact",
            "Transluce/act_patch_qwen3_8b_qwen3_8b",
        ),
        ABLATION: ablation(
            QWEN,
            INSTRUCT,
            "Transluce/input_ablation_qwen3_8b_mmlu_hint",
            "Transluce/input_ablation_qwen3_8b_qwen3_8b_hint",
        ),
    }
