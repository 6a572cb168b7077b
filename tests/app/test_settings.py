from pathlib import Path

import pytest
from pydantic import ValidationError

from app import settings as settings_module
from app.settings import Settings
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
    for cores, threads in ((1, 1), (3, 3), (64, 8)):
        monkeypatch.setattr(settings_module, "available_cores", lambda cores=cores: cores)
        assert Settings().decode_threads == threads


def test_metrics_need_a_port_of_their_own() -> None:
    for host in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(ValidationError, match="WHENCE_METRICS_PORT is 8000"):
            Settings(port=8000, metrics_port=8000, host=host)
    assert Settings(port=8000, metrics_port=8000, host="127.0.0.2").metrics_port == 8000


def test_memory_in_which_the_largest_body_does_not_fit_is_refused() -> None:
    with pytest.raises(ValidationError, match="WHENCE_UPLOAD_MEMORY is 1000"):
        Settings(upload_memory=1000)
    Settings(upload_memory=1000, max_upload_bytes=1000, max_batch_bytes=1000)
