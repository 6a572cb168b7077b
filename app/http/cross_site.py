"""Requests that pages of other origins send are refused where they would have an effect.

A browser sends a form of any page to any server, and only keeps the answer from the page. It says
so in ``Sec-Fetch-Site``, which pages cannot change, or, if it is older or the connection is plain
HTTP, by ``Origin``.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import CrossSiteError
from app.http.problems import answer_error

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
OWN = frozenset({"same-origin", "none"})  # none: the user's own request, or a browser extension's
DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class CrossSiteCheck:
    """Middleware that refuses POST, DELETE and other unsafe methods from pages of other origins.

    Requests with a key pass: a page of another origin can add it only where CORS allows.

    Args:
        app: the application.
        origins: whose pages may ask, as in WHENCE_CORS_ORIGINS; ``*`` for all.
    """

    def __init__(self, app: ASGIApp, origins: Iterable[str]) -> None:
        self.app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless it is refused."""
        if scope["type"] == "http" and scope["method"] not in SAFE:
            headers = Headers(scope=scope)
            if not self._allows(headers):
                origin = headers.get("origin", "unknown")
                error = CrossSiteError(
                    f"a page of another origin ({origin[:100]!r}) sent this; list the origin in "
                    "WHENCE_CORS_ORIGINS if its pages may ask, or send a key"
                )
                response = await answer_error(Request(scope), error)
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _allows(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if "authorization" in headers or "*" in self._origins or origin in self._origins:
            return True
        if (site := headers.get("sec-fetch-site")) is not None:
            return site in OWN
        return origin is None or _is_origin_of(origin, headers.get("host", ""))


def _is_origin_of(origin: str, host: str) -> bool:
    """Return True if an origin's host and port are those of a Host header."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    port = DEFAULT_PORTS.get(parts.scheme, "")
    return bool(port) and (
        parts.netloc.lower().removesuffix(port) == host.lower().removesuffix(port)
    )
