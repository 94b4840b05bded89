"""Which file holds a dictionary, in a folder or in a hub's repository of many."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from huggingface_hub import list_repo_files

from selfx.errors import SelfxError
from selfx.features.dictionaries.formats.bundle import CONFIGS, PICKLES
from selfx.weights.hub import from_hub, is_hub_id

_WEIGHTS = (".safetensors", ".npz", *PICKLES)
_NOT_WEIGHTS = (
    "sparsity",
    "activations_store_state",
    "trainer_state",
    "optimizer",
    "training_args",
)


def find_weights(name: str, inside: str = "") -> tuple[Path, str]:
    """The file of weights that is meant, and the full name by which it is known.

    Raises:
      SelfxError: there is none, or there are several.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path, path.absolute().as_posix()
    if path.is_dir():
        file = path / _chosen(_files(path), inside, name)
        return file, file.absolute().as_posix()
    if not is_hub_id(name):
        raise SelfxError(
            f"no dictionary at {name!r}",
            expected="a file, a folder, or a hub id (org/name)",
            hint="what is inside a repository goes into a second argument",
        )
    try:
        files = list_repo_files(name)
    except Exception:  # out of reach, or not there: the client of weights says which, or has it
        root = from_hub(name, (f"{inside}*",))
        chosen = _chosen(_files(root), inside, name)
        return root / chosen, f"{name}/{chosen}"
    chosen = _chosen(files, inside, name)
    return from_hub(name, tuple(_needed(files, chosen))) / chosen, f"{name}/{chosen}"


def _files(folder: Path) -> list[str]:
    """Every file in a folder, by its path in it."""
    return [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]


def _chosen(files: list[str], inside: str, name: str) -> str:
    """The one file of weights at or under `inside`."""
    inside = inside.strip("/")
    if inside in files:
        return inside
    under = [file for file in files if file.startswith(f"{inside}/" if inside else "")]
    found = [file for file in under if _holds_weights(file)]
    if len(found) == 1:
        return found[0]
    if not found:
        near = sorted({str(PurePosixPath(f).parent) for f in files if _holds_weights(f)})
        raise SelfxError(
            f"no dictionary in {name}" + (f" at {inside!r}" if inside else ""),
            expected=f"a file in {', '.join(_WEIGHTS[:3])} or .pt",
            hint=f"there is {', '.join(near[:8])}" if near else "",
        )
    raise SelfxError(
        f"{len(found)} dictionaries in {name}" + (f" at {inside!r}" if inside else ""),
        expected="one",
        hint=f"name it as the second argument: {', '.join(found[:8])}"
        + (", ..." if found[8:] else ""),
    )


def _holds_weights(file: str) -> bool:
    path = PurePosixPath(file)
    return path.suffix in _WEIGHTS and path.stem not in _NOT_WEIGHTS


def _needed(files: list[str], chosen: str) -> list[str]:
    """The file, what describes it, and no other weights."""
    path = PurePosixPath(chosen)
    folders = {path.parent, path.parent.parent}
    beside = [
        file
        for file in files
        if PurePosixPath(file).parent in folders and PurePosixPath(file).name in CONFIGS
    ]
    sparsity = str(path.with_name("sparsity.safetensors"))
    return [chosen, *beside, *([sparsity] if sparsity in files else [])]
