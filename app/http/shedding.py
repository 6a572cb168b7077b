"""Load shedding: what there is no room for is refused before anything else is done for it."""

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import QueueFullError, answer_named


class LoadShedding:
    """Middleware that refuses uploads while the queue is full.

    Under a flood there are many times more requests to refuse than to answer, and what each costs
    is taken from those that are answered. So nothing is read of them but their first line: neither
    the key nor the body, which `app.http.protocol` lets come and go, so that the connection can be
    used again.

    Args:
        app: what it guards.
        paths: of the routes that take uploads.
    """

    def __init__(self, app: ASGIApp, paths: frozenset[str]) -> None:
        self.app = app
        self.paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless it is refused."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self.paths:
            try:
                scope["app"].state.service.pipeline.check_room()
            except QueueFullError as error:
                scope["state"]["route"] = scope["path"]  # no router will say so
                response = await answer_named(Request(scope), error)
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)
