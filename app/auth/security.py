"""Authentication and authorisation of requests by API keys.

A server without keys answers requests from its own machine only, unless WHENCE_ALLOW_ANONYMOUS is
set. Admin requests always need a key. A route declares its scope: ``Depends(require_attribute)``.
"""

import ipaddress
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers

from app.auth.keys import Key, KeyRing, Scope
from app.auth.rates import RateLimiter
from app.errors import ForbiddenError, KeysError, UnauthorizedError
from app.http.names import host_name, parse_address
from app.settings import Settings

_bearer = HTTPBearer(
    auto_error=False, scheme_name="key", description="An API key, made by `whence keys add`."
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]

HOW = "send `Authorization: Bearer KEY` with a key that `whence keys add` made on the server"
FORWARDED_FOR = re.compile(r'\bfor="?\[?([^\s;,"\]]*)', re.IGNORECASE)  # RFC 7239


@dataclass(frozen=True)
class Authenticator:
    """Authenticates requests and applies their rate limits; each app has one."""

    keys: KeyRing
    rates: RateLimiter
    allow_anonymous: bool

    @classmethod
    def of(cls, settings: Settings) -> "Authenticator":
        """Build the authenticator for these settings."""
        return cls(_ring(settings), RateLimiter(settings.rate_limit), settings.allow_anonymous)

    def admit(self, request: Request, token: str | None, scope: Scope) -> None:
        """Admit a request with this token; set ``request.state.key_name`` to the key's name.

        Raises:
            UnauthorizedError: a key is needed, and the token is missing or not valid.
            ForbiddenError: the key lacks the scope.
            RateLimitedError: the caller has exceeded its rate.
            KeysError: the keys cannot be read, so no request is admitted.
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
        """Admit direct requests from this machine only: none through a proxy or another name."""
        # The address that the connection arrived at, which no header can change.
        arrived = (request.scope.get("server") or ("", None))[0]
        # No address: a socket in the file system, or no socket at all.
        if self.allow_anonymous or parse_address(arrived) is None:
            return
        client = request.client.host if request.client else ""
        asked = host_name(request.headers.get("host", ""))
        if not all(map(_is_loopback, (arrived, client, *_forwarded(request.headers)))):
            why = "answers this machine alone"
        elif asked != "localhost" and not _is_loopback(asked):
            # DNS rebinding: a name that somebody else controls points at this machine.
            why = f"answers to localhost and its addresses alone, not to {asked[:100]!r}"
        else:
            return
        raise UnauthorizedError(
            f"this server has no keys and so {why}: make one with `whence keys add NAME`, or set "
            "WHENCE_ALLOW_ANONYMOUS=true to answer anyone"
        )


async def require_attribute(request: Request, credentials: Credentials) -> None:
    """Require a key of any scope."""
    _admit(request, credentials, "attribute")


async def require_admin(request: Request, credentials: Credentials) -> None:
    """Require a key of scope admin."""
    _admit(request, credentials, "admin")


def _admit(request: Request, credentials: HTTPAuthorizationCredentials | None, need: Scope) -> None:
    authenticator: Authenticator = request.app.state.authenticator
    authenticator.admit(request, credentials.credentials if credentials else None, need)


def require_closed(settings: Settings) -> None:
    """Refuse settings that would answer other machines without keys.

    Raises:
        KeysError: the server would answer other machines without keys, or its keys cannot be read.
    """
    if _ring(settings).configured or settings.allow_anonymous:
        return
    found = socket.getaddrinfo(settings.host, None, flags=socket.AI_PASSIVE)
    addresses = [parse_address(str(address[0])) for *_, address in found]
    if all(address and address.is_loopback for address in addresses):
        return
    raise KeysError(
        f"on {settings.host} anyone could ask, for there are no keys: make one with `whence keys "
        f"add NAME --data {settings.data}`, listen on 127.0.0.1, or set "
        "WHENCE_ALLOW_ANONYMOUS=true if whoever reaches the port may ask"
    )


def caller_of(scope: Mapping[str, Any]) -> str | None:
    """Returns the caller of a request: its valid key, else its address; None for this machine."""
    if key := scope.get("state", {}).get("key_name"):
        return f"key {key}"
    host = (scope.get("client") or ("", None))[0]
    address = parse_address(host)
    if address is None or address.is_loopback:
        return None
    return f"address {_network(host)}"


def _ring(settings: Settings) -> KeyRing:
    return KeyRing(settings.keys_path, required=settings.keys_file is not None)


def _network(host: str) -> str:
    """Returns the network that counts as one caller: an IPv4 address, or an IPv6 /64."""
    address = parse_address(host)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)


def _forwarded(headers: Headers) -> Iterator[str]:
    """Yields the clients that proxies name in X-Forwarded-For and Forwarded, unparsed."""
    for line in headers.getlist("x-forwarded-for"):
        yield from (part.strip() for part in line.split(","))
    for line in headers.getlist("forwarded"):
        for part in line.split(","):
            found = FORWARDED_FOR.search(part)
            yield found[1] if found else ""


def _is_loopback(host: str) -> bool:
    address = parse_address(host)
    return address is not None and address.is_loopback
