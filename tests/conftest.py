"""Eight CPU devices for every test, and the oracle that several folders compare with."""

import atexit
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

FLAG = "--xla_force_host_platform_device_count=8"
if FLAG not in os.environ.get("XLA_FLAGS", ""):  # read when jax is first imported, by the tests
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}".strip()

# `experiments` is no part of what is installed. Last, so that `selfx` is the one that is.
sys.path.append(str(Path(__file__).parents[1]))

# Most of a test's time is the compiler's: it is told to hurry, and keeps what it made for all
# processes of the run. What is compiled so runs at a tenth of the speed; SmolLM2 goes without.
QUICK = "JAX_DISABLE_MOST_OPTIMIZATIONS"
os.environ.setdefault(QUICK, "1")
PROGRAMS = "JAX_COMPILATION_CACHE_DIR"
if PROGRAMS not in os.environ:
    os.environ[PROGRAMS] = tempfile.mkdtemp(prefix="selfx-programs-")
    atexit.register(shutil.rmtree, os.environ[PROGRAMS], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def pytest_runtest_setup(item):
    """Switches the hurry off for tests marked so, and on again for the others."""
    import jax

    quick = not any(map(item.get_closest_marker, ("model", "optimised")))
    if quick != jax.config.values[QUICK.lower()]:
        os.environ[QUICK] = str(int(quick))
        jax.config.update(QUICK.lower(), quick)
        jax.clear_caches()  # programs of one kind round otherwise than those of the other


MAPS = Path("/proc/self/maps")
MANY_MAPS = 16_384


def pytest_runtest_teardown(item, nextitem):
    """Between files, lets compiled programs go when they are many.

    Each is several memory maps; Linux allows a process 65,530, and past them jaxlib crashes.
    """
    import jax

    if nextitem is not None and nextitem.path == item.path or not MAPS.exists():
        return
    if MAPS.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()


def _module(name, *path):
    """A file of the tests as a module: the folders are no packages."""
    file = Path(__file__).parent.joinpath(*path)
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def numpy_llama():
    """The module `tests/parity/numpy_llama.py`."""
    return _module("numpy_llama", "parity", "numpy_llama.py")


def _golden():
    if "golden" not in sys.modules:  # where its dataclasses look for it
        sys.modules["golden"] = _module("golden", "parity", "golden.py")
    return sys.modules["golden"]


@pytest.fixture(scope="session")
def golden():
    """The module `tests/parity/golden.py`: tiny models of every family, and what torch computed."""
    return _golden()


def pytest_generate_tests(metafunc):
    if "golden_case" in metafunc.fixturenames:
        metafunc.parametrize("golden_case", _golden().CASES)


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M-Instruct itself, fetched once; for tests marked `model`."""
    import selfx

    return selfx.load("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def smollm2_float64(smollm2, numpy_llama):
    """Its weights as the NumPy oracle takes them: a gigabyte, made once."""
    return numpy_llama.weights(smollm2.model)


@pytest.fixture(scope="session")
def tiny():
    """The random model of `selfx.testing`: four layers, float32."""
    from selfx.testing import tiny_model

    return tiny_model()


@pytest.fixture
def cli(capfd):
    """A function: the command `selfx` with some arguments, run in this process."""
    from types import SimpleNamespace

    from selfx.cli import main

    def run(*arguments):
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit:  # how the parser ends on --help and wrong flags
            code = exit.code
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return run


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 128 KiB, where one can be mounted; `small_disk.resize("1m")` makes it larger."""
    import subprocess

    class Disk(type(tmp_path)):
        def resize(self, size):
            """Gives the disk another size."""
            subprocess.run(["mount", "-o", f"remount,size={size}", str(self)], check=True)

    disk = Disk(tmp_path / "disk")
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    try:
        made = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        made = False
    if not made:
        pytest.skip("no small disk can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def exact(monkeypatch):
    """Float64 all through: where our code asks for float32 it gets float64."""
    import jax
    import jax.numpy as jnp

    monkeypatch.setattr(jnp, "float32", jnp.float64)
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def write_tiny(tmp_path_factory):
    """A function: a tiny model (of some config and seed) as a Hugging Face folder."""
    from safetensors.numpy import save_file

    from selfx.testing import tiny_config, tiny_model, tiny_tokenizer

    writer = _module("weights_conftest", "weights", "conftest.py")

    def write(seed=0, **changes):
        path = tmp_path_factory.mktemp("models") / f"tiny-{seed}"
        path.mkdir()
        model = tiny_model(tiny_config(**changes), seed)
        config = writer.hf_config(model.config, eos_token_id=2)
        (path / "config.json").write_text(json.dumps(config))
        save_file(writer.hf_tensors(model), path / "model.safetensors")
        tiny_tokenizer().save_pretrained(path)
        return path

    return write


@pytest.fixture(scope="session")
def tiny_folder(write_tiny):
    """The model and tokenizer of `selfx.testing` as a Hugging Face folder."""
    return write_tiny()


@pytest.fixture(scope="session")
def tiny_lm(tiny_folder):
    """The same, loaded."""
    import selfx

    return selfx.load(tiny_folder)


@pytest.fixture(scope="session")
def planted_trace(planted):
    """A function: the planted examples as a trace folder of activation patching, read back whole.

    The answer changes from `cyan` to the class that the vector names, or stays `cyan` for `red`.
    """
    import pyarrow as pa

    from selfx.files import write_json
    from selfx.tasks.schema import PATCHING, SCHEMAS
    from selfx.tasks.store import write_shards

    def row(example):
        after = "cyan" if example.content == "red" else example.content
        return {
            "layer": [1, 2],
            "input_tokens": ["Sky", " is"],
            "original_continuation": [" cyan"],
            "ablated_continuation": [f" {after}"],
            "is_different": after != "cyan",
            "patch_position": {
                "intervention_vector": example.vector,
                "orig_pos": 1,
                "orig_text_token": " is",
            },
            "token_type": "last",
            "id": example.id,
            "group": example.group,
            "cell": example.cell,
            "split": example.split,
        }

    def write(folder, train=48, test=16, **settings):
        counts = {"train": train, "test": test}
        tables = {}
        for split, n in counts.items():
            rows = [row(example) for example in planted(n, split=split, **settings)]
            tables[split] = [pa.Table.from_pylist(rows, SCHEMAS[PATCHING])]
        folder.mkdir(parents=True, exist_ok=True)
        write_shards(folder, SCHEMAS[PATCHING], tables)
        record = {"task": PATCHING, "target": "tiny", "target_hash": "0" * 64, "counts": counts}
        write_json(folder / "trace.json", record)
        return folder

    return write


@pytest.fixture(scope="session")
def planted():
    """A function: examples whose vector names one of four classes, and whose answer says which.

    The text says nothing: without the vector a quarter can be guessed. `shuffled` gives everybody
    somebody's vector, so that nothing can be learned.
    """
    import numpy as np

    from selfx.tasks.example import SLOT, Example

    classes = ("red", "blue", "green", "grey")

    def make(n, *, seed=0, split="train", shuffled=False, width=32):
        rng = np.random.default_rng((seed, split == "test"))
        directions = np.random.default_rng(99).standard_normal((4, width))
        examples = []
        for i in range(n):
            own = int(rng.integers(4)) if shuffled else i % 4
            vector = directions[own] + 0.3 * rng.standard_normal(width)
            examples.append(
                Example(
                    id=f"{split}-{i}",
                    task="activation-patching",
                    split=split,
                    group=f"{split}-{i // 4}",
                    cell=f"cell {i % 3}",
                    system="",
                    questions=(f"{SLOT}?", f"Which is {SLOT}?"),
                    answer=classes[i % 4],
                    changed=i % 2 == 0,
                    content=classes[i % 4],
                    vectors=vector.astype(np.float32)[None],
                    layers=(1,),
                    details={},
                )
            )
        return examples

    return make
