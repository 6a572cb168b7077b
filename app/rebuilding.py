"""Runs the configured rebuild in a process of its own, and follows its progress."""

import asyncio
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from app.errors import RebuildNotConfiguredError, RebuildRunningError
from app.text import printable
from whence_client.models import RebuildStatus

PROGRESS_SECONDS = 2  # between two of its reports
STOP_SECONDS = 5.0  # to end after SIGTERM
POLL_SECONDS = 0.1
LEFT_SECONDS = 1.0  # to read the last lines after its end
LINE_BYTES = 2**20  # longer lines are left out

logger = logging.getLogger(__name__)


def rebuild_command(options: str, data: Path) -> list[str]:
    """Return the command line of `whence rebuild`.

    Args:
        options: as in a shell, such as ``--source /images``.
        data: the data folder.

    Raises:
        ValueError: a quotation mark is not closed.
    """
    program = [sys.executable, "-c", "from app.cli.main import main; main()"]
    return [*program, "rebuild", *shlex.split(options), "--data", str(data)]


def _offer_to_the_kernel(process: int) -> None:
    """Let Linux end this process first when memory runs out, not the server."""
    with suppress(OSError):
        Path(f"/proc/{process}/oom_score_adj").write_text("1000", encoding="ascii")


class Rebuilds:
    """Starts rebuilds, one at a time; used on the event loop only.

    A rebuild lowers its own priority, and its end, whatever it is, is a state of this object. The
    server's watcher serves the version that it publishes.

    Args:
        command: of the configured rebuild; None if none is configured.
    """

    def __init__(self, command: Sequence[str] | None) -> None:
        self._command = command
        self._following: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self.status = RebuildStatus(state="idle")

    async def start(self) -> RebuildStatus:
        """Start the rebuild.

        Raises:
            RebuildNotConfiguredError: there is none.
            RebuildRunningError: it runs.
        """
        if self._command is None:
            raise RebuildNotConfiguredError(
                "WHENCE_REBUILD_OPTIONS is not set: set it to the options of `whence rebuild`, "
                "such as --source /images, and restart the server"
            )
        if self.status.state == "running":
            raise RebuildRunningError(
                "a rebuild is running; GET /admin/rebuild tells its progress: try again when it "
                "has ended"
            )
        self._process = None
        self.status = RebuildStatus(state="running", started_at=datetime.now(UTC))
        self._following = asyncio.create_task(self._run(self._command))
        return self.status

    async def close(self) -> None:
        """End a running rebuild; the images that it embedded stay in its cache."""
        if self._following is None:
            return
        if self._process is None:
            self._following.cancel()
        elif self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            await asyncio.wait([self._following], timeout=STOP_SECONDS)
            with suppress(ProcessLookupError):
                self._process.kill()
        with suppress(asyncio.CancelledError):
            await self._following

    async def _run(self, command: Sequence[str]) -> None:
        logger.info("rebuild: started")
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={
                    **os.environ,
                    "WHENCE_LOG_FORMAT": "json",
                    "WHENCE_PROGRESS_SECONDS": str(PROGRESS_SECONDS),
                },
                limit=LINE_BYTES,
                start_new_session=True,
            )
        except OSError as error:
            self._end("failed", f"it cannot be started: {error.strerror or error}")
            return
        _offer_to_the_kernel(process.pid)
        streams = (process.stdout, process.stderr)
        kept: tuple[list[str], list[str]] = ([], [])
        following = asyncio.gather(*map(self._follow, streams, kept))
        # Processes that it leaves behind keep its streams open, and process.wait() waits for these.
        while (status := process.returncode) is None:
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.wait([following], timeout=LEFT_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await following
        said, complained = kept
        if status == 0:
            self._end("succeeded", said[0] if said else None)
        elif status < 0:
            self._end(
                "failed",
                f"it was ended by signal {-status}; nothing half-finished was published, and the "
                "next rebuild continues with what this one embedded",
            )
        else:
            self._end("failed", complained[-1] if complained else f"it ended with status {status}")

    def _end(self, state: str, message: str | None) -> None:
        self.status = self.status.model_copy(
            update={
                "state": state,
                "ended_at": datetime.now(UTC),
                "message": message,
                "seconds_left": None,
            }
        )
        level = logging.INFO if state == "succeeded" else logging.ERROR
        logger.log(level, "rebuild: %s: %s", state, message)

    async def _follow(self, stream: asyncio.StreamReader | None, kept: list[str]) -> None:
        """Read a stream to its end; keep its first and its last line that is not progress."""
        assert stream is not None
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # longer than LINE_BYTES
                continue
            if not line:
                return
            text = printable(line.decode(errors="replace").strip())
            if text and not self._take_progress(text):
                kept[1:] = [text]
                logger.debug("rebuild: %s", text)

    def _take_progress(self, line: str) -> bool:
        """Take a line of progress into the status; return False if it is none."""
        try:
            record = json.loads(line)
        except ValueError:
            return False
        if not isinstance(record, dict) or record.get("event") != "progress":
            return False
        fields = ("stage", "done", "total", "seconds_left")
        if record.get("stage"):
            self.status = self.status.model_copy(update={f: record.get(f) for f in fields})
        return True
