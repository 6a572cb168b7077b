"""The service: holds the pipeline, the served index and its watchers while the server runs."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

import anyio
import anyio.to_thread
from starlette.requests import Request

from app.auth.security import caller_of
from app.errors import ReloadError
from app.inference.deadline import Deadline
from app.inference.permit import Permit
from app.inference.pipeline import Pipeline
from app.inference.watchdog import Watchdog
from app.rebuilding import Rebuilds, rebuild_command
from app.reports.kept import MAX_BYTES, AnswerStore
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.watchers import PublicationWatcher, ServedIndex, TakedownWatcher, repeat
from index.answering.attribution import Attributor
from index.building.embedding import ImageEmbedder
from index.errors import SnapshotError, TakedownError, VectorStoreUnavailableError
from index.snapshot import Snapshot
from index.takedowns.copies import Copy, look_for_copies, withdraw_copies
from index.takedowns.in_force import Hidden, Takedowns, hidden_by
from index.takedowns.records import Takedown
from index.takedowns.samples import Samples
from index.takedowns.withdrawal import hidden_in_published, withdraw
from model.errors import ModelError


@dataclass(frozen=True)
class FoundCopy:
    """A copy that an embedding found, and the id of its takedown, if it was withdrawn."""

    copy: Copy
    takedown: str | None


THREADS = 16  # for takedowns

logger = logging.getLogger(__name__)


class Service:
    """Grants permits to requests, and performs reloads and takedowns; an async context manager.

    Args:
        settings: the limits, and the data folder to watch.
        load: opens the published index, given the embedder in use, or raises one of
            `app.watchers.LoadError`.
        attributor: answers every query in place of the published index; takedowns apply to it.
        metrics: of the server.
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
        self.samples = Samples(self._data)
        options = settings.rebuild_options
        self.rebuilds = Rebuilds(rebuild_command(options, settings.data) if options else None)
        self.answers = AnswerStore(settings.answer_seconds, MAX_BYTES)
        self.watchdog = Watchdog(self.pipeline, settings.watchdog_seconds)
        self._takedowns = TakedownWatcher(self.served, self._data, metrics)
        self._publications: PublicationWatcher | None = None
        if attributor is None:
            self._publications = PublicationWatcher(
                self.served, self._data, metrics, self._open, self._takedowns
            )
        stall = settings.stall_seconds
        metrics.watch_health(self._is_ready, lambda: self.watchdog.passes(stall))
        self._threads = anyio.CapacityLimiter(THREADS)  # slow reads may occupy all of FastAPI's
        self._polling: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Service":
        """Load the published index, if any, and start the watchers."""
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
        """Stop the watchers, answer the accepted images and close the index."""
        for task in self._polling:
            task.cancel()
        if self._polling:
            await asyncio.wait(self._polling)
        await self.rebuilds.close()
        await self.pipeline.close()
        self.served.close()

    @property
    def reload_error(self) -> str | None:
        """Return the reason why the last publication or takedown is not in effect, or None."""
        errors = [watcher.error for watcher in (self._publications, self._takedowns) if watcher]
        if self.served.attributor is None:
            errors.append(self.served.error)
        return "; ".join(dict.fromkeys(str(error) for error in errors if error)) or None

    @property
    def takedowns(self) -> Takedowns:
        """Return the takedowns in force in this server."""
        return self._takedowns.in_force or Takedowns()

    def permit(self, request: Request, *, images: int = 1, explain: bool = False) -> Permit:
        """Return a permit: places in the queue, a lease of the served index, and a deadline.

        The request's body has been read. An exemplar to explain costs about as much as a query, so
        each takes a place. The requests of one caller take at most half of the queue, or the
        places of one image; other images of a request wait.

        Raises:
            QueueFullError: there are not enough places.
            SnapshotError, ModelError, TakedownError: see `ServedIndex.lease`.
        """
        queue = self.pipeline.queue
        explained = self._settings.max_explained if explain else 0
        places = min(1 + explained, queue.capacity)
        caller = caller_of(request.scope)
        at_once = queue.share(images, places, caller)
        with ExitStack() as resources:
            resources.enter_context(queue.hold(at_once * places, caller))
            attributor = resources.enter_context(self.served.lease())
            deadline = Deadline(self._settings.deadline_seconds)
            return Permit(request, attributor, deadline, at_once, caller, resources.pop_all())

    async def reload(self) -> tuple[str | None, str]:
        """Load the published version, even if it seems to be served already.

        Returns:
            The versions served before and now.

        Raises:
            ReloadError: it cannot be served; the server keeps the version it had.
        """
        before = self.served.version
        if self._publications:
            await self._publications.poll(force=True)
        await self._takedowns.poll(force=True)
        after = self.served.version
        if self.reload_error or after is None:
            state = f"goes on with version {before}" if after else "has no index"
            raise ReloadError(f"the server {state}: {self.reload_error}")
        return before, after

    async def take_down(
        self,
        kind: Literal["concept", "exemplar"],
        target: str,
        *,
        reason: str,
        copies: bool = False,
    ) -> tuple[Takedown, list[Hidden], list[FoundCopy]]:
        """Record a takedown, and hide its exemplars from every request that begins afterwards.

        This works while the vector store is unavailable, since it needs only the data folder.

        Args:
            kind: kind of the target.
            target: its id; of a concept also its name.
            reason: recorded in the log.
            copies: withdraw possible copies, too, and not only certain ones.

        Returns:
            The takedown, the exemplars that it hides, and the copies that embeddings found.

        Raises:
            SnapshotError, ModelError: see `ServedIndex.lease`.
            NotFoundError: no index version has such a concept or exemplar.
            TakedownError: it cannot be recorded, or it is recorded but not in force yet.
        """
        waits = isinstance(self.served.error, VectorStoreUnavailableError)
        lease = nullcontext() if waits and not self.served.attributor else self.served.lease()
        with lease as attributor:
            served = attributor.snapshot if attributor else None
            takedown = await anyio.to_thread.run_sync(
                lambda: withdraw(
                    self._data, kind, target, reason=reason, served=served, log=self._takedowns.log
                ),
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
        return takedown, hidden, await self._withdraw_copies(takedown, possible=copies)

    async def _withdraw_copies(self, takedown: Takedown, *, possible: bool) -> list[FoundCopy]:
        """Look for copies of a work that was taken down, and withdraw them if they are certain."""
        try:
            with self.served.lease() as attributor:
                found = await anyio.to_thread.run_sync(
                    self._record_copies, takedown, attributor, possible, limiter=self._threads
                )
        except (SnapshotError, ModelError, TakedownError) as error:  # the takedown is in force
            logger.warning("copies of takedown %s were not looked for: %s", takedown.id, error)
            return []
        if any(one.takedown for one in found):
            await self._takedowns.poll(force=True)
        return found

    def _record_copies(
        self, takedown: Takedown, attributor: Attributor, possible: bool
    ) -> list[FoundCopy]:
        found = []
        snapshot = attributor.snapshot
        for copy in look_for_copies(self._data, attributor, [takedown], self.takedowns):
            own = None
            if copy.certain or possible:
                [own] = withdraw_copies(
                    self._takedowns.log, snapshot, [copy], f"{takedown.reason}, {takedown.id}"
                )
            found.append(FoundCopy(copy, own.id if own else None))
        return found

    def _list_hidden(self, takedown: Takedown, served: Snapshot | None) -> list[Hidden]:
        if served:  # the snapshot from before the takedown
            return hidden_by(takedown, served.catalog, served.fingerprint_index)
        try:
            [hidden] = hidden_in_published(self._data.index, [takedown])
        except SnapshotError as error:  # not raised, since the takedown is recorded
            logger.warning("the exemplars of takedown %s cannot be listed: %s", takedown.id, error)
            return []
        return hidden

    def _is_ready(self) -> bool:
        settings = self._settings
        seconds = min(settings.deadline_seconds, settings.stall_seconds)
        return self.served.attributor is not None and self.watchdog.passes(seconds)

    async def _watch_embedding(self) -> None:
        """Let the watchdog embed its test image, if it is time."""
        if self.served.attributor:
            with self.served.lease() as attributor:
                await self.watchdog.poll(attributor)

    def _open(self, before: Attributor | None) -> Attributor:
        """Open the published index, and warm it up by a first query."""
        attributor = self._load(self._settings, before.embedder if before else None)
        with ExitStack() as on_error:
            on_error.callback(attributor.snapshot.close)
            try:
                attributor.warm()
            except VectorStoreUnavailableError:
                raise
            except Exception as error:
                raise SnapshotError(
                    f"the index version {attributor.snapshot.version} cannot answer a first query "
                    f"({type(error).__name__}: {error}); run `whence verify`"
                ) from error
            on_error.pop_all()
        return attributor
