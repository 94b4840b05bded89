"""Reading facts, who may be exchanged with whom, and where in a prompt things are."""

import gzip
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfx.errors import SelfxError
from selfx.tasks.facts import (
    Fact,
    completion_places,
    draw_options,
    option_places,
    options_prompt,
    partners,
    read_facts,
)
from selfx.tasks.split import split_of
from selfx.testing import tiny_tokenizer

FACT = Fact("Eiffel Tower", "Paris", "The Eiffel Tower is in", "place")


@pytest.mark.parametrize("name", ["f.jsonl", "f.jsonl.gz", "f.parquet"])
def test_every_kind_of_file(tmp_path, lines, facts, name):
    if name.endswith("parquet"):
        path = tmp_path / name
        pq.write_table(pa.Table.from_pylist(facts), path)
    else:
        path = lines(facts, name)
    found = read_facts(path)
    assert len(found) == 48
    assert found[0] == Fact("Ca 0", "Aville", "Ca 0 was bya", "capital")


def test_counterfact_as_released_and_flattened(lines):
    rows = [
        {
            "requested_rewrite": {
                "prompt": "{} is in",
                "relation_id": "P1",
                "target_true": {"str": place},
                "subject": name,
            }
        }
        for name, place in (("A", "X"), ("B", "Y"))
    ]
    flat = {"prompt": "C is in", "subject": "C", "relation_id": "P1", "target_true": " Z"}
    found = read_facts(lines([*rows, flat]))
    assert [fact.prompt for fact in found] == ["A is in", "B is in", "C is in"]
    assert found[2].attribute == "Z"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"subject": None}, "subject = None"),
        ({"subject": " "}, "subject = ' '"),
        ({"attribute": 3}, "attribute = 3"),
        ({"prompt": "no name in it"}, "does not name the subject"),
        ({"relation_id": ""}, "relation_id = ''"),
    ],
)
def test_a_row_that_is_no_fact_is_named(lines, facts, change, said):
    facts[4] |= change
    with pytest.raises(SelfxError, match=rf"rows\.jsonl:5: .*{said}"):
        read_facts(lines(facts))


def test_a_missing_field_is_named(lines, facts):
    del facts[0]["attribute"]
    with pytest.raises(SelfxError, match="no 'attribute'"):
        read_facts(lines(facts))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"{", b"[1]\n", b"\xff\xff"])
def test_a_file_that_holds_no_rows(tmp_path, content):
    path = tmp_path / "facts.jsonl"
    path.write_bytes(content)
    with pytest.raises(SelfxError, match=r"facts\.jsonl"):
        read_facts(path)


def test_a_truncated_archive(tmp_path, lines, facts):
    whole = lines(facts, "a.jsonl.gz").read_bytes()
    path = tmp_path / "b.jsonl.gz"
    path.write_bytes(whole[:-30])
    with pytest.raises(SelfxError, match=r"b\.jsonl\.gz cannot be read"):
        read_facts(path)
    path.write_bytes(gzip.compress(b"")[:5])
    with pytest.raises(SelfxError, match=r"b\.jsonl\.gz"):
        read_facts(path)


@pytest.mark.parametrize("name", ["none.jsonl", "some/where/none", "facts.csv"])
def test_no_such_data(name):
    with pytest.raises(SelfxError, match="no data"):
        read_facts(name)


def test_another_kind_of_file(tmp_path):
    (tmp_path / "facts.csv").write_text("subject,attribute\n")
    with pytest.raises(SelfxError, match="data file") as error:
        read_facts(tmp_path / "facts.csv")
    assert ".jsonl" in error.value.expected


def test_a_hub_id_without_network(monkeypatch):
    import datasets

    def fail(*args):
        raise ConnectionError("cannot reach the hub\nlong story")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(SelfxError, match="cannot reach the hub") as error:
        read_facts("someone/facts:plain")
    assert "--data" in error.value.hint


def test_a_hub_id(monkeypatch, facts):
    import datasets

    def load(name, config):
        assert (name, config) == ("someone/facts", "plain")
        return {"train": facts[:30], "test": facts[30:]}

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(read_facts("someone/facts:plain")) == 48


