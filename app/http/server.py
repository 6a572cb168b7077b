"""Runs the application on uvicorn, with the settings of HTTP, and ends whatever hangs."""

import gc
import logging
import math
import os
import sys
import threading
from contextlib import suppress

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.lingering import LingeringClose
from app.settings import Settings

ANSWER_SECONDS = 5  # to finish answers that were begun at their deadline
CLOSE_SECONDS = 10  # to end threads, close the index and send the last spans
HEADER_BYTES = 16 * 2**10  # of one request; deploy/nginx.conf lets less pass
NOT_STARTED, HUNG = 3, 1  # exit statuses; uvicorn has the first one, too

logger = logging.getLogger(__name__)


def run_server(app: FastAPI, settings: Settings) -> None:
    """Serve ``app`` until SIGTERM or SIGINT.

    Requests in flight are answered first, within their deadline. If the process has not ended
    `CLOSE_SECONDS` after that, because a thread hangs, it ends with exit status 1.
    """
    # Uvicorn warns of each malformed request and each Upgrade: a flood of them would fill the disk.
    logging.getLogger("uvicorn.error").addFilter(lambda line: line.levelno != logging.WARNING)
    server = make_server(_ending_what_hangs(app), settings)
    with suppress(KeyboardInterrupt):  # raised again once everything is closed
        server.run()
    gc.unfreeze()  # `app.main.open_published_attributor` froze; some libraries complain at the end
    if not server.started:
        sys.exit(NOT_STARTED)


def make_server(app: ASGIApp, settings: Settings) -> uvicorn.Server:
    """Return uvicorn's server, not yet started, with the settings of HTTP."""
    config = uvicorn.Config(
        LingeringClose(app),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        http="h11",  # httptools loses the body of a request with `Upgrade: h2c`
        ws="none",
        h11_max_incomplete_event_size=HEADER_BYTES,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=settings.keep_alive_seconds,
        server_header=False,
        # Uvicorn would believe X-Forwarded-For from this machine, so that any caller here could
        # choose the address that its requests are counted by.
        proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,
        timeout_graceful_shutdown=math.ceil(settings.deadline_seconds) + ANSWER_SECONDS,
    )
    return uvicorn.Server(config)


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
    logger.error("not stopped within %g s; still there: %s", CLOSE_SECONDS, hung)
    os._exit(HUNG)
