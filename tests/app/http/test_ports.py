"""Addresses to listen on."""

import socket

import pytest

from app.http.ports import PortError, require_port, url_of
from tests.ports import free_port


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("localhost", "http://localhost:8000"),
        ("::1", "http://[::1]:8000"),
        ("::", "http://[::]:8000"),
        ("fe80::1%eth0", "http://[fe80::1%eth0]:8000"),
    ],
)
def test_addresses_are_written_as_urls(host: str, url: str) -> None:
    assert url_of(host, 8000) == url


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortError, match=f"port {port} of 127.0.0.1 .*--port"):
            require_port("127.0.0.1", port)
    require_port("127.0.0.1", free_port())
