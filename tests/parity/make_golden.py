"""Writes the golden files, with torch: `python tests/parity/make_golden.py [CASE ...]`.

Torch computes in float64, each row alone and without padding. It is then run otherwise, padded and
with a cache, and with each switch turned off, and how far the logits move is written down too.
"""

from __future__ import annotations

import copy
import json
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import golden
import numpy as np
import torch
import transformers
from golden_case import Case
from golden_gemmas import GEMMA2, GEMMA3, GEMMA3_TEXT
from golden_llamas import LLAMA, MIMO, MISTRAL, QWEN2, QWEN3, QWEN3_MOE, SMOLLM3
from golden_others import GPT2, GPT_NEOX, OLMO, PHI3
from golden_torch import Model, alone, cached, distance, padded
from safetensors import safe_open

DECLARED: dict[str, Case] = {
    **(LLAMA | SMOLLM3 | MISTRAL | QWEN2 | QWEN3 | QWEN3_MOE | MIMO),
    **(GEMMA2 | GEMMA3_TEXT | GEMMA3),
    **(GPT2 | GPT_NEOX | OLMO | PHI3),
}
FAITHFUL = 5e-5
VISIBLE = 1e-3
SLIGHT = 1e-4  # for `gelu`: its two forms never differ by more than 5e-4


def main(names: list[str]) -> None:
    """Makes the files of the cases called, or of all."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    golden.FOLDER.mkdir(exist_ok=True)
    for name in names or DECLARED:
        make(name, DECLARED[name])


def make(name: str, case: Case) -> None:
    """Writes one case's two files and prints its figures."""
    about = describe(case)
    write(name, about)
    model = loaded(name, case)
    rows = golden.tokens(name, 60)
    found = [alone(model, row, case.attention) for row in rows]
    logits = [one["logits"] for one in found]
    about["self_consistency"] = self_consistency(model, rows, logits)
    far = {way: far for way, far in about["self_consistency"].items() if not far < FAITHFUL}
    about["hf_inconsistent"] = {way: case.causes.get(way, "UNEXPLAINED") for way in far}
    about["matters"] = matters(model, case, rows, logits)
    about["inert"] = effects(model, case, case.inert, rows, logits)
    check_same(name, case, about, rows, logits)
    write(name, about)
    arrays: dict[str, Any] = {f"rows_{i}": row for i, row in enumerate(rows)}
    for i, one in enumerate(found):
        arrays |= {f"{kind}_{i}": np.float32(value) for kind, value in one.items()}
    np.savez_compressed(golden.FOLDER / f"{name}.npz", **arrays)
    report(name, about)


def report(name: str, about: Mapping[str, Any]) -> None:
    """Prints how a case did, and what is wrong with it in capitals."""
    ways = " ".join(f"{way} {far:.0e}" for way, far in about["self_consistency"].items())
    sizes = " ".join(f"{switch} {by:.1e}" for switch, by in about["matters"].items())
    least = {switch: SLIGHT if switch == "gelu" else VISIBLE for switch in about["matters"]}
    weak = [switch for switch, by in about["matters"].items() if by < least[switch]]
    weak += [f"{switch} (not inert)" for switch, by in about["inert"].items() if by]
    print(f"{name}: {ways} | {sizes}{' WEAK: ' + ', '.join(weak) if weak else ''}")
    for way, why in about["hf_inconsistent"].items():
        print(f"    {way}: {why}")


def describe(case: Case) -> dict[str, Any]:
    """The config and the table of tensors, as `save_pretrained` writes them or as published."""
    with tempfile.TemporaryDirectory() as folder:
        blank(case).save_pretrained(folder)
        config = json.loads(Path(folder, "config.json").read_text())
        with safe_open(Path(folder, "model.safetensors"), "np") as file:
            saved = {key: file.get_slice(key).get_shape() for key in sorted(file.keys())}
    shapes = {renamed(key, case.rename): list(shape) for key, shape in saved.items()}
    ignored = [key for key in shapes if re.search(case.ignored, key)] + list(case.extra)
    kept = [key for key in shapes if key not in case.extra]
    about: dict[str, Any] = {
        "transformers": transformers.__version__,
        "torch": torch.__version__.partition("+")[0],
        "model": case.model,
        "config": config,
        "tensors": shapes | {key: list(shape) for key, shape in case.extra.items()},
        "ignored": ignored,
        "layouts": {
            layout: {renamed(key, names): key for key in kept}
            for layout, names in case.layouts.items()
        },
    }
    if case.published is not None:
        about["config_published"] = published(case, config["model_type"])
    if case.stands_for is not None:
        about["config"] = without_gaps({**case.config, **case.stands_for})
    return about


def renamed(key: str, names: tuple[tuple[str, str], ...]) -> str:
    """A tensor's name after every replacement."""
    for pattern, replacement in names:
        key = re.sub(pattern, replacement, key)
    return key


