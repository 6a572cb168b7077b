"""Find free ports of this machine."""

import random
import socket

# Below the ports that systems give to outgoing connections, one of which could take a port between
# its choice and its use.
PORTS = range(15_000, 32_000)
_given: set[int] = set()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on; each process gets each port once."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
