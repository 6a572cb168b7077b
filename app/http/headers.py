"""Security headers of every answer: type sniffing, referrer, content and embedding."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.paths import route_path

DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"  # an API answer loads nothing
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


def security_headers(path: str) -> dict[str, str]:
    """Return the headers of an answer at a route's ``path``, unless the route sets its own."""
    page = path == "/" or path.startswith("/static/")
    return {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        # Pages of origins that CORS allows show images by <img crossorigin>.
        "Cross-Origin-Resource-Policy": "same-origin",
        "Content-Security-Policy": PAGE_POLICY if page else DATA_POLICY,
    }


class SecurityHeaders:
    """Middleware that adds `security_headers`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the headers to its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in security_headers(route_path(scope)).items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)
