"""What lives as long as the server: the loaded index and model, and the one thread that embeds."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import anyio.to_thread
from PIL import Image

from app.errors import StalledError
from app.settings import Settings
from index.attribution import Attribution, Attributor
from index.errors import SnapshotError
from model.errors import ModelError
from model.images import decode_image, read_image

PIPELINE = 4  # decoded images held at once: one is embedded, the next ones are made ready
RETRY_SECONDS = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """Seconds spent on each step."""

    decode: float
    queue: float
    embed: float
    search: float
    total: float


@dataclass(frozen=True)
class Answer:
    """An attribution and how it came about."""

    attribution: Attribution
    image_sha256: str
    created_at: datetime
    timing: Timing


class Service:
    """Answers uploads with the attributor of the moment; an async context manager.

    Embedding and search run on one thread, where torch and faiss have all cores to themselves.

    Args:
        settings: the limits.
        load: gives the attributor, or raises `SnapshotError` or `ModelError` while it cannot; then
            it is tried again when one is asked for, at most every second and never more than a
            fifth of the time.
    """

    def __init__(self, settings: Settings, load: Callable[[], Attributor]) -> None:
        self._settings = settings
        self._load = load
        self._attributor: Attributor | None = None
        self._failure: SnapshotError | ModelError | None = None
        self._retry_at = 0.0
        self._loading = asyncio.Lock()
        self._pipeline = asyncio.Semaphore(PIPELINE)
        self._inference = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")
        self._embedding_since: float | None = None

    async def __aenter__(self) -> "Service":
        """Load the index if there is one; a server without one still starts."""
        try:
            await self.attributor()
        except (SnapshotError, ModelError) as error:
            logger.warning("not ready: %s", error)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the work in hand end."""
        await anyio.to_thread.run_sync(self._inference.shutdown)

    async def attributor(self) -> Attributor:
        """The loaded attributor. Take it once a request, so that an answer has one index version.

        Raises:
            SnapshotError: there is no index yet, or it is damaged.
            ModelError: the index's model is missing or damaged.
        """
        async with self._loading:
            if self._attributor is None:
                await self._try_to_load()
            if self._attributor is None:
                assert self._failure is not None
                raise self._failure.with_traceback(None)  # it is raised many times
            return self._attributor

    async def attribute(
        self, attributor: Attributor, data: bytes, *, top_k: int, exemplars: int
    ) -> Answer:
        """Answer one uploaded image.

        Raises:
            ImageError: it cannot be decoded, or is outside the limits.
        """
        arrived = time.perf_counter()
        async with self._pipeline:
            admitted = time.perf_counter()
            image = await anyio.to_thread.run_sync(decode_image, data, self._settings.image_limits)
            decoded = time.perf_counter()
            attribution, began, embedded, found = await asyncio.get_running_loop().run_in_executor(
                self._inference, self._infer, attributor, image.pixels, top_k, exemplars
            )
        timing = Timing(
            decode=decoded - admitted,
            queue=(admitted - arrived) + (began - decoded),
            embed=embedded - began,
            search=found - embedded,
            total=time.perf_counter() - arrived,
        )
        return Answer(attribution, image.sha256, datetime.now(UTC), timing)

    def check_responsive(self) -> None:
        """Notice an embedding that never ends.

        Raises:
            StalledError: the one that runs has taken longer than the settings allow.
        """
        since = self._embedding_since
        seconds = 0.0 if since is None else time.perf_counter() - since
        if seconds > self._settings.stall_seconds:
            raise StalledError(
                f"an image has been embedding for {seconds:.0f} seconds; restart the server"
            )

    async def _try_to_load(self) -> None:
        began = time.monotonic()
        if began < self._retry_at:
            return
        try:
            self._attributor = await anyio.to_thread.run_sync(self._load)
        except (SnapshotError, ModelError) as error:
            self._failure = error
            now = time.monotonic()
            self._retry_at = now + max(RETRY_SECONDS, 4 * (now - began))
        else:
            snapshot = self._attributor.snapshot
            logger.info("ready: index %s, model %s", snapshot.version, snapshot.model_id)

    def _infer(
        self, attributor: Attributor, image: Image.Image, top_k: int, exemplars: int
    ) -> tuple[Attribution, float, float, float]:
        self._embedding_since = time.perf_counter()
        try:
            return infer(attributor, image, top_k=top_k, exemplars=exemplars)
        finally:
            self._embedding_since = None


def infer(
    attributor: Attributor, image: Image.Image, *, top_k: int, exemplars: int
) -> tuple[Attribution, float, float, float]:
    """The attribution, and when embedding began and ended and the search ended."""
    began = time.perf_counter()
    queries = attributor.embedder.embed([image])
    embedded = time.perf_counter()
    [attribution] = attributor.rank(queries, top_k=top_k, exemplars=exemplars)
    return attribution, began, embedded, time.perf_counter()


def answer_file(attributor: Attributor, path: Path, *, top_k: int, exemplars: int) -> Answer:
    """Answer one image file in this thread, without a server.

    Raises:
        ImageError: it cannot be read or decoded.
    """
    arrived = time.perf_counter()
    image = read_image(path)
    attribution, began, embedded, found = infer(
        attributor, image.pixels, top_k=top_k, exemplars=exemplars
    )
    timing = Timing(
        decode=began - arrived,
        queue=0.0,
        embed=embedded - began,
        search=found - embedded,
        total=found - arrived,
    )
    return Answer(attribution, image.sha256, datetime.now(UTC), timing)
