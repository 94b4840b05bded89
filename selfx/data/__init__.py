"""The small data of our own that the quickstart runs on: facts, questions and running text."""

from __future__ import annotations

import importlib.resources
import pathlib


def facts_path() -> pathlib.Path:
    """Returns the path of `facts.jsonl`: subject, attribute, template, prompt and relation."""
    return _path("facts.jsonl")


def questions_path() -> pathlib.Path:
    """Returns the path of `questions.jsonl`: subject, question, four choices and the answer."""
    return _path("questions.jsonl")


def text_path() -> pathlib.Path:
    """Returns the path of `text.jsonl.gz`: running text."""
    return _path("text.jsonl.gz")


def _path(name: str) -> pathlib.Path:
    return pathlib.Path(str(importlib.resources.files(__name__) / name))
