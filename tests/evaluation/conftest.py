"""A stand-in with the fields of `selfx.tasks.example.Example`, and a maker of examples."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class Example:
    id: str
    task: str
    split: str
    group: str
    cell: str
    question: str
    answer: str
    changed: bool
    content: str
    vectors: np.ndarray | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def vector(self):
        return None if self.vectors is None else self.vectors[-1]


def word(changed: bool, content: str) -> str:
    if changed:
        return f"The most likely output would change to <<<{content}>>>."
    return f"The output would remain unchanged from <<<{content}>>>."


@pytest.fixture
def example():
    """A maker: `example(3, True, "Paris", cell="a")` is the third example, changed to Paris."""

    def make(number, changed, content, *, cell="a", group=None, task="activation-patching"):
        return Example(
            id=f"e{number}",
            task=task,
            split="test",
            group=group or f"g{number}",
            cell=cell,
            question=f"Question {number}: what if <vector> is put in?",
            answer=word(changed, content),
            changed=changed,
            content=content,
        )

    return make


@pytest.fixture(name="word")
def word_fixture():
    """The grammar's writing side."""
    return word


LETTERS = "kqxz"


@pytest.fixture(scope="session")
def evidence():
    """A maker: texts of one-letter tokens with a feature that is on at one letter of four.

    `evidence("k", seed=1, ids=...)`: on at `k`, more strongly the further on; off in every other
    random text. The first token never counts. `ids` gives each letter's token.
    """
    from selfx.features.exemplars.excerpts import Evidence, Excerpt

    def excerpt(rng, letter, kind, ids, length):
        letters = rng.choice(list(LETTERS + "abc "), length)
        if kind == "off":
            letters[letters == letter] = "a"
        else:
            letters[[3, 7]] = letter
        on = (letters == letter) & (np.arange(length) >= 1)
        levels = np.where(on, 1 + rng.random(length) + np.arange(length) / length, 0)
        return Excerpt(
            tuple(str(one) for one in letters),
            levels.astype(np.float32),
            "random" if kind == "off" else kind,
            skip=1,
            ids=None if ids is None else tuple(ids[str(one)] for one in letters),
        )

    def make(letter, seed=0, ids=None, length=12):
        rng = np.random.default_rng(seed)
        kinds = ("top", "top", "top", "sample", "random", "off", "off")
        texts = tuple(excerpt(rng, letter, kind, ids, length) for kind in kinds)
        return Evidence(LETTERS.index(letter), texts, (letter,), ("b",), 0.125)

    return make


@pytest.fixture(scope="session")
def described():
    """A maker: the example of a feature that is on at a letter."""

    def make(number, letter, *, layer=1, vector=None, answer=None, group=None):
        return Example(
            id=f"f{number}",
            task="feature-description",
            split="test",
            group=group or f"family {number}",
            cell=f"layer {layer}",
            question="What does <vector> encode?",
            answer=answer or f'Fires strongly on "{letter}".',
            changed=False,
            content="",
            vectors=None if vector is None else vector[None],
            details={"layer": layer, "feature": number, "site": "resid_post", "dictionary": "d"},
        )

    return make


@pytest.fixture(scope="session")
def feature_trace(evidence, tiny_lm):
    """A function: a trace of feature descriptions for the tiny model, each letter's directions
    near one another."""
    import pyarrow as pa

    from selfx.features.exemplars.excerpts import Pieces
    from selfx.files import write_json
    from selfx.tasks.evidence import excerpt_row
    from selfx.tasks.schema import FEATURES, SCHEMAS
    from selfx.tasks.store import write_shards

    pieces = Pieces(tiny_lm.tokenizer)
    vocabulary = {pieces([index])[0]: index for index in range(len(tiny_lm.tokenizer))}
    centres = np.random.default_rng(5).standard_normal((len(LETTERS), 32))

    def row(number, split, layers):
        rng = np.random.default_rng((number, split == "test"))
        letter = LETTERS[number % len(LETTERS)]
        found = evidence(letter, seed=number, ids=vocabulary)
        vector = centres[number % len(LETTERS)] + 0.2 * rng.standard_normal(32)
        return {
            "layer": number % layers,
            "feature_idx": number,
            "chosen_label": f'Fires strongly on "{letter}".',
            "vector": vector.astype(np.float32),
            "site": "resid_post",
            "dictionary": "planted",
            "peak": found.peak,
            "frequency": found.frequency,
            "promoted": list(found.promoted),
            "suppressed": list(found.suppressed),
            "excerpts": [excerpt_row(each) for each in found.excerpts],
            "id": f"{split}-{number}",
            "group": f"{split} family {number}",
            "cell": f"layer {number % layers}",
            "split": split,
        }

    def write(folder, train=12, test=8, layers=2):
        schema, counts = SCHEMAS[FEATURES], {"train": train, "test": test}
        folder.mkdir(parents=True, exist_ok=True)
        tables = {
            split: [pa.Table.from_pylist([row(i, split, layers) for i in range(n)], schema)]
            for split, n in counts.items()
        }
        write_shards(folder, schema, tables)
        record = {"task": FEATURES, "target": "tiny", "target_hash": "0" * 64, "counts": counts}
        write_json(folder / "trace.json", record)
        return folder

    return write
