"""What other people's code computed for tiny random models, from files: nothing here needs torch.

A case is one model: its `config.json`, the names and shapes of its tensors as a checkpoint has
them, and what Hugging Face's implementation in torch returned for two rows of tokens. The weights
are not stored: every tensor is drawn anew from its name. `make_golden.py` writes the files.
"""

import dataclasses
import json
import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

FOLDER = Path(__file__).parent / "golden"
CASES: tuple[str, ...] = tuple(sorted(file.stem for file in FOLDER.glob("*.json")))
"""Every case that has files, each named after a family and what it is there to show."""

GAIN = 1.5
"""Linear maps return about this times the size of their input, so that attention is uneven."""
CONV1D = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")
EMBEDDING = re.compile(r"(embed_tokens|embed_in|wte|wpe)\.weight$")


@dataclasses.dataclass(frozen=True)
class Golden:
    """One case; a tuple has an entry for each row, computed alone and without padding.

    Attributes:
      case: its name.
      config: what Hugging Face's library writes into `config.json` (for `mimo`, as published).
      config_published: the same model in the older spelling of the published files, or None.
      shapes: every tensor in the checkpoint, by name.
      ignored: the names among them that a text decoder has no use for.
      layouts: other names for the same tensors, `{layout: {name in the file: name in shapes}}`.
      rows: token ids, `[t]` each.
      logits: `[t, v]` each.
      embeddings: what enters the first layer, `[t, d]` each.
      residuals: the residual stream after every layer, `[l, t, d]` each.
      attention: the attention weights, `[l, h, t, t]` each, or None where they were not kept.
      matters: for each switch, how much the logits change without it, relative to the largest.
      inert: the same for switches that torch reads and then leaves unused.
      self_consistency: how far torch is from itself in the same measure: in float32, padded (in
        float32 too) and cached (in float64).
      hf_inconsistent: what in `self_consistency` is no rounding error, and why.
    """

    case: str
    config: dict[str, Any]
    config_published: dict[str, Any] | None
    shapes: dict[str, tuple[int, ...]]
    ignored: tuple[str, ...]
    layouts: dict[str, dict[str, str]]
    rows: tuple[np.ndarray, ...]
    logits: tuple[np.ndarray, ...]
    embeddings: tuple[np.ndarray, ...]
    residuals: tuple[np.ndarray, ...]
    attention: tuple[np.ndarray, ...] | None
    matters: dict[str, float]
    inert: dict[str, float]
    self_consistency: dict[str, float]
    hf_inconsistent: dict[str, str]


def load(case: str) -> Golden:
    """One case from its two files."""
    about = described(case)
    with np.load(FOLDER / f"{case}.npz") as arrays:
        of = {
            kind: tuple(arrays[f"{kind}_{row}"] for row in (0, 1))
            for kind in ("rows", "logits", "embeddings", "residuals", "attention")
            if f"{kind}_0" in arrays
        }
    return Golden(
        case=case,
        config=about["config"],
        config_published=about.get("config_published"),
        shapes={name: tuple(shape) for name, shape in about["tensors"].items()},
        ignored=tuple(about["ignored"]),
        layouts=about["layouts"],
        attention=of.pop("attention", None),
        matters=about["matters"],
        inert=about["inert"],
        self_consistency=about["self_consistency"],
        hf_inconsistent=about["hf_inconsistent"],
        **of,
    )


def described(case: str) -> dict[str, Any]:
    """What `<case>.json` holds."""
    return json.loads((FOLDER / f"{case}.json").read_text())


def tensors(case: str, layout: str | None = None) -> dict[str, np.ndarray]:
    """A case's checkpoint: float32 arrays by name, ignored ones too, always the same values.

    Args:
      case: its name.
      layout: other names for the same tensors, one of the case's `layouts`.
    """
    about = described(case)
    drawn = draw(case, about["tensors"])
    if layout is None:
        return drawn
    return {name: drawn[known] for name, known in about["layouts"][layout].items()}


def write_folder(
    case: str, path: str | Path, config: str = "config", layout: str | None = None
) -> Path:
    """The folder at `path`, made, with the case's `config.json` and `model.safetensors`.

    Args:
      case: its name.
      path: where the folder is to be.
      config: `"config"` or `"config_published"`.
      layout: as in `tensors`.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(described(case)[config], indent=2))
    save_file(tensors(case, layout), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def draw(case: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Random weights under which every layer, norm and bias shows in the logits.

    Legacy `RandomState`, whose stream NumPy has promised never to change (NEP 19).
    """
    values = {}
    for name, shape in shapes.items():
        stream = np.random.RandomState(zlib.crc32(f"{case}{name}".encode()))
        noise = stream.standard_normal(shape)
        values[name] = np.asarray(scaled(np.asarray(noise), name, case), np.float32)
    return values


def scaled(noise: np.ndarray, name: str, case: str) -> np.ndarray:
    """Standard noise at the size that suits the tensor called `name`."""
    gemma = case.startswith("gemma")
    if noise.ndim < 2:
        centred = name.endswith("bias") or gemma  # Gemma's norms multiply by 1 + weight
        return 0.1 * noise + (0 if centred else 1)
    if EMBEDDING.search(name):  # Gemma multiplies embeddings by the square root of their width
        return noise / math.sqrt(noise.shape[-1]) if gemma else noise
    fan_in = noise.shape[0 if CONV1D.search(name) else -1]
    return GAIN * noise / math.sqrt(fan_in)


def tokens(case: str, vocab_size: int, lengths: tuple[int, ...] = (20, 13)) -> list[np.ndarray]:
    """Rows of random token ids, `[t]` each."""
    stream = np.random.RandomState(zlib.crc32(case.encode()))
    return [stream.randint(0, vocab_size, length) for length in lengths]
