"""Names and addresses in Host headers, and the setting that lists a server's names."""

import ipaddress
import re

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

ANY = "*"
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::\d*)?")
_LISTED = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def parse_address(text: str) -> Address | None:
    """Parse an address, IPv4 also if mapped to IPv6; None if it is malformed."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def host_name(host: str) -> str:
    """Return the name or address in a Host header, lower case; empty if it is malformed."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]).lower().rstrip(".") if found else ""


def check_listed(listed: tuple[str, ...]) -> tuple[str, ...]:
    """Return the hosts that a setting lists, in lower case.

    Raises:
        ValueError: one is no name.
    """
    for host in listed:
        if host != ANY and not _LISTED.fullmatch(host):
            raise ValueError(
                f"{host!r} is no host; write names without scheme and port, such as "
                "whence.example, *.example.org for all names below one, or * for any host"
            )
    return tuple(host.lower() for host in listed)
