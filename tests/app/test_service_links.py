"""Variables that Kubernetes writes into every pod beside a Service named whence."""

from pathlib import Path

import pytest

from app.main import create_app
from app.service_links import service_links
from app.settings import Settings, SettingsError, read_settings

LINKS = {
    "WHENCE_SERVICE_HOST": "10.0.0.7",
    "WHENCE_SERVICE_PORT": "8000",
    "WHENCE_SERVICE_PORT_HTTP": "8000",
    "WHENCE_PORT": "tcp://10.0.0.7:8000",
    "WHENCE_PORT_8000_TCP": "tcp://10.0.0.7:8000",
    "WHENCE_PORT_8000_TCP_PROTO": "tcp",
    "WHENCE_PORT_8000_TCP_PORT": "8000",
    "WHENCE_PORT_8000_TCP_ADDR": "10.0.0.7",
    "WHENCE_METRICS_PORT": "udp://[fd00::7]:9100",
    "WHENCE_HOST": "tcp://10.0.0.7:8000",
    "OTHER_PORT": "tcp://10.0.0.7:8000",  # of no concern here
}


@pytest.fixture(autouse=True)
def linked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LINKS.items():
        monkeypatch.setenv(name, value)


def test_they_are_not_settings() -> None:
    settings = read_settings()
    assert (settings.host, settings.port, settings.metrics_port) == ("127.0.0.1", 8000, None)
    assert read_settings(port=9000).port == 9000
    assert Settings().port == 8000


def test_one_line_tells_of_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_app(Settings(data=tmp_path))
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("WHENCE_HOST, WHENCE_METRICS_PORT, WHENCE_PORT, WHENCE_PORT_8000_TCP: ")
    for name in LINKS:
        monkeypatch.delenv(name)
    assert service_links() == []


def test_a_port_that_is_wrong_otherwise_is_still_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHENCE_PORT", "tcp://")
    with pytest.raises(SettingsError, match="WHENCE_PORT"):
        read_settings()
