"""Checkpoints come back to the bit; what is damaged is seen, and the one before is used."""

import json
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.checkpoint import Checkpoints, checkpoints
from selfx.errors import SelfxError

# Orbax leaves the other arrays' reads unfinished where one fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def state(step):
    """A state of every kind of array there is; no two steps share one."""
    return {
        "weights": jax.random.normal(jax.random.key(step), (64, 33)),
        "half": jnp.full((3, 4), step, jnp.bfloat16),
        "mask": jnp.arange(8) % 3 == step % 3,
        "step": jnp.int32(step),
        "key": jax.random.key(step),
    }


def extra(step):
    return {"row": step, "best": None, "losses": [1 / 3, step / 7], "seen": {"2": 1, "10": 2}}


def plain(tree):
    tree = {**tree, "key": jax.random.key_data(tree["key"])}
    return {name: (str(x.dtype), np.asarray(x).tobytes()) for name, x in tree.items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with the checkpoints of steps 3 and 6."""
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    with checkpoints(folder) as saved:
        for step in (3, 6):
            saved.save(state(step), step, extra(step))
    return folder


@pytest.fixture
def folder(two, tmp_path):
    return shutil.copytree(two, tmp_path / "checkpoints")


def restored(folder):
    with checkpoints(folder) as saved:
        return saved.restore(state(0))


def check(found, step):
    assert found.step == step
    assert plain(found.state) == plain(state(step))
    assert found.extra == extra(step)


def test_arrays_step_and_extra_come_back(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(restored(folder), 6)


def test_without_an_extra_there_is_an_empty_one(tmp_path):
    with checkpoints(tmp_path / "c") as saved:
        saved.save(state(1), 1)
        assert saved.restore(state(0)).extra == {}


def test_keys_that_json_makes_into_text_do_not_count_as_damage(tmp_path):
    """Numbers are sorted otherwise than their digits are."""
    with checkpoints(tmp_path / "c") as saved:
        saved.save(state(1), 1, {"seen": {2: "a", 10: "b"}})
        assert saved.restore(state(0)).extra == {"seen": {"2": "a", "10": "b"}}


def test_the_newest_two_are_kept(folder):
    with checkpoints(folder) as saved:
        saved.save(state(9), 9)
        assert saved.latest() == 9
    assert sorted(p.name for p in folder.iterdir()) == ["6", "9"]


def test_sharded_states_are_checked_and_come_back_on_another_mesh(tmp_path):
    def put(x, *axes):
        mesh = jax.make_mesh((len(jax.devices()),), ("data",))
        spec = jax.sharding.PartitionSpec(*axes)
        return jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))

    x = jax.random.normal(jax.random.key(0), (16, 8))
    with checkpoints(tmp_path / "c") as saved:
        saved.save({"x": put(x, "data")}, 1)
        found = saved.restore({"x": put(jnp.zeros_like(x), None, "data")}).state["x"]
    np.testing.assert_array_equal(found, x)
    assert found.sharding.spec == jax.sharding.PartitionSpec(None, "data")


def arrays(folder):
    """The largest file: the arrays themselves."""
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(file):
    """One bit in the middle, which no format's own checksum need see."""
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 16
    file.write_bytes(whole)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGE = {
    "a flipped bit": lambda step: flip(arrays(step)),
    "arrays cut short": lambda step: cut(arrays(step)),
    "arrays gone": lambda step: arrays(step).unlink(),
    "metadata of noise": lambda step: (step / "_CHECKPOINT_METADATA").write_bytes(b"\x00\xff{"),
    "metadata gone": lambda step: (step / "_CHECKPOINT_METADATA").unlink(),
    "the tree's metadata cut": lambda step: cut(step / "state" / "_METADATA"),
    "all files cut": lambda step: [cut(p) for p in step.rglob("*") if p.is_file()],
    "an empty folder": lambda step: (shutil.rmtree(step), step.mkdir()),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_newest_falls_back_and_its_step_can_be_saved_again(folder, how):
    DAMAGE[how](folder / "6")
    with checkpoints(folder) as saved:
        with pytest.warns(UserWarning, match=r"step 6 in .* cannot be read \(.+\).* step 3"):
            check(saved.restore(state(0)), 3)
        assert saved.latest() == 3
        saved.save(state(6), 6, extra(6))
    check(restored(folder), 6)
    assert sorted(p.name for p in folder.iterdir()) == ["3", "6", "damaged-6"]


def test_every_bit_that_is_flipped_is_seen_or_does_not_matter(two, tmp_path):
    """Anywhere in the files: what comes back is right, whichever step it is of."""
    rng = np.random.default_rng(0)
    files = sorted(p.relative_to(two) for p in (two / "6").rglob("*") if p.is_file())
    steps = set()
    for name in files * 2:
        folder = shutil.copytree(two, tmp_path / "copy")
        whole = bytearray((folder / name).read_bytes())
        whole[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        (folder / name).write_bytes(whole)
        with warnings.catch_warnings(record=True):
            found = restored(folder)
        check(found, found.step)
        steps.add(found.step)
        shutil.rmtree(folder)
    assert steps == {3, 6}


def test_a_changed_extra_is_seen(folder):
    file = folder / "6" / "_CHECKPOINT_METADATA"
    file.write_text(file.read_text().replace('"row": 6', '"row": 7'))
    with pytest.warns(UserWarning, match="extra is not what was saved"):
        check(restored(folder), 3)


def test_the_second_time_a_step_is_damaged_takes_the_place_of_the_first(folder):
    for _ in range(2):
        flip(arrays(folder / "6"))
        with checkpoints(folder) as saved:
            with pytest.warns(UserWarning, match="now damaged-6"):
                saved.restore(state(0))
            saved.save(state(6), 6)
    assert sorted(p.name for p in folder.iterdir()) == ["3", "6", "damaged-6"]


def test_where_none_can_be_read_all_are_named_and_left(folder):
    for step in ("3", "6"):
        cut(arrays(folder / step))
    with pytest.raises(SelfxError, match="cannot be read") as caught:
        restored(folder)
    assert "step 3: " in str(caught.value)
    assert "step 6: " in str(caught.value)
    assert "--fresh" in caught.value.hint
    assert sorted(p.name for p in folder.iterdir()) == ["3", "6"]


def test_a_state_of_other_shapes_is_refused_and_nothing_moved(folder):
    other = {**state(0), "weights": jnp.zeros((64, 34))}
    with checkpoints(folder) as saved, pytest.raises(SelfxError, match="cannot be read"):
        saved.restore(other)
    assert sorted(p.name for p in folder.iterdir()) == ["3", "6"]
    check(restored(folder), 6)


def test_none_at_all(tmp_path):
    with checkpoints(tmp_path / "c") as saved:
        assert saved.latest() == 0
        with pytest.raises(SelfxError, match="no checkpoint in"):
            saved.restore(state(0))


def test_what_a_kill_left_half_written_is_removed(folder):
    half = folder / "9.orbax-checkpoint-tmp-1700000000000000"
    shutil.copytree(folder / "6", half)
    check(restored(folder), 6)
    assert not half.exists()


def test_a_disk_that_fills_up_leaves_the_ones_before(small_disk):
    small = {"x": jnp.arange(1000.0)}
    with checkpoints(small_disk / "c") as saved:
        saved.save(small, 1, {"at": 1})
    noise = {"x": jax.random.normal(jax.random.key(0), (200, 500))}
    with (
        pytest.raises(SelfxError, match="the disk is full") as caught,
        checkpoints(small_disk / "c") as saved,
    ):
        saved.save(noise, 2)
    assert "free some space" in caught.value.hint
    with checkpoints(small_disk / "c") as saved:
        assert saved.latest() == 1
        found = saved.restore(small)
        saved.save(small, 2)
        assert saved.latest() == 2
    assert found.extra == {"at": 1}
    np.testing.assert_array_equal(found.state["x"], small["x"])


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SelfxError, match="cannot write"):
        Checkpoints(tmp_path / "file" / "checkpoints")


def test_the_note_is_json_that_anyone_can_read(folder):
    """Digests are sha256 of the bytes, so that they can be computed again without this code."""
    import hashlib

    note = json.loads((folder / "6" / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
    weights = np.asarray(state(6)["weights"])
    digest = hashlib.sha256(b"float32 (64, 33) " + weights.tobytes()).hexdigest()
    assert note["digests"]["array ['weights']"] == digest
    assert note["extra"] == extra(6)
