"""Middleware that gives every request an id, metrics and one line in the log."""

import logging
import random
import re
import time
import uuid
from collections.abc import Hashable
from http import HTTPMethod, HTTPStatus

from opentelemetry import trace
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from app.errors import InternalError
from app.http.paths import route_path
from app.telemetry.metrics import CLIENT_LEFT, Metrics

REQUEST_ID = "X-Request-ID"
# Fits UUIDs and the ids that proxies make, not a key that was put into the wrong header.
ACCEPTED_ID = re.compile(r"(?!whence_)[A-Za-z0-9._-]{8,64}")
METHODS = frozenset(HTTPMethod)
SPARSE_SECONDS = 1.0  # between two lines of refusals of one kind

logger = logging.getLogger(__name__)


class _Sparse:
    """Limits the events of each kind to one per interval, and counts the suppressed ones."""

    def __init__(self) -> None:
        self._last: dict[
            Hashable, tuple[float, int]
        ] = {}  # time of the last event that passed, and the number suppressed since

    def others(self, kind: Hashable) -> int | None:
        """Returns the number of events suppressed before this one; None if it is suppressed."""
        now = time.monotonic()
        last, others = self._last.get(kind, (-SPARSE_SECONDS, 0))
        through = now - last >= SPARSE_SECONDS
        self._last[kind] = (now, 0) if through else (last, others + 1)
        return others if through else None


class Telemetry:
    """Middleware that numbers, counts, times and logs requests.

    The id is the caller's ``X-Request-ID`` if that is well-formed, else a new one. It is in
    ``request.state.request_id``, on every line that is logged while the request is answered, in the
    answer's header and in the ``instance`` of a problem.

    The log names the route, not the path, and nothing of query, headers or body. Refusals
    with 429 are logged once a second for each route, problem and key, so that a flood costs neither
    disk space nor time.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics
        self._refused = _Sparse()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if ACCEPTED_ID.fullmatch(given) else _new_id()
        scope.setdefault("state", {})["request_id"] = request_id
        # Not unbound at the end: a request is a task of its own, and lines logged after this
        # returns, such as an unexpected error's traceback, need the id as well.
        clear_contextvars()
        bind_contextvars(request_id=request_id, **_trace(scope))
        status = CLIENT_LEFT

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        self.metrics.request_began()
        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            status = InternalError.status  # answered further out
            scope["state"]["problem"] = InternalError.type
            raise
        finally:
            self._note(scope, status, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        """Count and log a request that has ended."""
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = route_of(scope)
        self.metrics.request_ended(method, route, status, seconds)
        state = scope["state"]
        line = {
            "method": method,
            "route": route,
            "status": status,
            "ms": round(1000 * seconds, 1),
            "problem": state.get("problem"),  # set by `app.http.problems`
            "key": state.get("key_name"),  # set by whoever checked the key
        }
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            others = self._refused.others((route, line["problem"], line["key"]))
            if others is None:
                return
            line["unlogged"] = others or None
        logger.info("request", extra={k: v for k, v in line.items() if v is not None})


def _new_id() -> str:
    """Return a UUID of version 4, which need not be secret.

    `uuid.uuid4` asks the system for random bytes and gives up the interpreter's lock meanwhile; on
    a busy server the event loop then waits for the lock.
    """
    return str(uuid.UUID(int=random.getrandbits(128), version=4))


def route_of(scope: Scope) -> str:
    """Returns the template of the matching route, or "unmatched"."""
    if path := scope["state"].get("route"):  # refused before routing
        return str(path)
    if path := getattr(scope.get("route"), "path", None):
        return str(path)
    if "app_root_path" in scope:  # below a mount
        return str(scope["root_path"]).removeprefix(scope["app_root_path"]) or "/"
    if "endpoint" in scope and not scope["path_params"]:  # a route without parameters, as /docs
        return route_path(scope)
    return "unmatched"


def _trace(scope: Scope) -> dict[str, str]:
    """Tie the request's span, if there is one, to its lines in the log."""
    span = trace.get_current_span()
    if not span.is_recording():
        return {}
    span.set_attribute("whence.request_id", scope["state"]["request_id"])
    if scope["query_string"]:
        span.set_attribute("url.query", "not recorded")  # FastAPI has put it there
    return {"trace_id": trace.format_trace_id(span.get_span_context().trace_id)}
