"""Texts from files of every form, cut into documents; rows without a text are named."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfx.errors import SelfxError
from selfx.features.exemplars.texts import read_texts


def test_texts_in_every_form(tmp_path):
    """Titles of the first rank begin documents; what holds no word is none."""
    plain = "Before.\n = A b = \n\n First. \n = = Part = = \n more = less\n = C = \nLast = end\n"
    wanted = [
        "Before.\n",
        " = A b = \n\n First. \n = = Part = = \n more = less\n",
        " = C = \nLast = end\n",
    ]
    (tmp_path / "a.txt").write_text(plain)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(plain.encode()))
    lines = "".join(json.dumps({"text": each, "id": 1}) + "\n" for each in [*wanted, " \n"])
    (tmp_path / "a.jsonl").write_text(lines + "\n")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.table({"id": [1, 2, 3], "text": wanted}), tmp_path / "a.parquet")
    for path in sorted(tmp_path.iterdir()):
        assert read_texts(path) == wanted, path.name


def test_a_table_without_texts_is_refused(tmp_path):
    pq.write_table(pa.table({"body": ["a"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(SelfxError, match=r"(?s)no column 'text'.*there is body, n"):
        read_texts(tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "b.parquet")
    with pytest.raises(SelfxError, match="row 1: text = None"):
        read_texts(tmp_path / "b.parquet")
