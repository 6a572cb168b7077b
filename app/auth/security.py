"""Who may ask, and who may change what the server shows: the holders of API keys.

Without keys the server answers who sits at its own machine, or anyone if it was told so; admin
requests need a key always. A route names what it needs: ``Depends(require_attribute)``.
"""

import ipaddress
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers

from app.auth.keys import Key, KeyRing, Scope
from app.auth.rates import RateLimiter
from app.errors import ForbiddenError, KeysError, UnauthorizedError
from app.settings import Settings

_bearer = HTTPBearer(
    auto_error=False, scheme_name="key", description="An API key, made by `whence keys add`."
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]

HOW = "send `Authorization: Bearer KEY` with a key that `whence keys add` made on the server"
FORWARDED_FOR = re.compile(r'\bfor="?\[?([^\s;,"\]]*)', re.IGNORECASE)  # RFC 7239


@dataclass(frozen=True)
class Gate:
    """Lets requests in, or not, and counts them; one to an app."""

    keys: KeyRing
    rates: RateLimiter
    allow_anonymous: bool

    @classmethod
    def of(cls, settings: Settings) -> "Gate":
        """The gate that the settings ask for."""
        return cls(_ring(settings), RateLimiter(settings.rate_limit), settings.allow_anonymous)

    def admit(self, request: Request, token: str | None, scope: Scope) -> None:
        """Let a request in that bears ``token``; ``request.state.key_name`` tells whose it is.

        Raises:
            UnauthorizedError: it needs a key, and bears none or one that is not valid.
            ForbiddenError: its key lacks the scope.
            RateLimitedError: its caller has asked too often.
            KeysError: the keys cannot be read, so nobody can be let in.
        """
        if not self.keys.configured and scope != "admin":
            self._require_this_machine(request)
            client = request.client.host if request.client else ""
            self.rates.admit(f"address {_network(client)}")
            return
        key = self._valid_key(token)
        if not key.allows(scope):
            raise ForbiddenError(
                f"the key {key.name!r} has the scope {key.scope}; this needs "
                f"{scope}: make another with `whence keys add NAME --scope {scope}`"
            )
        request.state.key_name = key.name
        self.rates.admit(f"key {key.name}", key.rate)

    def _valid_key(self, token: str | None) -> Key:
        if token is None:
            raise UnauthorizedError(f"this needs an API key: {HOW}")
        key = self.keys.find(token)
        if key is None:
            raise UnauthorizedError(f"this key is unknown, mistyped or revoked: {HOW}")
        if key.expired:
            raise UnauthorizedError(f"this key expired at {key.expires_at:%Y-%m-%d %H:%M} UTC")
        return key

    def _require_this_machine(self, request: Request) -> None:
        """Let in who sits at this machine: no proxy's caller, and no page of another name."""
        # Where the connection arrived, which no header can change.
        arrived = (request.scope.get("server") or ("", None))[0]
        # No address: a socket in the file system, or no socket at all.
        if self.allow_anonymous or _address(arrived) is None:
            return
        client = request.client.host if request.client else ""
        asked = _host_name(request.headers.get("host", ""))
        if not all(map(_is_loopback, (arrived, client, *_forwarded(request.headers)))):
            why = "answers this machine alone"
        elif asked != "localhost" and not _is_loopback(asked):
            # What a browser sends whose name for this machine somebody else decides on.
            why = f"answers to localhost and its addresses alone, not to {asked[:100]!r}"
        else:
            return
        raise UnauthorizedError(
            f"this server has no keys and so {why}: make one with `whence keys add NAME`, or set "
            "WHENCE_ALLOW_ANONYMOUS=true to answer anyone"
        )


async def require_attribute(request: Request, credentials: Credentials) -> None:
    """Let in who may ask."""
    _admit(request, credentials, "attribute")


async def require_admin(request: Request, credentials: Credentials) -> None:
    """Let in who may change what the server shows."""
    _admit(request, credentials, "admin")


def _admit(request: Request, credentials: HTTPAuthorizationCredentials | None, need: Scope) -> None:
    gate: Gate = request.app.state.gate
    gate.admit(request, credentials.credentials if credentials else None, need)


def require_closed(settings: Settings) -> None:
    """Return if nobody who should not can ask the server that these settings make.

    Raises:
        KeysError: it would answer other machines without any key, or its keys cannot be read.
    """
    if _ring(settings).configured or settings.allow_anonymous:
        return
    found = socket.getaddrinfo(settings.host, None, flags=socket.AI_PASSIVE)
    addresses = [_address(str(address[0])) for *_, address in found]
    if all(address and address.is_loopback for address in addresses):
        return
    raise KeysError(
        f"on {settings.host} anyone could ask, for there are no keys: make one with `whence keys "
        f"add NAME --data {settings.data}`, listen on 127.0.0.1, or set "
        "WHENCE_ALLOW_ANONYMOUS=true if whoever reaches the port may ask"
    )


def caller_of(scope: Mapping[str, Any]) -> str | None:
    """Who sends a request: a key once it was found valid, else an address; None on this machine."""
    if key := scope.get("state", {}).get("key_name"):
        return f"key {key}"
    host = (scope.get("client") or ("", None))[0]
    address = _address(host)
    if address is None or address.is_loopback:
        return None
    return f"address {_network(host)}"


def _ring(settings: Settings) -> KeyRing:
    return KeyRing(settings.keys_path, required=settings.keys_file is not None)


def _network(host: str) -> str:
    """Who counts as one caller: an IPv4 address, or the /64 that one IPv6 host has to itself."""
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)


def _forwarded(headers: Headers) -> Iterator[str]:
    """Whom proxies say to ask for, each; what is no address is given as it is."""
    for line in headers.getlist("x-forwarded-for"):
        yield from (part.strip() for part in line.split(","))
    for line in headers.getlist("forwarded"):
        for part in line.split(","):
            found = FORWARDED_FOR.search(part)
            yield found[1] if found else ""


def _host_name(host: str) -> str:
    """A Host header without its port; empty if it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address, an IPv4 one as itself where a dual-stack socket wrote it as IPv6; or None."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
