"""Load shedding: uploads are refused while the queue is full, before any other work on them."""

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import QueueFullError
from app.http.paths import route_path
from app.http.problems import answer_error


class LoadShedding:
    """Middleware that refuses uploads while the queue is full.

    Under overload the server refuses many more requests than it answers, so a refusal must be
    cheap: neither the key nor the form is read.

    Args:
        app: the application.
        paths: of the routes that take uploads.
    """

    def __init__(self, app: ASGIApp, paths: frozenset[str]) -> None:
        self.app = app
        self.paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless it is refused."""
        if (
            scope["type"] == "http"
            and scope["method"] == "POST"
            and route_path(scope) in self.paths
        ):
            try:
                scope["app"].state.service.pipeline.queue.require()
            except QueueFullError as error:
                scope["state"]["route"] = route_path(scope)  # no router sets it
                response = await answer_error(Request(scope), error)
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)
