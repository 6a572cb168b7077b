from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app import settings as settings_module
from app.settings import Settings, SettingsError, read_settings
from index.stores.vectors import StoreAccess
from model.images import DEFAULT_LIMITS, ImageLimits


def test_defaults_are_for_one_machine() -> None:
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.data == Path("data")
    assert settings.image_limits == DEFAULT_LIMITS


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHENCE_DATA", "/srv/whence")
    monkeypatch.setenv("WHENCE_MAX_PIXELS", "1000")
    monkeypatch.setenv("WHENCE_LOG_LEVEL", "DEBUG")
    settings = Settings()
    assert settings.data == Path("/srv/whence")
    assert settings.image_limits == ImageLimits(max_pixels=1000)
    assert settings.log_level == "debug"


def test_arguments_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHENCE_PORT", "9000")
    assert Settings(port=9001).port == 9001


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WHENCE_PORT", "eighty"),
        ("WHENCE_PORT", "70000"),
        ("WHENCE_DEVICE", "gpu"),
        ("WHENCE_LOG_LEVEL", "loud"),
        ("WHENCE_MAX_UPLOAD_BYTES", "0"),
        ("WHENCE_FALSE_ATTRIBUTION_RATE", "1"),
        ("WHENCE_VECTOR_STORE", "http://milvus"),
    ],
)
def test_wrong_values_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.removeprefix("WHENCE_").lower()):
        Settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_as_many_decode_as_there_are_cores_for_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for cores, processes in ((1, 1), (3, 3), (64, 8)):
        monkeypatch.setattr(settings_module, "available_cores", lambda cores=cores: cores)
        assert Settings().decode_processes == processes


def test_metrics_need_a_port_of_their_own() -> None:
    for host in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(ValidationError, match="WHENCE_METRICS_PORT is 8000"):
            Settings(port=8000, metrics_port=8000, host=host)
    assert Settings(port=8000, metrics_port=8000, host="127.0.0.2").metrics_port == 8000


def test_memory_in_which_the_largest_body_does_not_fit_is_refused() -> None:
    with pytest.raises(ValidationError, match="WHENCE_UPLOAD_MEMORY is 1000"):
        Settings(upload_memory=1000)
    Settings(upload_memory=1000, max_upload_bytes=1000, max_batch_bytes=1000)


NUMBERS = sorted(
    name for name, field in Settings.model_fields.items()
    if {int, float} & {field.annotation, *getattr(field.annotation, "__args__", ())}
)  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "-1"])
def test_numbers_without_meaning_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, number: str
) -> None:
    monkeypatch.setenv(f"WHENCE_{name.upper()}", number)
    with pytest.raises(SettingsError, match=f"Invalid configuration: WHENCE_{name.upper()}: "):
        read_settings()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"port": 8000, "metrics_port": 8000}, "WHENCE_METRICS_PORT is 8000, the server's"),
        ({"upload_memory": 1000}, "WHENCE_UPLOAD_MEMORY is 1000, less"),
        ({"vector_store": "http://milvus"}, "WHENCE_VECTOR_STORE: the vector store 'http://mil"),
        ({"rate_limit": "0/minute"}, "WHENCE_RATE_LIMIT: '0/minute' is out of range"),
        ({"rate_limit": "1/9999 year"}, "WHENCE_RATE_LIMIT: '1/9999 year' is out of range"),
    ],
)
def test_faults_name_their_settings_and_nothing_else(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as fault:
        read_settings(**given)
    assert str(fault.value).startswith(f"Invalid configuration: {said}")
    assert "Value error" not in str(fault.value)


def test_how_to_reach_a_vector_store_can_be_given_in_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHENCE_VECTOR_STORE_TOKEN", "from:environment")
    settings = Settings(vector_store_token="from:code", vector_store_seconds=3)
    assert settings.folder.stores.access == StoreAccess("from:code", 3)
    assert Settings().folder.stores.access.token == "from:environment"
    assert "from:code" not in f"{settings!r} {settings.folder!r}"
