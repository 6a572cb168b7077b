"""Addresses to listen on: checked before any long work, and written as URLs."""

import socket

from model.errors import WhenceError


class PortError(WhenceError):
    """Port that cannot be listened on."""


def url_of(host: str, port: int) -> str:
    """Return the URL of a server: IPv6 addresses are written in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def require_port(host: str, port: int) -> None:
    """Return if the port can be listened on.

    Raises:
        PortError: it is taken, not allowed, or the host is not of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            # As the server does it: a connection that is just closing does not hold the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise PortError(
            f"port {port} of {host} cannot be listened on ({error.strerror or error}); choose "
            "another with --port"
        ) from error