def published(case: Case, model_type: str) -> dict[str, Any]:
    """The config with the changes that make it look like a published one."""
    whole = {"architectures": [case.model], "model_type": model_type}
    return without_gaps({**whole, **case.config, **(case.published or {})})


def without_gaps(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without the keys whose value is `...`."""
    return {key: value for key, value in config.items() if value is not ...}


def config_of(case: Case, changes: Mapping[str, Any] | None = None) -> Any:
    """The config object of a case, with some arguments changed, within `text_config` too."""
    arguments = copy.deepcopy({**case.config, **(changes or {})})
    if "text_config" in case.config:
        arguments["text_config"] = {
            **copy.deepcopy(case.config["text_config"]),
            **copy.deepcopy((changes or {}).get("text_config", {})),
        }
    return getattr(transformers, case.model).config_class(**arguments)


def blank(case: Case, changes: Mapping[str, Any] | None = None) -> Model:
    """A model of torch's own random weights."""
    config = config_of(case, changes)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    return getattr(transformers, case.model)(config).eval()


def loaded(name: str, case: Case, config: str = "config", layout: str | None = None) -> Model:
    """The model of a case as torch reads it from a folder; nothing may be missing or left over."""
    with tempfile.TemporaryDirectory() as folder:
        golden.write_folder(name, folder, config, layout)
        if case.stands_for is not None:
            config_of(case).save_pretrained(folder)
        model, log = getattr(transformers, case.model).from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="eager",
            experts_implementation="eager",
            output_loading_info=True,
        )
    extra = set(log["unexpected_keys"]) - set(case.extra)
    if extra or log["missing_keys"] or log["mismatched_keys"]:
        raise RuntimeError(f"{name}: torch read the folder otherwise: {log}")
    return model.double().eval()


def self_consistency(
    model: Model, rows: list[np.ndarray], logits: list[np.ndarray]
) -> dict[str, float]:
    """How far torch is from what it computed for each row alone, for each other way of running.

    Padded in float32: a float64 mask overflows in torch's float32 softmax, and a padding token that
    sees nothing turns the whole row into NaN.
    """
    single = copy.deepcopy(model).float()
    ways = {"float32": [alone(single, row)["logits"] for row in rows]}
    ways |= {f"{side}_padded": padded(single, rows, side) for side in ("left", "right")}
    ways["cached"] = [cached(model, row) for row in rows]
    return {way: distance(found, logits) for way, found in ways.items()}


def effects(
    model: Model,
    case: Case,
    switches: Mapping[str, Any],
    rows: list[np.ndarray],
    logits: list[np.ndarray],
) -> dict[str, float]:
    """How far the logits move under each switch's changes of the config, with the same weights."""
    others = {switch: transplanted(model, case, changes) for switch, changes in switches.items()}
    return {switch: moved(other, rows, logits) for switch, other in others.items()}


def matters(
    model: Model, case: Case, rows: list[np.ndarray], logits: list[np.ndarray]
) -> dict[str, float]:
    """How far the logits move when each switch is turned off, with the same weights."""
    skipped = {
        switch: moved(without(model, pattern), rows, logits)
        for switch, pattern in case.skip.items()
    }
    return effects(model, case, case.off, rows, logits) | skipped


def transplanted(model: Model, case: Case, changes: Mapping[str, Any]) -> Model:
    """The model's weights in one whose config differs."""
    other = blank(case, changes).double()
    other.load_state_dict(model.state_dict(), strict=False)
    return other


def without(model: Model, pattern: str) -> Model:
    """The model without the modules that match, or with the weights that match at zero."""
    other = copy.deepcopy(model)
    for name, _ in [*other.named_modules()]:
        if re.search(f"{pattern}$", name):
            other.set_submodule(name, torch.nn.Identity())
    for name, weight in other.named_parameters():
        if re.search(pattern, name):
            weight.data.zero_()
    return other


def check_same(
    name: str,
    case: Case,
    about: Mapping[str, Any],
    rows: list[np.ndarray],
    logits: list[np.ndarray],
) -> None:
    """Raises unless every other spelling of the config and of the names makes the same model."""
    spellings = [("config_published", None)] if "config_published" in about else []
    for config, layout in [*spellings, *(("config", layout) for layout in about["layouts"])]:
        far = moved(loaded(name, case, config, layout), rows, logits)
        if far > 0:
            raise RuntimeError(f"{name}: {layout or config} is another model's, by {far:.1e}")


def moved(model: Model, rows: list[np.ndarray], logits: list[np.ndarray]) -> float:
    """How far a model's logits for each row alone are from these."""
    return distance([alone(model, row)["logits"] for row in rows], logits)


def write(name: str, about: Mapping[str, Any]) -> None:
    """Writes a case's JSON, lists of numbers on one line."""
    text = json.dumps(about, indent=1)
    flat = re.sub(r"\[[^\[\]{}]*\]", lambda found: f"[{' '.join(found[0][1:-1].split())}]", text)
    (golden.FOLDER / f"{name}.json").write_text(flat + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
