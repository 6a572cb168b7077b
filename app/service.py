"""What lives as long as the server: the index and model of the moment, and the pipeline."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar

import anyio
import anyio.to_thread

from app.errors import ReloadError, StalledError
from app.inference.pipeline import Pipeline
from app.settings import Settings
from app.telemetry.metrics import Metrics
from index.answering.attribution import Attributor
from index.building.embedding import ImageEmbedder
from index.errors import SnapshotError, TakedownError, VectorStoreUnavailableError
from index.layout import DataFolder
from index.snapshot import CURRENT, Snapshot
from index.takedowns.log import Hidden, Takedown, TakedownLog, hidden_by
from index.takedowns.withdrawal import hidden_in_published, withdraw
from model.errors import ModelError, WhenceError
from model.files import FileStamp
from model.regular_files import read_file

RETRY_SECONDS = 1.0
WATCH_SECONDS = 0.25  # between two looks at what is published and taken down
THREADS = 16  # for these looks and takedowns

LoadError = (SnapshotError, ModelError, TakedownError)  # why an index cannot be served

Done = TypeVar("Done")

logger = logging.getLogger(__name__)


_Published = tuple[FileStamp, bytes]


def _published(current: Path) -> _Published:
    """Returns the stamp of ``CURRENT`` and its content.

    Names of versions are equally long: of two that are published within one tick of the file
    system's clock, the stamps alone could be alike. A file that cannot be read has no content.
    """
    stamp = FileStamp.of(current)
    try:
        return stamp, read_file(current)
    except OSError:
        return stamp, b""


class _Serving:
    """An attributor and the requests that answer from it; used on the event loop alone."""

    def __init__(self, attributor: Attributor, *, owned: bool = True) -> None:
        self.attributor = attributor
        self._owned = owned
        self._requests = 0
        self._retired = False

    @contextmanager
    def in_use(self) -> Iterator[Attributor]:
        """Keep it open for one request."""
        self._requests += 1
        try:
            yield self.attributor
        finally:
            self._requests -= 1
            self._close_if_unused()

    def retire(self) -> None:
        """Close it as soon as its last request has ended."""
        self._retired = True
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._retired and self._owned and not self._requests:
            self.attributor.snapshot.close()


class Service:
    """Answers uploads with the attributor of the moment; an async context manager.

    Two tasks look several times a second whether another version was published and whether the log
    of takedowns has grown. What is new is opened and warmed on another thread and takes the place
    of the old between two requests; if it cannot be opened, the old goes on and `trouble` says why.
    Takedowns do not wait for a version that is being opened: they reach the old one at once, and
    the new one before it answers anything.

    Args:
        settings: the limits, and the data folder to watch.
        load: opens the published index, given the embedder that is loaded already, or raises one of
            `LoadError`; then it is tried again, at most every second and never more than a fifth
            of the time, unless another one is published: that is tried at once.
        attributor: answers instead of what ``load`` gives, whatever is published; takedowns reach
            it all the same.
        metrics: count and time what happens.
    """

    def __init__(
        self,
        settings: Settings,
        load: Callable[[Settings, ImageEmbedder | None], Attributor],
        attributor: Attributor | None,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._data = DataFolder(settings.data)
        self._load = load
        self._fixed = attributor is not None
        self._serving = _Serving(attributor, owned=False) if attributor else None
        self._failures: dict[str, WhenceError] = {}  # "index" and "takedowns"
        self._refused: _Published | None = None  # state of `CURRENT` that could not be served last
        self._retry_at = 0.0  # when that is tried again
        self._current: _Published | None = None  # state of `CURRENT` that was served last
        self._seen: dict[Path, FileStamp] = {}
        self._loading = asyncio.Lock()  # held while a version is opened
        self._changing = asyncio.Lock()  # held, shortly, while what is served changes; taken last
        self.pipeline = Pipeline(settings, metrics)
        metrics.watch_health(self._is_ready, lambda: self._responds_within(settings.stall_seconds))
        # Its own: those that FastAPI runs routes on may all be held by slow reads.
        self._threads = anyio.CapacityLimiter(THREADS)
        self._watches: list[asyncio.Task[None]] = []
        if attributor:
            self._tell_serving(attributor)

    async def __aenter__(self) -> "Service":
        """Load the index if there is one; a server without one still starts."""
        self.pipeline.start()
        await self._refresh()
        looks = (self._refresh, self._hide, self._probe)
        self._watches = [asyncio.create_task(self._repeat(look)) for look in looks]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Answer what was taken."""
        for watch in self._watches:
            watch.cancel()
        if self._watches:
            await asyncio.wait(self._watches)
        await self.pipeline.close()
        if self._serving:
            self._serving.retire()

    @property
    def trouble(self) -> str | None:
        """Why what was published or taken down last is not in effect; None when it is."""
        return "; ".join(dict.fromkeys(map(str, self._failures.values()))) or None

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Attributor]:
        """The attributor of the moment, which stays open for the block.

        Take it once a request, so that an answer has one index version.

        Raises:
            SnapshotError: there is no index yet, or it is damaged.
            ModelError: the index's model is missing or damaged.
            TakedownError: the log of takedowns cannot be read.
        """
        if self._serving is None:
            await self._refresh()
        if self._serving is None:
            raise self._failures["index"].with_traceback(None)  # it is raised many times
        with self._serving.in_use() as attributor:
            yield attributor

    async def reload(self) -> tuple[str | None, str]:
        """Load what is published, even if it seems to be served already.

        Returns:
            The versions served before and now.

        Raises:
            ReloadError: it cannot be served; what was served before still is.
        """
        before = self._serving.attributor.snapshot.version if self._serving else None
        await self._refresh(again=True)
        if self._failures or self._serving is None:
            goes_on = f"goes on with version {before}" if self._serving else "has no index"
            raise ReloadError(f"the server {goes_on}: {self.trouble}")
        return before, self._serving.attributor.snapshot.version

    async def take_down(
        self, kind: Literal["concept", "exemplar"], target: str, *, reason: str
    ) -> tuple[Takedown, list[Hidden]]:
        """Record a takedown; no request that begins after this returns sees what it names.

        A server that waits for its vectors records it as well: that needs only the data folder.

        Returns:
            The takedown, and what it hides.

        Raises:
            SnapshotError, ModelError: see `lease`.
            NotFoundError: no index version has such a concept or exemplar.
            TakedownError: it cannot be recorded, or is recorded and not in force yet.
        """
        async with AsyncExitStack() as leased:
            served: Snapshot | None = None
            try:
                served = (await leased.enter_async_context(self.lease())).snapshot
            except VectorStoreUnavailableError:
                logger.info("a takedown is taken without the vectors, which cannot be reached")
            takedown = await self._record(kind, target, reason, served)
            return takedown, await self._aside(self._list_hidden, takedown, served)

    async def _record(
        self,
        kind: Literal["concept", "exemplar"],
        target: str,
        reason: str,
        served: Snapshot | None,
    ) -> Takedown:
        takedown = await self._aside(
            lambda: withdraw(self._data, kind, target, reason=reason, served=served)
        )
        self._metrics.taken_down(kind)
        logger.info("recorded takedown %s of %s %r", takedown.id, kind, target)
        await self._hide()
        if trouble := self._failures.get("takedowns"):
            raise TakedownError(
                f"the takedown {takedown.id} is recorded but not in force in this server, which "
                f"goes on trying: {trouble}"
            )
        return takedown

    def _list_hidden(self, takedown: Takedown, served: Snapshot | None) -> list[Hidden]:
        if served:  # as it was before
            return hidden_by(takedown, served.catalog, served.pictures)
        try:
            [hidden] = hidden_in_published(self._data.index, [takedown])
        except SnapshotError as error:  # it is recorded: that must not seem to have failed
            logger.warning("what takedown %s hides cannot be listed: %s", takedown.id, error)
            return []
        return hidden

    async def _aside(self, work: Callable[..., Done], *arguments: object) -> Done:
        """What ``work`` returns, on another thread."""
        return await anyio.to_thread.run_sync(work, *arguments, limiter=self._threads)

    def _is_ready(self) -> bool:
        settings = self._settings
        patience = min(settings.deadline_seconds, settings.stall_seconds)
        return self._serving is not None and self._responds_within(patience)

    def _responds_within(self, seconds: float) -> bool:
        try:
            self.pipeline.check_responsive(seconds)
        except StalledError:
            return False
        return True

    async def _repeat(self, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await look()
            except Exception:  # whatever it was, the next look may succeed
                logger.exception("looking for a new index version or takedown failed")

    async def _probe(self) -> None:
        """Have an image embedded now and then, to know that it can be."""
        if self._serving:
            with self._serving.in_use() as attributor:
                await self.pipeline.probe(attributor)

    async def _refresh(self, *, again: bool = False) -> None:
        """Bring what is served up to date with the disk.

        Args:
            again: even if the disk seems unchanged or has just been tried in vain.
        """
        if not self._fixed:
            async with self._loading:
                await self._renew(again=again)
        # Also where opening failed: a takedown reaches the old version as well.
        await self._hide(again=again)

    async def _renew(self, *, again: bool) -> None:
        """Serve the published version, if it is another one."""
        current = self._data.index / CURRENT
        stamp = await self._aside(_published, current)
        began = time.monotonic()
        fresh = self._serving is None or stamp != self._current
        waits = stamp == self._refused and began < self._retry_at  # another one is tried at once
        if not again and (waits or not (fresh or "index" in self._failures)):
            return
        embedder = self._serving.attributor.embedder if self._serving else None
        opened: Attributor | None = None
        try:
            opened = await self._aside(self._open, embedder)
            async with self._changing:
                # It may have been opened before the last takedown.
                seen, masked = await self._aside(self._mask, opened)
                self._failures.clear()
                self._current, self._seen[self._data.takedowns] = stamp, seen
                self._serve(masked)
        except LoadError as error:
            # A log that keeps the version that is served already from being opened again is looked
            # at by `_hide`, which also knows when it is mended.
            mine = fresh or not isinstance(error, TakedownError)
            self._fail("index" if mine else "takedowns", error)
            now = time.monotonic()
            self._refused = stamp
            self._retry_at = now + max(RETRY_SECONDS, 4 * (now - began))
        if opened and not (self._serving and self._serving.attributor is opened):
            opened.snapshot.close()  # another one, masked, is served instead, or the old one

    async def _hide(self, *, again: bool = False) -> None:
        """Let what is served follow the log of takedowns."""
        log = self._data.takedowns
        async with self._changing:
            stamp = await self._aside(FileStamp.of, log)
            serving = self._serving
            failed = "takedowns" in self._failures
            if serving is None or not (again or failed or stamp != self._seen.get(log)):
                return
            try:
                seen, masked = await self._aside(self._mask, serving.attributor)
            except SnapshotError as error:
                # The version's files are gone and its catalog cannot be masked any more.
                self._fail("index", error)
                self._failures.pop("takedowns", None)
                self._serving = None
                self._metrics.index_lost()
                serving.retire()
            except LoadError as error:
                self._fail("takedowns", error)
            else:
                self._failures.pop("takedowns", None)
                self._seen[log] = seen
                self._serve(masked)

    def _fail(self, what: str, error: WhenceError) -> None:
        self._metrics.reload_failed()
        if str(error) != str(self._failures.get(what)):
            state = "the server goes on as it was" if self._serving else "not ready"
            logger.warning("%s: %s", state, error)
        self._failures[what] = error

    def _serve(self, attributor: Attributor) -> None:
        """Answer from it, from the next request on."""
        old = self._serving
        if old and old.attributor is attributor:
            return
        self._serving = _Serving(attributor)
        if old:
            old.retire()
        self._tell_serving(attributor)
        snapshot = attributor.snapshot
        logger.info(
            "serving index %s, model %s, %d exemplars taken down",
            snapshot.version,
            snapshot.model_id,
            len(snapshot.hidden),
        )

    def _tell_serving(self, attributor: Attributor) -> None:
        snapshot, hidden = attributor.snapshot, len(attributor.snapshot.hidden)
        self._metrics.swapped(
            snapshot.version, snapshot.model_id, snapshot.manifest.exemplars - hidden, hidden
        )

    def _open(self, embedder: ImageEmbedder | None) -> Attributor:
        attributor = self._load(self._settings, embedder)
        try:
            attributor.warm()
        except VectorStoreUnavailableError:
            raise
        except Exception as error:
            raise SnapshotError(
                f"the index version {attributor.snapshot.version} cannot answer a first query "
                f"({type(error).__name__}: {error}); run `whence verify`"
            ) from error
        return attributor

    def _mask(self, attributor: Attributor) -> tuple[FileStamp, Attributor]:
        """It without what the log names, and which state of the log that was at least."""
        seen = FileStamp.of(self._data.takedowns)
        return seen, attributor.masked(TakedownLog(self._data.takedowns).read())
