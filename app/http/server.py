"""The server as `whence serve` runs it: its protocol, whom it believes, how long it may stop."""

import asyncio
import gc
import logging
import math
import os
import socket
import sys
import threading
from contextlib import suppress

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from app.http.protocol import Protocol
from app.inference.memory import return_large_blocks
from app.settings import Settings

ANSWER_SECONDS = 5  # to finish what was begun at its deadline
CLOSE_SECONDS = 10  # to end threads, close the index and send the last spans
HUNG = 1  # exit status
ACCEPTS = 16  # connections accepted in a turn of the event loop

logger = logging.getLogger(__name__)


def run_server(app: FastAPI, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    What was taken is answered first, within the deadline that requests have anyway. If the process
    has not ended `CLOSE_SECONDS` after that, because a thread hangs, it ends with status 1.
    """
    return_large_blocks()
    answered = math.ceil(settings.deadline_seconds) + ANSWER_SECONDS
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        http=Protocol,
        server_header=False,
        # Uvicorn would believe whoever comes from this machine, and so let any caller here, or
        # behind a proxy that forwards what it gets, name the address its requests are counted by.
        proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,
        timeout_graceful_shutdown=answered,
    )
    server = _Server(config, answered + CLOSE_SECONDS)
    with suppress(KeyboardInterrupt):  # raised again once everything is closed
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)


class _Server(uvicorn.Server):
    """Ends, whatever hangs.

    Args:
        config: of the server.
        stop_seconds: from the signal to the end of the process, at most.
    """

    def __init__(self, config: uvicorn.Config, stop_seconds: float) -> None:
        super().__init__(config)
        self._stop_seconds = stop_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start.

        What is there now stays, so the garbage collector need not look at it again: it is most of
        all objects, torch's above all, and to look at them stops every thread for a quarter of a
        second.
        """
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        if self.started:
            await self._listen_more()

    async def _listen_more(self) -> None:
        """Accept several connections in a turn of the event loop.

        uvloop accepts one for each file descriptor that listens. With a thousand requests to serve
        in a turn, a flood would fill the kernel's queue, and new callers wait for seconds.
        """
        loop = asyncio.get_running_loop()
        if not type(loop).__module__.startswith("uvloop"):
            return

        def protocol() -> asyncio.Protocol:
            return Protocol(self.config, self.server_state, self.lifespan.state)

        for listening in [one for server in self.servers for one in server.sockets]:
            for _ in range(ACCEPTS - 1):
                again = socket.socket(fileno=os.dup(listening.fileno()))
                self.servers.append(
                    await loop.create_server(protocol, sock=again, backlog=self.config.backlog)
                )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; threads that hang in native code cannot be ended, nor does Python exit then."""
        alarm = threading.Timer(self._stop_seconds, self._end)
        alarm.daemon = True
        alarm.start()
        await super().shutdown(sockets)

    def _end(self) -> None:
        hung = ", ".join(thread.name for thread in threading.enumerate())
        logger.error("not stopped within %g s; still there: %s", self._stop_seconds, hung)
        os._exit(HUNG)
