"""Models of the Hugging Face hub, by id."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from selfx.errors import SelfxError

_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
)


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form of a hub id, `org/name`, and not that of a file."""
    form = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name)
    return form is not None and not name.endswith((".gguf", ".safetensors"))


def from_hub(name: str, files: tuple[str, ...] = _FILES) -> Path:
    """The folder of a hub model's weights, config and tokenizer, or of some files, downloaded once.

    Raises:
      SelfxError: it is not there, needs a login, or the hub is out of reach.
    """
    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except Exception as error:  # the client lets errors of its transport through as they are
        raise _explained(name, error) from error


def _explained(name: str, error: Exception) -> SelfxError:
    if isinstance(error, GatedRepoError):
        return SelfxError(
            f"{name} is gated",
            expected="a hub account that has accepted its terms",
            hint="accept them on the model's page, then run: hf auth login",
        )
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return SelfxError(
            f"no model {name} on the hub, and no such path here",
            expected="a hub id (org/name), a folder, or a .gguf file",
            hint="check the spelling; a private model needs: hf auth login",
        )
    if isinstance(error, HfHubHTTPError):
        return _out_of_reach(name, f"the hub answered: {error}")
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled | OSError):
        return _out_of_reach(name, "the hub is out of reach and the model is not in its cache")
    return _out_of_reach(name, f"{type(error).__name__}: {error}")


def _out_of_reach(name: str, reason: str) -> SelfxError:
    return SelfxError(
        f"cannot fetch {name}: {reason}",
        expected="access to the hub, or a model on disk",
        hint="check the network (HF_ENDPOINT, HF_HUB_OFFLINE), or give the path of a folder",
    )
