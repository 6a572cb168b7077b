"""Whether a port can be listened on, asked before any long work."""

import socket

from model.errors import WhenceError


class PortError(WhenceError):
    """A port that cannot be listened on."""


def require_port(host: str, port: int) -> None:
    """Return if the port is free.

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
