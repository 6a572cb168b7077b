"""Allowed hosts: requests for the name of another site are refused (DNS rebinding).

A page can let its own name resolve to this server's address; the browser then takes the server for
the page's own origin and lets the page read every answer. Its requests carry the page's name as
their ``Host``. Addresses are answered: a browser that asks for an address has resolved no name.
"""

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import HostRefusedError
from app.http.names import ANY, host_name, parse_address
from app.http.problems import answer_error

SETTING = "WHENCE_ALLOWED_HOSTS"


class HostCheck:
    """Middleware that refuses requests for hosts that are not this server's.

    Answered are addresses, localhost, the name that the server listens on, the listed names, and
    requests without a Host (HTTP/1.0), which no browser sends.

    Args:
        app: the application.
        listed: names, ``*.example.org`` for all names below one, or ``*`` for any host.
        bound: the setting WHENCE_HOST.
    """

    def __init__(self, app: ASGIApp, listed: Iterable[str], bound: str) -> None:
        self.app = app
        names = set(listed)
        self._any = ANY in names
        self._names = {*names, "localhost", bound.lower()}
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless it is refused."""
        if scope["type"] == "http" and not self._any:
            host = Headers(scope=scope).get("host", "")
            if not self._allows(host, scope):
                error = HostRefusedError(
                    f"this server does not answer to the host {host[:100]!r}; if it is one of its "
                    f"names, add it to {SETTING}"
                )
                response = await answer_error(Request(scope), error)
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _allows(self, host: str, scope: Scope) -> bool:
        if not host:
            return True
        name = host_name(host)
        arrived = (scope.get("server") or ("", None))[0]
        return bool(name) and (
            name in self._names
            or name == arrived
            or name.endswith(self._suffixes)
            or parse_address(name) is not None
        )
