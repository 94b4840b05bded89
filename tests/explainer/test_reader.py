"""What a vector goes through before it is read, against its formula in NumPy float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.explainer.reader import (
    PARTS,
    Reader,
    check_reader,
    init_reader,
    length,
    load_reader,
    save_reader,
    unit,
)

SHAPES = {
    "scale": (5,),
    "bias": (5, 8),
    "down": (5, 6, 3),
    "up": (5, 3, 8),
    "projection": (5, 6, 8),
    "keys": (5, 6, 3),
    "level": (5, 3),
    "words": (3, 8),
}
LAYERED = tuple(SHAPES)[:5]
"""The parts that read each vector by itself."""
LAYERS = np.array([[0, 4, 2], [2, -1, 1]])


def drawn(names):
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal(SHAPES[name]).astype(np.float32) for name in names}


def by_hand(parts, direction, layer):
    layer = max(layer, 0)
    parts = {name: part[layer].astype(float) for name, part in parts.items()}
    u = direction.astype(float)
    read = u @ parts["projection"] if "projection" in parts else u
    if "scale" in parts:
        read = parts["scale"] * read
    if "down" in parts:
        read = read + u @ parts["down"] @ parts["up"]
    return read + parts.get("bias", 0)


def test_zeros_are_read_as_zeros_and_no_number_as_none():
    reader = Reader(**drawn(SHAPES))
    directions = np.ones((1, 3, 6), np.float32)
    directions[0, 1], directions[0, 2] = 0, np.nan
    read = np.asarray(reader(directions, np.array([[1, 2, 3]])))[0]
    assert read[0].any()
    assert not read[1].any()
    assert np.isnan(read[2]).all()


@pytest.mark.parametrize(
    "names",
    [
        ("projection",),
        ("scale", "projection"),
        ("bias", "projection"),
        ("down", "up", "projection"),
        LAYERED,
    ],
    ids=" ".join,
)
def test_every_layer_has_its_own_and_an_unknown_one_reads_as_the_first(names):
    parts = drawn(names)
    directions = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)
    read = jax.jit(Reader.__call__)(Reader(**parts), directions, LAYERS)
    for row in range(2):
        for place in range(3):
            wanted = by_hand(parts, directions[row, place], LAYERS[row, place])
            np.testing.assert_allclose(read[row, place], wanted, rtol=1e-5, atol=1e-5)


def test_the_vectors_of_an_example_tell_its_outcome_together():
    """And one that is not there has no part in it."""
    parts = drawn(("projection", "keys", "level", "words"))
    directions = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)
    directions[1, 0] = 0
    read = Reader(scale=np.zeros(5, np.float32), **parts)(directions, LAYERS)
    for row, there in enumerate([(0, 1, 2), (1, 2)]):
        at = np.maximum(LAYERS[row], 0)
        keys, level = parts["keys"][at].astype(float), parts["level"][at].astype(float)
        spoken = np.mean([directions[row, i] @ keys[i] + level[i] for i in there], axis=0)
        shares = np.exp(spoken) / np.exp(spoken).sum()
        for place in there:
            np.testing.assert_allclose(read[row, place], shares @ parts["words"], atol=1e-5)
    assert not np.asarray(read[1, 0]).any()


@pytest.mark.parametrize("parts", [(), ("scale",), ("bias",), ("low_rank",), PARTS[:3]], ids=str)
def test_a_fresh_one_changes_nothing_to_the_bit(parts):
    fresh = init_reader(parts, layers=5, d_target=6, d_explainer=6, rank=3, key=jax.random.key(0))
    directions = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)
    np.testing.assert_array_equal(fresh(directions, LAYERS), directions)
    named = {"low_rank": ("down", "up")}
    wanted = {name for part in parts for name in named.get(part, (part,))}
    assert set(fresh.given) == wanted


def test_a_fresh_low_rank_map_has_a_gradient():
    """`up` is zero and `down` is not: both at zero would stay there."""
    fresh = init_reader(("low_rank",), layers=5, d_target=6, d_explainer=6, rank=3, key=KEY)

    def total(reader):
        return (reader(jnp.ones((1, 1, 6)), jnp.ones((1, 1), int)) ** 2).sum()

    assert (np.abs(jax.grad(total)(fresh).up[1]) > 0).all()


KEY = jax.random.key(0)


def test_what_one_lacks_another_gives():
    one, other = Reader(**drawn(("scale", "bias"))), Reader(**drawn(("projection",)))
    scaled = dataclasses.replace(other, scale=jnp.zeros(5))
    both = one.over(scaled)
    assert set(both.given) == {"scale", "bias", "projection"}
    np.testing.assert_array_equal(both.scale, one.scale)
    assert one.over(None) is one


def test_what_is_saved_is_loaded(tmp_path):
    reader = Reader(**drawn(("bias", "projection")))
    save_reader(reader, tmp_path / "reader.safetensors")
    again = load_reader(tmp_path / "reader.safetensors")
    assert list(again.given) == ["bias", "projection"]
    for name, part in again.given.items():
        np.testing.assert_array_equal(part, getattr(reader, name))


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "reader.safetensors"
    save_reader(Reader(**drawn(("bias",))), path)
    whole = path.read_bytes()
    for content in (b"", whole[:20], whole[:-3], whole.replace(b"bias", b"boas")):
        path.write_bytes(content)
        with pytest.raises(SelfxError, match=r"reader.safetensors cannot be read"):
            load_reader(path)
    path.unlink()
    with pytest.raises(SelfxError, match=r"reader.safetensors cannot be read"):
        load_reader(path)


def test_widths_must_be_bridged_and_by_a_projection_between_them():
    projection = Reader(**drawn(("projection",)))
    check_reader(None, 8, 8)
    check_reader(Reader(**drawn(("bias",))), 8, 8)
    check_reader(projection, 6, 8)
    with pytest.raises(SelfxError, match="width 6 for an explainer of width 8") as caught:
        check_reader(Reader(**drawn(("scale",))), 6, 8)
    assert "--projection" in caught.value.hint
    for widths in ((8, 8), (6, 6), (8, 6)):
        with pytest.raises(SelfxError, match="a projection from 6 to 8"):
            check_reader(projection, *widths)


def test_units_and_lengths_and_what_is_not_a_number():
    """Zeros stay zeros with a gradient; what is not finite is not taken for zeros."""
    vectors = np.array([[3, 4, 0], [0, 0, 0], [1e-12, 0, 0], [1e12, 0, 0]], np.float32)
    np.testing.assert_allclose(length(vectors)[:, 0], [5, 0, 1e-12, 1e12], rtol=1e-6)
    wanted = [[0.6, 0.8, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]]
    np.testing.assert_allclose(unit(vectors), wanted, rtol=1e-6)
    for function in (length, unit):
        grads = jax.grad(lambda v, function=function: function(v).sum())(jnp.asarray(vectors))
        assert np.isfinite(grads).all()
    for bad in (np.nan, np.inf):
        spoilt = np.array([[1, bad, 0]], np.float32)
        assert not np.isfinite(unit(spoilt)).all()
        assert not np.isfinite(length(spoilt)).all()


def test_before_training_there_is_what_was_drawn_or_fitted():
    """And where outcomes are told apart nothing else of the vectors."""
    fitted = Reader(**drawn(SHAPES)).untrained
    assert set(fitted.given) == {"projection", "keys", "level", "words", "scale"}
    assert not np.asarray(fitted.scale).any()
    projected = Reader(**drawn(LAYERED)).untrained
    assert list(projected.given) == ["projection"]
    assert Reader(**drawn(("scale", "bias"))).untrained is None
