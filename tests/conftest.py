"""Eight CPU devices for every test, and the oracle that several folders compare with."""

import importlib.util
import os
from pathlib import Path

import pytest

FLAG = "--xla_force_host_platform_device_count=8"
if FLAG not in os.environ.get("XLA_FLAGS", ""):  # read when jax is first imported, by the tests
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}".strip()


@pytest.fixture(scope="session")
def numpy_llama():
    """The module `tests/parity/numpy_llama.py`."""
    path = Path(__file__).parent / "parity" / "numpy_llama.py"
    spec = importlib.util.spec_from_file_location("numpy_llama", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M-Instruct itself, fetched once; for tests marked `model`."""
    import selfx

    return selfx.load("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def tiny():
    """The random model of `selfx.testing`: four layers, float32."""
    from selfx.testing import tiny_model

    return tiny_model()
