"""Many patches at once against each alone, written by hand in NumPy; and pair files."""

import dataclasses
import json

import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.interventions import pairs as P
from selfx.interventions import sources as S
from selfx.interventions.pairs import Pair, check_pairs, read_pairs, run_pairs, write_results


def draw(n, vocab, n_layers, seed=0, shortest=1, longest=16):
    """Pairs of any length, layers and positions; some share their base, some their source."""
    rng = np.random.default_rng(seed)
    texts = [
        tuple(rng.integers(0, vocab, rng.integers(shortest, longest + 1)).tolist())
        for _ in range(n)
    ]
    pairs = []
    for i in range(n):
        base, source = texts[rng.integers(n)], texts[i]
        count = rng.integers(1, n_layers + 1)
        pairs.append(
            Pair(
                base_ids=base,
                source_ids=source,
                layers=tuple(rng.permutation(n_layers)[:count].tolist()),
                base_pos=int(rng.integers(len(base))),
                source_pos=int(rng.integers(len(source))),
                value=("per_layer", "first", "mean")[i % 3],
            )
        )
    return pairs


def alone(oracle, model, weights, pair):
    """Base logits, patched logits and vector of one pair, in float64, nothing shared."""
    seen = oracle.run(model, pair.source_ids, w=weights).sites["resid_post"][:, pair.source_pos]
    mean = seen[list(pair.layers)].mean(axis=0)
    written = {
        "per_layer": seen,
        "first": np.broadcast_to(seen[pair.layers[0]], seen.shape),
        "mean": np.broadcast_to(mean, seen.shape),
    }[pair.value]

    def hook(site, layer, x):
        if site == "resid_post" and layer in pair.layers:
            x = x.copy()
            x[pair.base_pos] = written[layer]
        return x

    base = oracle.run(model, pair.base_ids, w=weights).logits[-1]
    return base, oracle.run(model, pair.base_ids, hook, weights).logits[-1], mean


def check(oracle, model, pairs, results, within, weights=None):
    weights = oracle.weights(model) if weights is None else weights
    for index, pair in enumerate(pairs):
        base, patched, mean = alone(oracle, model, weights, pair)
        second, first = np.sort(patched)[-2:]
        assert results.margin[index] == pytest.approx(first - second, abs=within)
        if first - second > within:
            assert results.patched[index] == patched.argmax()
        if np.diff(np.sort(base)[-2:])[0] > within:
            assert results.base[index] == base.argmax()
        np.testing.assert_allclose(results.vectors[index], mean, rtol=1e-4, atol=1e-3)


@pytest.fixture(scope="module")
def many(tiny):
    pairs = draw(90, tiny.config.vocab_size, tiny.config.n_layers)
    return pairs, run_pairs(tiny, pairs, batch_size=16, keep_vectors=True)


def test_every_pair_is_as_if_run_alone(tiny, many, numpy_llama):
    pairs, results = many
    assert (results.base != results.patched).mean() > 0.1
    check(numpy_llama, tiny, pairs, results, within=1e-3)


def test_results_come_in_the_order_given_whatever_shares_the_batch(tiny, many):
    pairs, results = many
    order = np.random.default_rng(1).permutation(len(pairs))
    again = run_pairs(tiny, [pairs[i] for i in order], batch_size=16, keep_vectors=True)
    clear = results.margin[order] > 1e-3
    np.testing.assert_array_equal(again.patched[clear], results.patched[order][clear])
    np.testing.assert_allclose(again.margin, results.margin[order], atol=1e-4)
    np.testing.assert_allclose(again.vectors, results.vectors[order], atol=1e-4)


def test_waves_do_not_matter(tiny, many, monkeypatch):
    pairs, results = many
    monkeypatch.setattr(P, "WAVE", 1)
    again = run_pairs(tiny, pairs, batch_size=16)
    np.testing.assert_allclose(again.margin, results.margin, atol=1e-4)
    assert again.vectors is None


def test_one_text_at_every_layer_and_position(tiny, numpy_llama):
    """A grid: more positions of one source than one row of a run returns."""
    base, source = tuple(range(10, 22)), tuple(range(40, 52))
    pairs = [Pair(base, source, (layer,), t, t) for layer in (0, 3) for t in range(12)]
    check(numpy_llama, tiny, pairs, run_pairs(tiny, pairs, keep_vectors=True), within=1e-3)


def test_a_text_patched_with_itself_stays(tiny):
    text = tuple(range(9, 25))
    pairs = [Pair(text, text, (0, 1, 2, 3), t, t) for t in range(16)]
    results = run_pairs(tiny, pairs)
    np.testing.assert_array_equal(results.base, results.patched)


