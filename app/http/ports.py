"""Listening addresses: check that a port is free, and write an address as a URL."""

import socket

from model.errors import WhenceError


class PortError(WhenceError):
    """An address that cannot be listened on."""


def url_of(host: str, port: int) -> str:
    """Return the URL of a server, with IPv6 addresses in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def require_port(host: str, port: int) -> None:
    """Return if the port can be listened on.

    Raises:
        PortError: the port is taken or not allowed, or the host is not an address of this machine.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = addresses[0]
        with socket.socket(family, kind, protocol) as probe:
            # As the server does: a connection in TIME_WAIT does not hold the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise PortError(
            f"port {port} of {host} cannot be listened on ({error.strerror or error}); choose "
            "another with --port"
        ) from error
