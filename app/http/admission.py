"""Uploads are refused while the queue is full, before their route, key and body are looked at."""

from collections.abc import Iterable

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import QueueFullError
from app.http.paths import route_path
from app.http.problems import answer_error


class Admission:
    """Middleware that answers uploads with `QueueFullError` while the queue is full.

    Routing and dependencies take longer than all else about a refusal. In a flood they would take
    the interpreter's lock from the threads that answer.

    Args:
        app: the application; ``state.service`` is its service.
        uploads: paths of the routes that take images.
    """

    def __init__(self, app: ASGIApp, uploads: Iterable[str]) -> None:
        self.app = app
        self._uploads = frozenset(uploads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless it is refused."""
        if scope["type"] == "http" and scope["method"] == "POST":
            path = route_path(scope)
            if path in self._uploads:
                try:
                    scope["app"].state.service.pipeline.queue.require()
                except QueueFullError as error:
                    scope["state"]["route"] = path  # for metrics and log
                    response = await answer_error(Request(scope), error)
                    await response(scope, receive, send)
                    return
        await self.app(scope, receive, send)