def test_nobody_to_exchange_with(lines, facts):
    with pytest.raises(SelfxError, match="no two of one relation"):
        read_facts(lines([facts[0], facts[-1]]))


def test_partners_share_relation_and_split_and_differ_in_the_rest(lines, facts):
    found = partners(read_facts(lines(facts)), seed=0, test_share=0.25)
    assert len(found) > 40
    for fact, others in found.items():
        for other in others:
            assert fact.relation == other.relation
            assert split_of(fact.subject, 0) == split_of(other.subject, 0)
            assert fact.subject != other.subject
            assert fact.attribute != other.attribute


def test_splits_depend_on_name_and_seed_alone():
    names = [f"name {n}" for n in range(2000)]
    held = [split_of(name, 0) == "test" for name in names]
    assert np.mean(held) == pytest.approx(0.25, abs=0.03)
    assert held != [split_of(name, 1) == "test" for name in names]
    pinned = [name for name in ("Kenya", "Peru", "Spain", "Italy") if split_of(name, 0) == "test"]
    assert pinned == ["Spain"]


def shown(places, kind):
    tokens = tiny_tokenizer().convert_ids_to_tokens(list(places.ids))
    return [tokens[t] for t in places.at[kind]]


def test_where_the_subject_is():
    places = completion_places(tiny_tokenizer(), FACT)
    assert places.at["subject_first"] == (4,)
    assert places.at["subject_last"] == (15,)
    assert places.at["last"] == (len(FACT.prompt) - 1,)
    assert places.at["relation"] == tuple(range(16, len(FACT.prompt) - 1))


def test_a_subject_of_one_token_has_no_first_token_of_its_own():
    places = completion_places(tiny_tokenizer(), Fact("X", "Y", "The X is in", "r"))
    assert places.at["subject_first"] == ()
    assert places.at["subject_last"] == (4,)


def test_a_subject_at_the_end_leaves_no_place():
    assert completion_places(tiny_tokenizer(), Fact("X", "Y", "Here is X", "r")) is None


def test_where_the_options_are():
    options = ["Rome", "Paris", "Is in", "Oslo"]
    text = options_prompt(FACT, options)
    places = option_places(tiny_tokenizer(), FACT, text, options, "Paris", "Oslo")
    assert text == (
        "The Eiffel Tower is in\n\nRespond with one of Rome or Paris or Is in or Oslo or unknown"
        " and nothing else.\n\nResponse:"
    )
    assert places.at["original_option"] == (text.index("Paris") + 4,)
    assert places.at["changed_option"] == (text.index("Oslo") + 3,)
    assert places.at["other_option"] == (text.index("Rome") + 3, text.index("Is in") + 4)
    assert shown(places, "subject_last") == ["r"]
    assert max(places.at["relation"]) < len(FACT.prompt)


def test_where_things_are_in_a_chat():
    options = ["Rome", "Paris"]
    text = options_prompt(FACT, options, tiny_tokenizer())
    places = option_places(tiny_tokenizer(), FACT, text, options, "Paris", "Rome")
    assert text.startswith(
        "<|im_start|>user\nThe Eiffel Tower is in\n\nRespond with one of Rome or"
    )
    assert [shown(places, kind) for kind in ("subject_last", "original_option")] == [["r"], ["s"]]
    assert len(places.at["relation"]) == len(" is in")


def test_a_chat_without_a_template():
    with pytest.raises(SelfxError, match="no chat template"):
        options_prompt(FACT, ["a", "b"], types.SimpleNamespace(chat_template=None))


def test_options_hold_both_attributes_and_three_more():
    relation = [Fact(f"s{n}", f"a{n % 9}", f"s{n} is", "r") for n in range(18)]
    rng = np.random.default_rng(0)
    drawn = [draw_options(relation[0], relation[1], relation, rng) for _ in range(50)]
    assert all(len(set(options)) == 5 and {"a0", "a1"} < set(options) for options in drawn)
    assert len({options.index("a0") for options in drawn}) == 5
    assert len(draw_options(relation[0], relation[1], relation[:2], rng)) == 2
