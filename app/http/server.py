"""Runs the application on uvicorn, and ends the process if a thread hangs at shutdown."""

import gc
import logging
import math
import os
import resource
import sys
import threading
from contextlib import suppress

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.protocol import BoundedRequests, Connections
from app.settings import Settings

ANSWER_SECONDS = 5  # added to the deadline at shutdown, for answers that begin at their deadline
CLOSE_SECONDS = 10  # to end threads, close the index and send the last spans
HEADER_BYTES = 16 * 2**10  # of one request; deploy/nginx/nginx.conf allows less
HEADER_SECONDS = 10.0  # in which they must arrive, as in deploy/nginx/nginx.conf
OTHER_FILES = 100  # that are open beside connections: the index, logs, decoding processes
NOT_STARTED, HUNG = 3, 1  # exit statuses; the first is uvicorn's

logger = logging.getLogger(__name__)


def run_server(app: FastAPI, settings: Settings) -> None:
    """Serve ``app`` until SIGTERM or SIGINT.

    Requests in flight are answered first, within their deadline. If a thread hangs, the process
    exits `CLOSE_SECONDS` after that with status 1.
    """
    # Uvicorn warns of each malformed request and each Upgrade: many of them would fill the disk.
    logging.getLogger("uvicorn.error").addFilter(lambda line: line.levelno != logging.WARNING)
    server = make_server(_ending_what_hangs(app), settings)
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after shutdown
        server.run()
    gc.unfreeze()  # frozen by `app.main.open_published_attributor`; some libraries warn at exit
    if not server.started:
        sys.exit(NOT_STARTED)


def make_server(app: ASGIApp, settings: Settings) -> uvicorn.Server:
    """Return a uvicorn server for ``app``, not yet started."""
    most = min(settings.max_connections, _allowed_files() - OTHER_FILES)
    connections = Connections(most, HEADER_SECONDS)
    config = uvicorn.Config(
        BoundedRequests(app),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        # Of h11: httptools drops the body of a request with `Upgrade: h2c`.
        http=connections.protocol(),
        ws="none",
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_keep_alive=settings.keep_alive_seconds,
        server_header=False,
        # By default uvicorn trusts X-Forwarded-For from this machine: any local caller could then
        # choose the address that its rate limit counts.
        proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,
        timeout_graceful_shutdown=math.ceil(settings.deadline_seconds) + ANSWER_SECONDS,
    )
    return uvicorn.Server(config)


def _allowed_files() -> int:
    """Return how many files and connections this process may open; allow it as many as it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS has lower limits than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return 2**20 if soft == resource.RLIM_INFINITY else max(soft, OTHER_FILES + 10)


def _ending_what_hangs(app: ASGIApp) -> ASGIApp:
    """Wrap ``app`` so that the process ends if its shutdown takes longer than `CLOSE_SECONDS`.

    Python does not exit while a thread hangs in native code.
    """

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_event() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                alarm = threading.Timer(CLOSE_SECONDS, _end)
                alarm.daemon = True
                alarm.start()
            return message

        await app(scope, receive_event if scope["type"] == "lifespan" else receive, send)

    return run


def _end() -> None:
    hung = ", ".join(thread.name for thread in threading.enumerate())
    logger.error("not stopped within %g s; still running: %s", CLOSE_SECONDS, hung)
    os._exit(HUNG)
