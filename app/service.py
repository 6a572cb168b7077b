"""What lives as long as the server: the pipeline, the index that is served, and its watchers."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from types import TracebackType
from typing import Literal

import anyio
import anyio.to_thread
from starlette.requests import Request

from app.errors import ReloadError
from app.inference.deadline import Deadline
from app.inference.permit import Permit
from app.inference.pipeline import Pipeline
from app.inference.watchdog import Watchdog
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.watchers import PublicationWatcher, ServedIndex, TakedownWatcher, repeat
from index.answering.attribution import Attributor
from index.building.embedding import ImageEmbedder
from index.errors import SnapshotError, TakedownError, VectorStoreUnavailableError
from index.snapshot import Snapshot
from index.takedowns.in_force import Hidden, hidden_by
from index.takedowns.records import Takedown
from index.takedowns.withdrawal import hidden_in_published, withdraw

THREADS = 16  # for takedowns

logger = logging.getLogger(__name__)


class Service:
    """Grants permits to requests, and carries out reloads and takedowns; an async context manager.

    Args:
        settings: the limits, and the data folder to watch.
        load: opens the published index, given the embedder that is loaded already, or raises one of
            `app.watchers.LoadError`.
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
        self._data = settings.folder
        self._load = load
        self.served = ServedIndex(metrics, attributor)
        self.pipeline = Pipeline(settings, metrics)
        self.watchdog = Watchdog(self.pipeline, settings.watchdog_seconds)
        self._takedowns = TakedownWatcher(self.served, self._data, metrics)
        self._publications: PublicationWatcher | None = None
        if attributor is None:
            self._publications = PublicationWatcher(
                self.served, self._data, metrics, self._open, self._takedowns
            )
        stall = settings.stall_seconds
        metrics.watch_health(self._is_ready, lambda: self.watchdog.passes(stall))
        self._threads = anyio.CapacityLimiter(THREADS)  # FastAPI's may all be held by slow reads
        self._polling: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Service":
        """Load the index if there is one; a server without one still starts."""
        self.pipeline.start()
        polls = [self._takedowns.poll, self._watch_embedding]
        if self._publications:
            polls.append(self._publications.poll)
            await self._publications.poll()
        await self._takedowns.poll()
        self._polling = [asyncio.create_task(repeat(poll)) for poll in polls]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Answer the images that were taken."""
        for task in self._polling:
            task.cancel()
        if self._polling:
            await asyncio.wait(self._polling)
        await self.pipeline.close()
        self.served.close()

    @property
    def reload_error(self) -> str | None:
        """Why the last publication or takedown is not in effect; None when it is."""
        errors = [watcher.error for watcher in (self._publications, self._takedowns) if watcher]
        if self.served.attributor is None:
            errors.append(self.served.error)
        return "; ".join(dict.fromkeys(str(error) for error in errors if error)) or None

    def permit(self, request: Request, *, images: int = 1, explain: bool = False) -> Permit:
        """Take places for a request whose body is here, the index of the moment, and a deadline.

        An exemplar to explain costs about as much as a query, and so takes a place. No request
        takes more than half of the queue, unless a single image does: its other images wait.

        Raises:
            QueueFullError: there are not enough places.
            SnapshotError, ModelError, TakedownError: see `ServedIndex.lease`.
        """
        queue = self.pipeline.queue
        explained = self._settings.max_explained if explain else 0
        places = min(1 + explained, queue.capacity)
        at_once = min(images, max(1, queue.capacity // 2 // places))
        with ExitStack() as held:
            held.enter_context(queue.hold(at_once * places))
            attributor = held.enter_context(self.served.lease())
            deadline = Deadline(self._settings.deadline_seconds)
            return Permit(request, attributor, deadline, at_once, held.pop_all())

    async def reload(self) -> tuple[str | None, str]:
        """Load what is published, even if it seems to be served already.

        Returns:
            The versions served before and now.

        Raises:
            ReloadError: it cannot be served; what was served before still is.
        """
        before = self.served.version
        if self._publications:
            await self._publications.poll(again=True)
        await self._takedowns.poll(again=True)
        after = self.served.version
        if self.reload_error or after is None:
            goes_on = f"goes on with version {before}" if after else "has no index"
            raise ReloadError(f"the server {goes_on}: {self.reload_error}")
        return before, after

    async def take_down(
        self, kind: Literal["concept", "exemplar"], target: str, *, reason: str
    ) -> tuple[Takedown, list[Hidden]]:
        """Record a takedown; no request that begins after this returns sees what it names.

        A server that waits for its vectors records it as well: that needs only the data folder.

        Returns:
            The takedown, and what it hides.

        Raises:
            SnapshotError, ModelError: see `ServedIndex.lease`.
            NotFoundError: no index version has such a concept or exemplar.
            TakedownError: it cannot be recorded, or is recorded and not in force yet.
        """
        waits = isinstance(self.served.error, VectorStoreUnavailableError)
        lease = nullcontext() if waits and not self.served.attributor else self.served.lease()
        with lease as attributor:
            served = attributor.snapshot if attributor else None
            takedown = await anyio.to_thread.run_sync(
                lambda: withdraw(self._data, kind, target, reason=reason, served=served),
                limiter=self._threads,
            )
            self._metrics.taken_down(kind)
            logger.info("recorded takedown %s of %s %r", takedown.id, kind, target)
            await self._takedowns.poll()
            if error := self._takedowns.error:
                raise TakedownError(
                    f"the takedown {takedown.id} is recorded but not in force in this server, "
                    f"which goes on trying: {error}"
                )
            hidden = await anyio.to_thread.run_sync(
                self._list_hidden, takedown, served, limiter=self._threads
            )
            return takedown, hidden

    def _list_hidden(self, takedown: Takedown, served: Snapshot | None) -> list[Hidden]:
        if served:  # as it was before
            return hidden_by(takedown, served.catalog, served.pictures)
        try:
            [hidden] = hidden_in_published(self._data.index, [takedown])
        except SnapshotError as error:  # it is recorded: that must not seem to have failed
            logger.warning("what takedown %s hides cannot be listed: %s", takedown.id, error)
            return []
        return hidden

    def _is_ready(self) -> bool:
        settings = self._settings
        seconds = min(settings.deadline_seconds, settings.stall_seconds)
        return self.served.attributor is not None and self.watchdog.passes(seconds)

    async def _watch_embedding(self) -> None:
        """Have an image embedded now and then, to know that it can be."""
        if self.served.attributor:
            with self.served.lease() as attributor:
                await self.watchdog.poll(attributor)

    def _open(self, before: Attributor | None) -> Attributor:
        """Open the published index, and have it answer a first query."""
        attributor = self._load(self._settings, before.embedder if before else None)
        with ExitStack() as if_it_fails:
            if_it_fails.callback(attributor.snapshot.close)
            try:
                attributor.warm()
            except VectorStoreUnavailableError:
                raise
            except Exception as error:
                raise SnapshotError(
                    f"the index version {attributor.snapshot.version} cannot answer a first query "
                    f"({type(error).__name__}: {error}); run `whence verify`"
                ) from error
            if_it_fails.pop_all()
        return attributor