def test_distinct_texts_run_once(tiny, monkeypatch):
    """Of 32 pairs on 4 bases and 2 sources, 4 rows and 2 rows run in full."""
    seen = {"begin": [], "_read": []}
    for name, where in (("begin", P), ("_read", S)):
        real = getattr(where, name)

        def count(model, tokens, mask, *rest, real=real, name=name):
            texts = zip(tokens, mask, strict=True)
            seen[name].append(len({tuple(row[keep]) for row, keep in texts}))
            return real(model, tokens, mask, *rest)

        monkeypatch.setattr(where, name, count)
    bases = [tuple(range(b, b + 12)) for b in range(4)]
    sources = [tuple(range(s, s + 12)) for s in (50, 60)]
    run_pairs(
        tiny,
        [Pair(b, s, (layer,), 5, 6) for b in bases for s in sources for layer in range(4)],
        batch_size=16,
    )
    assert seen == {"begin": [4], "_read": [2]}


def test_contents_do_not_compile_again(tiny, many):
    pairs, _ = many
    before = P._finish._cache_size()
    changed = [dataclasses.replace(pair, layers=(1,), value="mean", source_pos=0) for pair in pairs]
    run_pairs(tiny, changed, batch_size=16)
    assert P._finish._cache_size() == before


def test_progress_ends_at_the_total(tiny, many):
    calls = []
    run_pairs(tiny, many[0], batch_size=16, progress=lambda *call: calls.append(call))
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert calls[-1][:2] == (90, 90)


@pytest.mark.model
@pytest.mark.parametrize("count", [12, pytest.param(300, marks=pytest.mark.slow)])
def test_a_real_model_gives_the_same_tokens(smollm2, numpy_llama, smollm2_float64, count):
    """Texts of 4 to 12 tokens in one batch, every kind of value."""
    pairs = draw(count, smollm2.config.vocab_size, 30, seed=3, shortest=4, longest=12)
    results = run_pairs(smollm2.model, pairs, batch_size=16, keep_vectors=True)
    check(numpy_llama, smollm2.model, pairs, results, 0.01, smollm2_float64)


GOOD = Pair((5, 6, 7), (8, 9), (0, 2), 2, 1, "mean")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base_ids": ()}, "base_ids is empty"),
        ({"source_ids": ()}, "source_ids is empty"),
        ({"base_ids": (5, 262, 7)}, "token 262 in base_ids"),
        ({"source_ids": (-1, 4)}, "token -1 in source_ids"),
        ({"layers": ()}, "layers"),
        ({"layers": (1, 1)}, "layers"),
        ({"layers": (0, 4)}, "layer 4"),
        ({"layers": (-1,)}, "layer -1"),
        ({"base_pos": 3}, "base_pos 3"),
        ({"base_pos": -1}, "base_pos -1"),
        ({"source_pos": 2}, "source_pos 2"),
        ({"value": "median"}, "value 'median'"),
    ],
)
def test_a_pair_that_does_not_fit_is_named(tiny, change, said):
    pairs = [GOOD, dataclasses.replace(GOOD, **change)]
    with pytest.raises(SelfxError, match=f"pair 2: {said}"):
        run_pairs(tiny, pairs)
    with pytest.raises(SelfxError, match=f"some.jsonl:2: {said}"):
        check_pairs(pairs, tiny.config, "some.jsonl")


def row(**changes):
    return json.dumps({**dataclasses.asdict(GOOD), **changes})


def test_files_of_pairs_round_trip(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(row() + "\n" + row(value="first") + "\n")
    assert read_pairs(path) == [GOOD, dataclasses.replace(GOOD, value="first")]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "",
        "[]",
        "3",
        '{"base_ids": [1]}',
        row(extra=1),
        row(base_ids="5"),
        row(base_ids=[5, "6"]),
        row(base_ids=[5, 1.0]),
        row(layers=[True]),
        row(layers=3),
        row(base_pos=True),
        row(base_pos="1"),
        row(source_pos=None),
        row(value="median"),
        row(value=["mean"]),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line):
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{row()}\n{line}\n{row()}\n")
    with pytest.raises(SelfxError, match=r"pairs\.jsonl:2: ") as error:
        read_pairs(path)
    assert error.value.expected


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00"])
def test_a_file_that_is_empty_or_no_text(tmp_path, content):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content)
    with pytest.raises(SelfxError, match=r"pairs\.jsonl"):
        read_pairs(path)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(SelfxError, match="cannot be read"):
        read_pairs(tmp_path / "none.jsonl")


def test_results_are_written_in_order(tmp_path, many):
    path = tmp_path / "out" / "results.jsonl"
    write_results(path, many[1])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [set(row) for row in rows] == [{"base", "patched", "margin"}] * 90
    assert [row["patched"] for row in rows] == many[1].patched.tolist()
