"""Weights from disk: Hugging Face folders, GGUF files, and where to get them by name."""

from selfx.weights.digest import weights_hash
from selfx.weights.fetch import PACKAGED, pull, resolve
from selfx.weights.load import LanguageModel, load

__all__ = ["PACKAGED", "LanguageModel", "load", "pull", "resolve", "weights_hash"]
