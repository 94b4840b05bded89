"""A finished run's adapter as a PEFT folder for Hugging Face's tools, with a note on its use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp

from selfx.errors import SelfxError
from selfx.explainer.injection import INJECTIONS
from selfx.explainer.lora import Adapters, Lora, check_adapters, stack
from selfx.explainer.prompts import Prompter, make_prompter
from selfx.explainer.run import Run
from selfx.files import write_text
from selfx.models.config import Config
from selfx.weights.adapted import adapted_hash, adapter_folder, split_name
from selfx.weights.digest import weights_hash
from selfx.weights.fetch import resolve
from selfx.weights.load import ends_of, outline
from selfx.weights.peft import Matrices, load_adapter, write_adapter
from selfx.weights.safetensors import folder_config, read_object

WRAPPED = {"gemma3": "model.language_model.layers."}
"""`{model_type: what the layers are called in code}` of models with a decoder inside another."""


def export_peft(run_folder: str | Path, out: str | Path, base: str = "") -> dict[str, Any]:
    """Writes a run's adapter to `out`; returns where it is, for which base, its maps and rank.

    An explainer that was trained on `MODEL+ADAPTER` is written for `MODEL`: both adapters as one.

    Args:
      run_folder: what `selfx train` wrote.
      out: the PEFT folder.
      base: how HF is to load the base; by the name that the run knows it by, if empty.

    Raises:
      SelfxError: no finished run or none with LoRA, its base is not what it was, another base is
        named, or the base's own adapter is more than LoRA.
    """
    run, out = Run(Path(run_folder)), Path(out)
    record = run.record()
    name, added = split_name(record["explainer"])
    path, folders = resolve(name), [adapter_folder(each) for each in added]
    found = outline(path)
    adapters = run.load_result(found.config).lora
    if adapters is None:
        raise SelfxError(
            f"the run in {run.path} trained {', '.join(run.training().trains)}",
            expected="a run with LoRA",
            hint=f"{run.model} is a model folder" if run.model.exists() else "train with lora",
        )
    own = weights_hash(path)
    _check_hash(run, record, adapted_hash(own, folders) if folders else own)
    _check_base(base, found.config)
    check_adapters(adapters, found.config)
    for folder in reversed(folders):
        adapters = stack(_adapters(folder, found.config), adapters)
    named = base or name
    write_adapter(out, _matrices(adapters), base=named, config=found.config, layers=_layers(path))
    prompter = make_prompter(found.tokenizer, ends_of(found), run.training().style)
    write_text(out / "README.md", _note(named, own, prompter, run, added))
    rank = max(each.a.shape[-1] for each in adapters.values())
    return {"adapter": str(out), "base": named, "maps": sorted(adapters), "rank": rank}


def _check_hash(run: Run, record: dict[str, Any], found: str) -> None:
    """Raises SelfxError where the base's files are not those that the run was trained from."""
    wanted = record["explainer_hash"].partition("+")[0]  # after it, how it was quantised
    if found != wanted:
        raise SelfxError(
            f"weights of {record['explainer']} with hash {found[:12]}",
            expected=f"{wanted[:12]}, which {run.path} was trained from",
        )


def _adapters(folder: Path, config: Config) -> Adapters:
    pairs, scale = load_adapter(folder, config)
    return {name: Lora(jnp.asarray(a), jnp.asarray(b), scale) for name, (a, b) in pairs.items()}


def _matrices(adapters: Adapters) -> dict[str, Matrices]:
    return {name: Matrices(each.a, each.b, each.scale) for name, each in adapters.items()}


def _check_base(base: str, config: Config) -> None:
    """Raises SelfxError where the base that is named lies here, and is another architecture."""
    folder = Path(base).expanduser()
    if base and (folder / "config.json").is_file() and folder_config(folder) != config:
        raise SelfxError(
            f"{base} is not the architecture that the run was trained on",
            expected=f"a {config.family} of {config.n_layers} layers and width {config.d_model}, "
            "alike in every field of its config",
        )


def _layers(path: Path) -> str:
    """What the base's code calls its layers, where that is not the family's own way."""
    kind = read_object(path / "config.json").get("model_type") if path.is_dir() else None
    return WRAPPED.get(str(kind), "")


def _note(base: str, own: str, prompter: Prompter, run: Run, added: list[str]) -> str:
    """The README of the folder."""
    training, (begin, slot, end) = run.training(), prompter.markers
    way = training.way
    strength = way.strength or INJECTIONS[way.injection].strength
    asked = "in the chat template" if training.style == "chat" else "as plain text"
    layer = "the one that it was taken after" if way.own else str(way.at)
    where = f" Layer: {layer}." if INJECTIONS[way.injection].layered else ""
    held = f" It also holds {', '.join(added)}, on which it was trained." if added else ""
    reader = (
        "\n- Vectors go through a reader first, which PEFT knows nothing of and this folder lacks."
        if (run.adapter / "reader.safetensors").exists()
        else ""
    )
    parts = ", its ".join(training.withhold)
    told = f"\n- Never told of a question: its {parts}; `some …` is in place." if parts else ""
    return f"""# An explainer of `{base}`

LoRA for `{base}` in PEFT's layout, written by selfx.{held}

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}")
explainer = PeftModel.from_pretrained(base, "PATH_OF_THIS_FOLDER")
```

- The base's files had SHA-256 `{own}`, as selfx counts it.
- Questions are asked {asked}; where one speaks of a vector it has `{begin}{slot}{end}`.
- How a vector enters at `{slot}`: {INJECTIONS[way.injection].about}. Strength:
  {strength:g}.{where}{reader}{told}
- Without the vector the answers are guesses.
"""
