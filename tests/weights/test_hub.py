from types import SimpleNamespace

import pytest
from huggingface_hub import errors

from selfx.errors import SelfxError
from selfx.weights import hub
from selfx.weights.fetch import pull


@pytest.fixture
def answer(monkeypatch):
    """Has the hub's client return or raise what it is given."""

    def set_to(outcome):
        def client(name, **options):
            assert name == "org/model"
            assert "*.safetensors" in options["allow_patterns"]
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(hub, "snapshot_download", client)

    return set_to


RESPONSE = SimpleNamespace(headers={}, request=None)


def test_a_hub_model_is_a_folder(answer, tmp_path):
    answer(str(tmp_path))
    assert pull("org/model") == tmp_path


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.GatedRepoError("403", response=RESPONSE), "is gated"),
        (errors.RepositoryNotFoundError("401", response=RESPONSE), "no model org/model"),
        (errors.LocalEntryNotFoundError("offline"), "out of reach"),
        (errors.OfflineModeIsEnabled("offline"), "out of reach"),
        (RuntimeError("closed"), "RuntimeError: closed"),
        (errors.HfHubHTTPError("503 busy", response=RESPONSE), "the hub answered: 503"),
        (OSError("no route"), "out of reach"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_failures_say_the_next_move(answer, error, message):
    answer(error)
    with pytest.raises(SelfxError, match=message) as raised:
        pull("org/model")
    assert raised.value.hint


def test_ids_are_told_from_paths():
    assert hub.is_hub_id("HuggingFaceTB/SmolLM2-135M-Instruct")
    for name in ("model", "/a/b", "./a", "../a", "a/b/c", "a/b.gguf", "a b/c", "a/", ""):
        assert not hub.is_hub_id(name)


def test_without_a_network_a_real_client_fails_clearly(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SelfxError, match="cannot fetch some-org/some-model"):
        pull("some-org/some-model")
