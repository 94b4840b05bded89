"""The same texts through Hugging Face's implementation in torch, where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from selfx.doctor.checkpoint import open_checkpoint
from selfx.doctor.compare import gap, judged, limit
from selfx.doctor.declared import hf_config
from selfx.doctor.named import LLAMA
from selfx.doctor.report import Check, skipped
from selfx.doctor.spec import Checkpoint, Turn
from selfx.doctor.trial import Trial
from selfx.errors import SelfxError

_RESIDUALS = ("reference: residuals", "the residual after every layer is transformers' own")
_LOGITS = ("reference: logits", "logits are those of transformers")


def against_transformers(trial: Trial, path: Path | None) -> Iterator[Check]:
    """Residuals and logits against transformers' eager implementation in float32.

    Args:
      trial: the model and its texts.
      path: the folder, or the GGUF file, from whose tensors the reference is then built.
    """
    try:
        model = _reference(path)
    except SelfxError as error:
        yield skipped(*_RESIDUALS, str(error))
        yield skipped(*_LOGITS, str(error))
        return
    residuals, logits = _run(model, trial.tokens)
    most = limit(jnp.dtype(trial.model.embed[...].dtype), trial.model.config.n_layers)
    axes = ("layer", "row", "position")
    found = gap(trial.captures["resid_post"], residuals, axes, axes[:2])
    wrong = "the model and transformers part; the steps that failed say where"
    yield judged(*_RESIDUALS, found, most, wrong)
    found = gap(np.asarray(trial.plain.logits), logits, axes[1:], axes[1:2])
    yield judged(*_LOGITS, found, most, wrong)


def _reference(path: Path | None) -> Any:
    """The model in torch.

    Raises:
      SelfxError: torch or the files are missing, or the file's kind is not known.
    """
    if importlib.util.find_spec("torch") is None:
        raise SelfxError(
            "torch is not installed",
            hint="pip install torch, then pip install 'selfx[reference]', and this command again",
        )
    if path is not None and path.is_dir():
        return _from_folder(path)
    return _from_tensors(open_checkpoint(path))


def _from_folder(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        str(folder),
        config=hf_config(folder),
        dtype=torch.float32,
        attn_implementation="eager",
        local_files_only=True,
    )
    return model.eval()


def _from_tensors(checkpoint: Checkpoint) -> Any:
    """A Llama in torch with a GGUF file's weights."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    state = _llama_state(checkpoint)
    spec, count = checkpoint.specs[0], len(checkpoint.specs)
    assert spec.turn is not None
    vocab, width = state["model.embed_tokens.weight"].shape
    bias, mlp_bias = (f"model.layers.0.{LLAMA[m]}.bias" in state for m in ("q", "gate"))
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=len(state["model.layers.0.mlp.gate_proj.weight"]),
        num_hidden_layers=count,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.d_head,
        rms_norm_eps=spec.eps,
        tie_word_embeddings="lm_head.weight" not in state,
        attention_bias=bias,
        mlp_bias=mlp_bias,
        rope_parameters=_rope(spec.turn),
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    tensors = {name: torch.tensor(np.array(x, np.float32)) for name, x in state.items()}
    model.load_state_dict(tensors, strict="lm_head.weight" in state)
    if spec.turn.kind == "divided":
        rotary = model.model.rotary_emb
        rotary.inv_freq = rotary.inv_freq / torch.tensor(spec.turn.settings["factors"])
    return model


def _llama_state(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """A checkpoint's tensors under the names of transformers' Llama."""
    tensors, names = checkpoint.tensors, {}
    outside = {
        "embed": "model.embed_tokens.weight",
        "final_norm.w": "model.norm.weight",
        "head": "lm_head.weight",
    }
    found = {name: tensors.outside(role) for role, name in outside.items()}
    for layer in range(len(checkpoint.specs)):
        for owner, module in LLAMA.items():
            for kind, word in (("w", "weight"), ("b", "bias")):
                x = tensors.inside(f"{owner}.{kind}", layer)
                names[f"model.layers.{layer}.{module}.{word}"] = None if x is None else x.T
    return {name: x for name, x in {**found, **names}.items() if x is not None}


def _rope(turn: Turn) -> dict[str, Any]:
    if turn.kind in ("default", "divided"):
        return {"rope_type": "default", "rope_theta": turn.theta}
    given = {key: value for key, value in turn.settings.items() if value is not None}
    longest = given.pop("max_position_embeddings")
    given.setdefault("original_max_position_embeddings", longest)
    return {"rope_type": turn.kind, "rope_theta": turn.theta, **given}


def _run(model: Any, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The residual after every layer `[l, b, t, d]`, and logits `[b, t, v]`."""
    import torch

    seen: list[np.ndarray] = []

    def keep(_: Any, __: Any, out: Any) -> None:
        seen.append((out[0] if isinstance(out, tuple) else out).numpy())

    hooks = [layer.register_forward_hook(keep) for layer in _layers(model)]
    with torch.no_grad():
        logits = model(torch.tensor(np.asarray(tokens, np.int64))).logits
    for hook in hooks:
        hook.remove()
    return np.stack(seen), logits.numpy()


def _layers(model: Any) -> Any:
    """The decoder's list of layers."""
    named = [(name, part) for name, part in model.named_modules() if "vision" not in name]
    return next(part for name, part in named if name.rpartition(".")[2] in ("layers", "h"))
