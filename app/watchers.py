"""Watches the data folder: new index versions and takedowns reach the running server."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from app.telemetry.metrics import Metrics
from index.answering.attribution import Attributor
from index.errors import SnapshotError, TakedownError
from index.layout import DataFolder
from index.snapshot import CURRENT
from index.takedowns.in_force import Takedowns
from index.takedowns.log import TakedownLog
from index.takedowns.records import Extent
from model.errors import ModelError, WhenceError
from model.files import FileStamp, this_user
from model.regular_files import read_file

POLL_SECONDS = 0.25
RETRY_SECONDS = 1.0

LoadError = (SnapshotError, ModelError, TakedownError)  # of an index that cannot be served

_Published = tuple[FileStamp, bytes]
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class _Leased:
    """An attributor and its number of requests; closed after the last one, once retired."""

    def __init__(self, attributor: Attributor, *, owned: bool) -> None:
        self.attributor = attributor
        self._owned = owned
        self._requests = 0
        self._retired = False

    @contextmanager
    def lease(self) -> Iterator[Attributor]:
        self._requests += 1
        try:
            yield self.attributor
        finally:
            self._requests -= 1
            self._close_if_unused()

    def retire(self) -> None:
        self._retired = True
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._retired and self._owned and not self._requests:
            self.attributor.snapshot.close()


class ServedIndex:
    """Leases the served index version to requests; used on the event loop only.

    Args:
        metrics: record the served version.
        attributor: the first one to serve; the caller closes it.
    """

    def __init__(self, metrics: Metrics, attributor: Attributor | None = None) -> None:
        # The reason while no version is served.
        self.error: WhenceError = SnapshotError("the index is not loaded yet")
        self._metrics = metrics
        self._current = _Leased(attributor, owned=False) if attributor else None
        if attributor:
            self._record(attributor)

    @property
    def attributor(self) -> Attributor | None:
        """Return the served attributor."""
        return self._current.attributor if self._current else None

    @property
    def version(self) -> str | None:
        """Return the served index version."""
        return self._current.attributor.snapshot.version if self._current else None

    @contextmanager
    def lease(self) -> Iterator[Attributor]:
        """Keep the served attributor open for the block, so that an answer has one version.

        Raises:
            SnapshotError: there is no index yet, or it is damaged.
            ModelError: the index's model is missing or damaged.
            TakedownError: the log of takedowns cannot be read.
        """
        if self._current is None:
            raise self.error.with_traceback(None)  # raised repeatedly, its traceback would grow
        with self._current.lease() as attributor:
            yield attributor

    def replace(self, attributor: Attributor) -> None:
        """Serve ``attributor`` from the next request on; it is closed after its last request."""
        if attributor is self.attributor:
            return
        self._retire(_Leased(attributor, owned=True))
        self._record(attributor)
        snapshot = attributor.snapshot
        logger.info(
            "serving index %s, model %s, %d exemplars taken down",
            snapshot.version,
            snapshot.model_id,
            len(snapshot.hidden),
        )

    def drop(self, error: WhenceError) -> None:
        """Serve no version from the next request on; requests get ``error``."""
        self.error = error
        self._retire(None)
        self._metrics.index_lost()

    def close(self) -> None:
        """Close the attributor after its last request."""
        self._retire(None)

    def _retire(self, successor: _Leased | None) -> None:
        retired, self._current = self._current, successor
        if retired:
            retired.retire()

    def _record(self, attributor: Attributor) -> None:
        snapshot, hidden = attributor.snapshot, len(attributor.snapshot.hidden)
        self._metrics.swapped(
            snapshot.version, snapshot.model_id, snapshot.manifest.exemplars - hidden, hidden
        )


class _Watcher:
    """Base of the watchers; keeps the error of the last poll and logs each error once."""

    def __init__(self, served: ServedIndex, data: DataFolder, metrics: Metrics) -> None:
        self.error: WhenceError | None = None
        self._served = served
        self._data = data
        self._metrics = metrics
        self._lock = asyncio.Lock()
        # Own threads: slow reads may occupy all of FastAPI's.
        self._threads = anyio.CapacityLimiter(1)

    async def _in_thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        return await anyio.to_thread.run_sync(work, *arguments, limiter=self._threads)

    def _fail(self, error: WhenceError) -> None:
        self._metrics.reload_failed()
        if str(error) != str(self.error):
            state = "the server goes on as it was" if self._served.attributor else "not ready"
            logger.warning("%s: %s", state, error)
        self.error = error
        if self._served.attributor is None:
            self._served.error = error


class TakedownWatcher(_Watcher):
    """Applies the log of takedowns to the served version.

    A takedown applies to the served version at once, even while another version is being opened,
    and to that one before it is served. If the log is lost, damaged or replaced by an older one,
    the takedowns read before stay in force, and a copy of them is left for `whence takedown
    repair`.
    """

    _seen: FileStamp | None = None  # of the log that is in effect
    _rescued: Takedowns | None = None
    in_force: Takedowns | None = None  # as read from that log

    @property
    def log(self) -> TakedownLog:
        """Return the log, whose records must begin with those that this server has read."""
        seen = self.in_force.extent if self.in_force else Extent()
        return TakedownLog(self._data.takedowns, seen)

    async def poll(self, *, force: bool = False) -> None:
        """Apply the log to the served version, if it has changed.

        Args:
            force: apply it even if it seems unchanged.
        """
        async with self._lock:
            attributor = self._served.attributor
            stamp = await self._in_thread(FileStamp.of, self._data.takedowns)
            if attributor is None or not (force or self.error or stamp != self._seen):
                return
            try:
                await self._serve(attributor)
            except SnapshotError as error:  # the files of the served version are gone
                self.error = None
                self._metrics.reload_failed()
                self._served.drop(error)
                logger.warning("not ready: %s", error)
            except LoadError as error:
                self._fail(error)
                if isinstance(error, TakedownError):
                    self._metrics.takedown_log(usable=False)
                    await self._in_thread(self._rescue)

    async def serve(self, opened: Attributor) -> None:
        """Serve an opened version, with its taken-down exemplars hidden.

        Raises:
            SnapshotError, TakedownError: the takedowns cannot be applied.
        """
        async with self._lock:
            await self._serve(opened)

    async def _serve(self, attributor: Attributor) -> None:
        log = self.log
        stamp = await self._in_thread(
            FileStamp.of, log.path
        )  # before reading, during which it may change
        takedowns = await self._in_thread(log.read)
        masked = await self._in_thread(attributor.masked, takedowns)
        self._seen, self.error, self.in_force = stamp, None, takedowns
        self._metrics.takedown_log(usable=True)
        self._served.replace(masked)

    def _rescue(self) -> None:
        """Leave a copy of the takedowns in force, once for each log that was read."""
        known = self.in_force
        if known is None or not known.lines or known is self._rescued:
            return
        try:
            self.log.rescue(known)
        except OSError as error:
            logger.warning("no copy of the takedown log could be left (%s)", error)
        else:
            self._rescued = known


class PublicationWatcher(_Watcher):
    """Opens and warms each newly published version, and then serves it in place of the old one.

    If that fails, the old version stays in service and the new one is retried, at most once a
    second and for at most a fifth of the time. Another publication is tried at once.

    Args:
        served: the index to replace.
        data: the data folder.
        metrics: count failures.
        load: opens the published version, given the attributor in use; raises one of `LoadError`.
        takedowns: applies takedowns to the version and serves it.
    """

    def __init__(
        self,
        served: ServedIndex,
        data: DataFolder,
        metrics: Metrics,
        load: Callable[[Attributor | None], Attributor],
        takedowns: TakedownWatcher,
    ) -> None:
        super().__init__(served, data, metrics)
        self._load = load
        self._takedowns = takedowns
        self._seen: _Published | None = None  # the publication in effect
        self._refused: _Published | None = None  # the publication that failed last
        self._retry_at = 0.0

    async def poll(self, *, force: bool = False) -> None:
        """Serve the published version, if it has changed.

        Args:
            force: even if it seems unchanged, or has just failed.
        """
        async with self._lock:
            if self._served.attributor:
                self._drop_changed(self._served.attributor)
            stamp = await self._in_thread(_published, self._data.index / CURRENT)
            began = time.monotonic()
            changed = self._served.attributor is None or stamp != self._seen
            waits = stamp == self._refused and began < self._retry_at
            if not force and (waits or not (changed or self.error)):
                return
            try:
                await self._open_and_serve()
            except LoadError as error:
                # The takedown watcher reports an unreadable log, unless it blocks a new version.
                if changed or not isinstance(error, TakedownError):
                    self._fail(error)
                now = time.monotonic()
                self._refused, self._retry_at = stamp, now + max(RETRY_SECONDS, 4 * (now - began))
            else:
                self._seen, self.error = stamp, None

    def _drop_changed(self, attributor: Attributor) -> None:
        """Serve a version no more whose catalog was written to; it is opened again once whole."""
        try:
            attributor.snapshot.catalog.check()
        except SnapshotError as error:
            self._served.drop(error)
            logger.warning("not ready: %s", error)

    async def _open_and_serve(self) -> None:
        try:
            opened = await self._in_thread(self._load, self._served.attributor)
        except OSError as error:
            raise SnapshotError(
                f"the index in {self._data.index} cannot be read by {this_user()} ({error}); "
                "check its permissions and owner"
            ) from error
        try:
            await self._takedowns.serve(opened)
        finally:
            if self._served.attributor is not opened:
                opened.snapshot.close()  # a copy with hidden rows, or the old version, is served


def _published(current: Path) -> _Published:
    """Return the stamp of ``CURRENT`` and its content, empty if unreadable.

    Version names have equal lengths, so two of them published within one tick of the file system's
    clock can have equal stamps.
    """
    stamp = FileStamp.of(current)
    try:
        return stamp, read_file(current)
    except OSError:
        return stamp, b""


async def repeat(poll: Callable[[], Awaitable[None]]) -> None:
    """Poll forever; log an unexpected error unless it repeats the previous one."""
    logged = ""
    while True:
        await asyncio.sleep(POLL_SECONDS)
        try:
            await poll()
            logged = ""
        except Exception as error:
            if logged != repr(error):
                logger.exception("%s failed", getattr(poll, "__qualname__", poll))
            logged = repr(error)
