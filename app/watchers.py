"""Keeps the index version that a server answers with in step with its data folder."""

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
from index.takedowns.log import TakedownLog
from model.errors import ModelError, WhenceError
from model.files import FileStamp
from model.regular_files import read_file

POLL_SECONDS = 0.25
RETRY_SECONDS = 1.0

LoadError = (SnapshotError, ModelError, TakedownError)  # why an index cannot be served

_Published = tuple[FileStamp, bytes]
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class _Leased:
    """An attributor and the number of requests that use it."""

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
    """Leases the index version that answers now; used on the event loop alone.

    Args:
        metrics: told which version that is.
        attributor: answers first, and stays the caller's to close.
    """

    def __init__(self, metrics: Metrics, attributor: Attributor | None = None) -> None:
        self.error: WhenceError = SnapshotError("the index is not loaded yet")  # if none answers
        self._metrics = metrics
        self._current = _Leased(attributor, owned=False) if attributor else None
        if attributor:
            self._tell(attributor)

    @property
    def attributor(self) -> Attributor | None:
        """The attributor that answers now."""
        return self._current.attributor if self._current else None

    @property
    def version(self) -> str | None:
        """The index version that answers now."""
        return self._current.attributor.snapshot.version if self._current else None

    @contextmanager
    def lease(self) -> Iterator[Attributor]:
        """Keep the attributor of the moment open for the block: an answer has one version.

        Raises:
            SnapshotError: there is no index yet, or it is damaged.
            ModelError: the index's model is missing or damaged.
            TakedownError: the log of takedowns cannot be read.
        """
        if self._current is None:
            raise self.error.with_traceback(None)  # it is raised many times
        with self._current.lease() as attributor:
            yield attributor

    def replace(self, attributor: Attributor) -> None:
        """Answer with ``attributor`` from the next request on, and close it in the end."""
        if attributor is self.attributor:
            return
        self._retire(_Leased(attributor, owned=True))
        self._tell(attributor)
        snapshot = attributor.snapshot
        logger.info(
            "serving index %s, model %s, %d exemplars taken down",
            snapshot.version,
            snapshot.model_id,
            len(snapshot.hidden),
        )

    def drop(self, error: WhenceError) -> None:
        """Answer nothing from the next request on, for this reason."""
        self.error = error
        self._retire(None)
        self._metrics.index_lost()

    def close(self) -> None:
        """Close the attributor as soon as its last request has ended."""
        self._retire(None)

    def _retire(self, successor: _Leased | None) -> None:
        retired, self._current = self._current, successor
        if retired:
            retired.retire()

    def _tell(self, attributor: Attributor) -> None:
        snapshot, hidden = attributor.snapshot, len(attributor.snapshot.hidden)
        self._metrics.swapped(
            snapshot.version, snapshot.model_id, snapshot.manifest.exemplars - hidden, hidden
        )


class _Watcher:
    """Remembers why a part of the data folder is not in effect, and logs each reason once."""

    def __init__(self, served: ServedIndex, data: DataFolder, metrics: Metrics) -> None:
        self.error: WhenceError | None = None
        self._served = served
        self._data = data
        self._metrics = metrics
        self._one_at_a_time = asyncio.Lock()
        # Its own: slow reads may hold all those that FastAPI runs routes on.
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
    """Hides from answers whatever the log of takedowns names.

    It does not wait for a version that is being opened: a takedown reaches the old version at once,
    and the new one before it answers anything.
    """

    _seen: FileStamp | None = None  # of the log, as it is in effect

    async def poll(self, *, again: bool = False) -> None:
        """Bring the version that answers in step with the log, if the log has changed.

        Args:
            again: even if it seems unchanged.
        """
        async with self._one_at_a_time:
            attributor = self._served.attributor
            stamp = await self._in_thread(FileStamp.of, self._data.takedowns)
            if attributor is None or not (again or self.error or stamp != self._seen):
                return
            try:
                await self._serve(attributor)
            except SnapshotError as error:  # its files are gone, and so is its catalog
                self.error = None
                self._metrics.reload_failed()
                self._served.drop(error)
                logger.warning("not ready: %s", error)
            except LoadError as error:
                self._fail(error)

    async def serve(self, opened: Attributor) -> None:
        """Answer with a version that was opened, without the exemplars that are taken down.

        Raises:
            SnapshotError, TakedownError: it cannot be hidden what the log names.
        """
        async with self._one_at_a_time:
            await self._serve(opened)

    async def _serve(self, attributor: Attributor) -> None:
        log = self._data.takedowns
        stamp = await self._in_thread(FileStamp.of, log)  # first: it may change while it is read
        takedowns = await self._in_thread(TakedownLog(log).read)
        masked = await self._in_thread(attributor.masked, takedowns)
        self._seen, self.error = stamp, None
        self._served.replace(masked)


class PublicationWatcher(_Watcher):
    """Opens and warms each published version beside the old one, and then answers with it.

    Where that fails the old version goes on, and it is tried again: at most every second, and for a
    fifth of the time; another publication is tried at once.

    Args:
        served: to replace.
        data: the data folder.
        metrics: told of failures.
        load: opens the published version, given the embedder in use; raises one of `LoadError`.
        takedowns: put a version in service.
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

    async def poll(self, *, again: bool = False) -> None:
        """Answer with the published version, if it is another one.

        Args:
            again: even if it seems unchanged, or has just failed.
        """
        async with self._one_at_a_time:
            stamp = await self._in_thread(_published, self._data.index / CURRENT)
            began = time.monotonic()
            changed = self._served.attributor is None or stamp != self._seen
            waits = stamp == self._refused and began < self._retry_at
            if not again and (waits or not (changed or self.error)):
                return
            try:
                await self._open_and_serve()
            except LoadError as error:
                # A log that cannot be read is the other watcher's, unless it keeps a version away.
                if changed or not isinstance(error, TakedownError):
                    self._fail(error)
                now = time.monotonic()
                self._refused, self._retry_at = stamp, now + max(RETRY_SECONDS, 4 * (now - began))
            else:
                self._seen, self.error = stamp, None

    async def _open_and_serve(self) -> None:
        try:
            opened = await self._in_thread(self._load, self._served.attributor)
        except OSError as error:
            raise SnapshotError(
                f"the index in {self._data.index} cannot be read ({error}); check its permissions"
            ) from error
        try:
            await self._takedowns.serve(opened)
        finally:
            if self._served.attributor is not opened:
                opened.snapshot.close()  # a masked one is served instead, or still the old one


def _published(current: Path) -> _Published:
    """Return the stamp of ``CURRENT`` and its content, which is empty if it cannot be read.

    Names of versions are equally long: of two that are published within one tick of the file
    system's clock, the stamps alone could be alike.
    """
    stamp = FileStamp.of(current)
    try:
        return stamp, read_file(current)
    except OSError:
        return stamp, b""


async def repeat(poll: Callable[[], Awaitable[None]]) -> None:
    """Poll without end; an unexpected error is logged when it is another one than before."""
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
