"""Feature descriptions on the tiny model: what a trace holds is what the model does."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from selfx.errors import SelfxError
from selfx.features.descriptions.describe import describe
from selfx.features.dictionaries.load import load_sae
from selfx.features.dictionaries.sae import Origin, Sae, encode
from selfx.features.dictionaries.save import save_saelens
from selfx.features.exemplars.corpus import windows
from selfx.features.exemplars.excerpts import Pieces, evidence_of, halves, once_each
from selfx.features.exemplars.mine import Search, mine
from selfx.models.decoder import forward
from selfx.tasks import describing
from selfx.tasks import directions as D
from selfx.tasks.evidence import load_evidence
from selfx.tasks.facts import read_facts
from selfx.tasks.families import families
from selfx.tasks.store import load_examples, load_trace
from selfx.tasks.trace import trace

LATENTS = 24
SETTINGS = {"context": 16, "exemplars": 6, "least": 2, "batch_size": 4}


@pytest.fixture(scope="module")
def sae_folder(tmp_path_factory, tiny_lm):
    """A dictionary of which two latents write the same direction."""
    rng = np.random.default_rng(0)
    d = tiny_lm.config.d_model
    dec = rng.standard_normal((LATENTS, d)).astype(np.float32)
    dec[5] = dec[4] + 0.01 * dec[6]
    dec /= np.linalg.norm(dec, axis=1, keepdims=True)
    sae = Sae(
        *(jnp.asarray(x) for x in (dec.T, np.full(LATENTS, 0.5), dec, np.zeros(d))),
        site="resid_post",
        layer=2,
        origin=Origin("selfx", bos=False),
    )
    folder = tmp_path_factory.mktemp("sae") / "random"
    save_saelens(sae, folder)
    return folder


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    rng = np.random.default_rng(1)
    words = ["war", "paid", "7", "the", "Anna", "of", "ran.", "sea", "12", "blue"]
    lines = [" ".join(rng.choice(words, 12)) for _ in range(30)]
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("".join(f'{{"text": "{line}"}}\n' for line in lines))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_lm, sae_folder, text_file):
    folder = tmp_path_factory.mktemp("features") / "trace"
    options = {"dictionary": str(sae_folder), **SETTINGS}
    record = trace("feature-description", tiny_lm, folder, data=text_file, limit=96, **options)
    return folder, record


def both(folder):
    return load_examples(folder, "train") + load_examples(folder, "test")


def test_what_a_trace_says(made, tiny_lm):
    folder, record = made
    assert record == load_trace(folder)
    assert record["task"] == "feature-description"
    assert record["target_hash"] == tiny_lm.hash
    examples = both(folder)
    assert len(examples) == sum(record["counts"].values()) > 10
    assert min(record["counts"].values()) > 0
    for example in examples:
        assert example.cell == "layer 2"
        assert "layer 2" in example.question
        assert all(opening[-1] != " " for opening in example.openings)
        assert example.answer.startswith("Fires")
        assert "excerpts" not in example.details


def test_the_vector_is_what_the_latent_writes(made, sae_folder):
    sae = load_sae(sae_folder)
    for example in both(made[0]):
        number = example.details["feature"]
        np.testing.assert_allclose(example.vector, sae.w_dec[number], atol=1e-6)


def test_the_texts_hold_what_the_latent_does_on_them(made, tiny_lm, sae_folder):
    sae = load_sae(sae_folder)
    test = load_examples(made[0], "test")
    for example, evidence in zip(
        test, load_evidence(made[0], "test", [e.id for e in test]), strict=True
    ):
        assert evidence.feature == example.details["feature"]
        text = max(evidence.excerpts, key=lambda excerpt: excerpt.peak)
        out = forward(tiny_lm.model, np.array([text.ids]), capture=("resid_post",))
        f = np.array(encode(sae, out.captures["resid_post"][2, 0]))[:, evidence.feature]
        f[: text.skip] = 0
        np.testing.assert_allclose(text.activations, f, atol=1e-4 * max(1, f.max()))
        assert text.peak > 0


def test_a_description_is_made_from_other_texts_than_it_is_scored_on(
    made, tiny_lm, sae_folder, text_file
):
    """The exemplars found again in one go, their first half described, give the same words."""
    from selfx.features.exemplars.directions import of_sae
    from selfx.features.exemplars.texts import read_texts

    corpus = windows(tiny_lm.tokenizer, read_texts(text_file), context=16)
    found = mine(tiny_lm, of_sae(load_sae(sae_folder)), corpus, search=Search(6, 6, 6, 4, 0))
    pieces = Pieces(tiny_lm.tokenizer)
    for example in both(made[0]):
        row, split = example.details, example.split
        whole = evidence_of(found, row["feature"], pieces)
        told, kept = halves(whole)
        assert describe(told).text == example.answer
        (scored,) = load_evidence(made[0], split, [example.id])
        assert [t.text for t in scored.excerpts] == [t.text for t in kept.excerpts]
        places = [{(t.document, t.start) for t in part.excerpts} for part in (told, scored)]
        assert not places[0] & places[1]


def test_promoted_tokens_are_told_where_asked_for(tmp_path, tiny_lm, text_file):
    options = {"directions": "neurons", "layers": "1", **SETTINGS}
    said = {}
    for about in ("inputs", "both"):
        folder = tmp_path / about
        trace(
            "feature-description", tiny_lm, folder, data=text_file, limit=8, about=about, **options
        )
        said[about] = {e.id: e for e in both(folder)}
    for name, example in said["both"].items():
        short = said["inputs"][name]
        quoted = ", ".join(f'"{token}"' for token in example.details["promoted"])
        assert example.answer == f"{short.answer} Promotes {quoted}."
        assert short.details["promoted"] == example.details["promoted"]


def test_directions_that_are_nearly_the_same_are_held_out_together(made):
    groups = {e.details["feature"]: (e.group, e.split) for e in both(made[0])}
    assert groups[4] == groups[5]
    assert len({group for group, _ in groups.values()}) == len(groups) - 1


def test_a_killed_trace_ends_in_the_same_files(
    tmp_path, tiny_lm, sae_folder, text_file, monkeypatch
):
    monkeypatch.setattr(describing, "FEATURES_A_BLOCK", 6)
    options = {"data": text_file, "limit": 12, "dictionary": str(sae_folder), **SETTINGS}
    trace("feature-description", tiny_lm, tmp_path / "whole", **options)

    class Killed(Exception):
        pass

    def kill(done, total, note):
        if "experiments" in note:
            raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            trace("feature-description", tiny_lm, tmp_path / "cut", progress=kill, **options)
    trace("feature-description", tiny_lm, tmp_path / "cut", **options)
    whole, cut = (
        {p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("whole", "cut")
    )
    assert whole == cut


def test_neurons_write_their_row_and_are_read_where_they_act(tiny_lm):
    (source,) = D.of_neurons(tiny_lm, (1,), 5, np.random.default_rng(0))
    down = np.asarray(tiny_lm.model.blocks.down.w[...])[1]
    np.testing.assert_array_equal(source.vectors, down[source.numbers])
    x = np.random.default_rng(0).standard_normal((3, down.shape[0])).astype(np.float32)
    expected = np.maximum(x[:, source.numbers], 0)
    np.testing.assert_allclose(source.reader(x), expected, atol=1e-6)


def test_activations_are_the_models_own_and_read_from_the_mean_on(tiny_lm):
    corpus = windows(tiny_lm.tokenizer, ["the sea is blue", "war and peace", "7 of 12"], context=16)
    sources = D.of_activations(tiny_lm, corpus, (1, 3), 6, np.random.default_rng(0))
    assert [len(source.vectors) for source in sources] == [3, 3]
    for source, layer in zip(sources, (1, 3), strict=True):
        every = np.concatenate(
            [
                np.asarray(
                    forward(
                        tiny_lm.model,
                        corpus.tokens[i : i + 1, : corpus.lengths[i]],
                        capture=("resid_post",),
                    ).captures["resid_post"][layer, 0]
                )
                for i in range(3)
            ]
        )
        for vector in source.vectors:
            assert np.abs(every - vector).max(axis=1).min() < 1e-4
        mean = source.vectors.mean(axis=0)
        centred = source.vectors - mean
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        expected = np.maximum((every - mean) @ unit.T, 0)
        np.testing.assert_allclose(source.reader(every), expected, atol=1e-4)


def test_differences_are_of_prompts_of_one_relation(tiny_lm, facts_file):
    facts = read_facts(facts_file)
    (source,) = D.of_differences(tiny_lm, facts, (2,), 4, np.random.default_rng(0))
    ends = {}
    for fact in facts:
        ids = tiny_lm.tokenizer(fact.prompt).input_ids
        seen = forward(tiny_lm.model, np.array([ids]), capture=("resid_post",)).captures
        ends.setdefault(fact.relation, []).append(np.asarray(seen["resid_post"][2, 0, -1]))
    for vector in source.vectors:
        nearest = min(
            np.abs(np.asarray(rows)[:, None] - np.asarray(rows)[None] - vector).max(axis=2).min()
            for rows in ends.values()
        )
        assert nearest < 1e-4


def test_families_are_chains_of_near_directions():
    angles = np.deg2rad([0, 10, 20, 90, 91, 200])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.arange(1, 7)[:, None]
    found = families(vectors, np.cos(np.deg2rad(10.5)))
    assert found[0] == found[1] == found[2] != found[3] == found[4] != found[5]
    assert len(set(families(vectors, 1.0))) == 6


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "latents without a dictionary"),
        ({"directions": "heads"}, "latents, neurons, activations, differences"),
        ({"directions": "neurons", "layers": "1,9"}, "numbers from 0 to 3"),
        ({"directions": "neurons", "layers": "one"}, "numbers from 0 to 3"),
        ({"directions": "neurons", "describer": "oracle"}, "MODEL@http"),
        ({"directions": "neurons", "about": "outputs"}, "inputs or both"),
        ({"directions": "neurons", "context": 2}, "context=2"),
        ({"directions": "neurons", "alike": 0.0}, "alike=0.0"),
        ({"directions": "neurons", "test_share": 1.0}, "test_share=1.0"),
        ({"dictionary": "no/such/folder/there"}, "no dictionary"),
    ],
)
def test_settings_that_cannot_be(tmp_path, tiny_lm, text_file, options, told):
    with pytest.raises(SelfxError) as caught:
        trace("feature-description", tiny_lm, tmp_path / "t", data=text_file, limit=8, **options)
    assert told in f"{caught.value} {caught.value.expected} {caught.value.hint}"


def test_a_dictionary_of_another_width_is_refused(tmp_path, tiny_lm, text_file, sae_folder):
    sae = load_sae(sae_folder)
    narrow = dataclasses.replace(sae, w_dec=sae.w_dec[:, :16], b_dec=sae.b_dec[:16])
    narrow = dataclasses.replace(narrow, out_site="mlp_out_post")
    save_saelens(narrow, tmp_path / "narrow")
    options = {"dictionary": str(tmp_path / "narrow"), **SETTINGS}
    with pytest.raises(SelfxError):
        trace("feature-description", tiny_lm, tmp_path / "t", data=text_file, limit=8, **options)


def test_evidence_that_is_not_there(made, tmp_path):
    with pytest.raises(SelfxError, match="no texts for 1 of 1"):
        load_evidence(made[0], "test", ["nobody"])
    table = pq.read_table(next(made[0].glob("test-*.parquet")))
    pq.write_table(table.drop_columns(["excerpts"]), tmp_path / "test-00000.parquet")
    with pytest.raises(SelfxError, match="lacks texts"):
        load_evidence(tmp_path, "test", ["nobody"])


def test_published_rows_load_without_our_columns(made, tmp_path):
    table = pq.read_table(next(made[0].glob("test-*.parquet")))
    few = table.select(["layer", "feature_idx", "chosen_label", "vector"])
    pq.write_table(few, tmp_path / "test-00000.parquet")
    assert load_trace(tmp_path)["task"] == "feature-description"
    found = load_examples(tmp_path, "test")
    assert [e.answer for e in found] == [e.answer for e in load_examples(made[0], "test")]
    pq.write_table(few.drop_columns(["vector"]), tmp_path / "test-00000.parquet")
    with pytest.raises(SelfxError, match="lacks column vector"):
        load_examples(tmp_path, "test")


def test_once_each_text_counts_once(made):
    """A text that is top and random at once is one text, on whichever half it is."""
    example = load_examples(made[0], "test")[0]
    (evidence,) = load_evidence(made[0], "test", [example.id])
    places = [(t.document, t.start) for t in once_each(evidence.excerpts)]
    assert len(places) == len(set(places))
