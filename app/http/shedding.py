"""Load shedding: what there is no room for is refused before anything else is done for it."""

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import QueueFullError
from app.http.paths import route_path
from app.http.problems import answer_error


class LoadShedding:
    """Middleware that refuses uploads while the queue is full.

    Under a flood there are many times more requests to refuse than to answer, and the cost of each
    is taken from those that are answered. So neither key nor form is read.

    Args:
        app: what it guards.
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
                scope["state"]["route"] = route_path(scope)  # no router will say so
                response = await answer_error(Request(scope), error)
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)
