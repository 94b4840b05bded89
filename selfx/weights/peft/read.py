"""From a PEFT folder to the adapters of a decoder, and to the weights that it replaces whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from selfx.errors import SelfxError
from selfx.models.config import Config
from selfx.weights.layout import some
from selfx.weights.peft.contents import WEIGHTS, Contents, Place, read_contents
from selfx.weights.peft.settings import Settings, read_settings
from selfx.weights.peft.stacked import Matrices, common_scale, rescaled, stack

CONFIG = "adapter_config.json"


@dataclasses.dataclass(frozen=True)
class PeftAdapter:
    """What a PEFT folder holds.

    Attributes:
      matrices: `{map: its adapter in every layer}`.
      saved: `{weight's name in the family's table: tensor}` of weights that are replaced.
      rows: `{embedding's name: (rows, their new values)}`.
      copied: endings of the names of modules that PEFT copies before it trains them, so that what
        was tied to them is so no longer.
    """

    matrices: dict[str, Matrices]
    saved: dict[str, np.ndarray]
    rows: dict[str, tuple[tuple[int, ...], np.ndarray]]
    copied: tuple[str, ...]


def load_adapter(
    path: Path, config: Config | None = None
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], float]:
    """`({map: (a [l, in, r], b [l, r, out])}, scale)` from a PEFT folder.

    Args:
      path: the folder.
      config: of the base; without it modules must be named as Llama's are.

    Raises:
      SelfxError: as `read_adapter`; also for weights that are replaced whole.
    """
    found = read_adapter(path, config)
    if found.saved or found.rows:
        raise SelfxError(
            f"{Path(path) / WEIGHTS} replaces {some(sorted({**found.saved, **found.rows}))}",
            expected="LoRA on linear maps alone, to stand beside the base",
            hint=f"load it into the base: selfx.load('MODEL+{path}')",
        )
    scale = common_scale(found.matrices.values())
    same = {name: rescaled(each, scale) for name, each in found.matrices.items()}
    return {name: (each.a, each.b) for name, each in same.items()}, scale


def read_adapter(path: Path, config: Config | None = None) -> PeftAdapter:
    """What a PEFT folder holds, as a model of this config takes it.

    Args:
      path: the folder.
      config: of the base; without it modules must be named as Llama's are.

    Raises:
      SelfxError: a missing or broken file, a pickle, settings that mean something else than LoRA,
        a tensor without a place in the model, a pair that is not whole, a rank or a shape that is
        not what it should be, other modules than the settings name.
    """
    path = Path(path)
    settings = read_settings(path / CONFIG)
    found = read_contents(path, config)
    n_layers = config.n_layers if config else 1 + max(layer for layer, _ in found.sides)
    _check_targets(found, settings, n_layers)
    layers: dict[str, dict[int, Matrices]] = {}
    for at in sorted(found.sides):
        for name, matrices in _maps(found, at, settings, config).items():
            layers.setdefault(name, {})[at[0]] = matrices
    for name, each in layers.items():
        _check_alike(found.file, name, each)
    return PeftAdapter(
        {name: stack(each, n_layers) for name, each in sorted(layers.items())},
        found.saved,
        {name: (_rows(found, settings, name), tensor) for name, (_, tensor) in found.rows.items()},
        settings.saved,
    )


def _check_targets(found: Contents, settings: Settings, n_layers: int) -> None:
    """Raises SelfxError where the modules in the file are not those that the settings name."""
    if settings.targets is None:
        return
    heads = {name.removesuffix(f"{layer}.{m}") for (layer, m), name in found.names.items()}
    wanted = {
        name
        for head in heads
        for layer in range(n_layers)
        for module in found.modules
        if settings.adapts(name := f"{head}{layer}.{module}")
    }
    problems = {
        "without matrices": sorted(wanted - set(found.names.values())),
        "not to be adapted": sorted(set(found.names.values()) - wanted),
    }
    lines = [f"{title}: {some(names)}" for title, names in problems.items() if names]
    if lines:
        raise SelfxError(
            "\n  ".join([f"{found.file}: not the modules of {CONFIG}", *lines]),
            expected="matrices for the target modules in each of the layers that they are for",
            hint="fetch the folder again, and check that it is for this base",
        )


def _maps(
    found: Contents, at: Place, settings: Settings, config: Config | None
) -> dict[str, Matrices]:
    """`{map: its adapter in this layer}` of one module, which may hold several maps."""
    module, name, sides = found.modules[at[1]], found.names[at], found.sides[at]
    a, b, rank = sides.get("A"), sides.get("B"), settings.rank_of(name)
    n_in, n_out = module.shape(config) if config else (None, None)
    if not (
        a is not None
        and b is not None
        and a.ndim == b.ndim == 2
        and a.shape == (rank, n_in or a.shape[1])
        and b.shape == (n_out or b.shape[0], rank)
    ):
        shapes = [None if side is None else list(side.shape) for side in (a, b)]
        maps = ", ".join(map(repr, module.maps))
        raise SelfxError(
            f"{found.file}: lora_A and lora_B of {name}, that is of {maps}, have shapes {shapes}",
            expected=f"both, [{rank}, {n_in or 'in'}] and [{n_out or 'out'}, {rank}]: rank {rank}, "
            f"as {CONFIG} says",
        )
    scale, inputs = settings.scale_of(name), a.T
    return {
        part: Matrices(inputs, b.T[:, module.columns(part, config)], scale) for part in module.maps
    }


def _check_alike(file: Path, name: str, layers: dict[int, Matrices]) -> None:
    """Raises SelfxError where a map is wider in one layer than in another."""
    shapes = {(each.a.shape[0], each.b.shape[1]) for each in layers.values()}
    if len(shapes) > 1:
        raise SelfxError(f"{file}: {name!r} has shapes {sorted(shapes)}", expected="one, [in, out]")


def _rows(found: Contents, settings: Settings, name: str) -> tuple[int, ...]:
    """Which rows of an embedding are replaced."""
    given, tensor = found.rows[name]
    fitting = (rows for of, rows in settings.tokens.items() if not of or given.endswith(of))
    rows = next(fitting, ())
    if len(rows) != len(tensor):
        raise SelfxError(
            f"{found.file}: {len(tensor)} rows for {name}, and {len(rows)} tokens in {CONFIG}",
            expected="as many in trainable_token_indices",
        )
    return rows
