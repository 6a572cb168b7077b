"""From uploaded bytes to an answer: decode on several threads, embed on one, search beside it."""

import asyncio
import io
import logging
import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import anyio.to_thread
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from app.errors import QueueFullError, StalledError
from app.inference.batching import Batcher
from app.inference.deadline import Patience
from app.inference.heatmaps import HeatmapPair, HeatmapStore
from app.settings import Settings
from app.telemetry.metrics import STAGES, Metrics
from app.telemetry.tracing import record_stage
from index.answering.attribution import Attribution, Attributor
from index.answering.explanation import Explanation, explain_answer
from index.building.embedding import ImageEmbedder
from index.errors import SnapshotError, VectorStoreUnavailableError
from model.config import Facet
from model.embedder import choose_device
from model.errors import ModelError
from model.explain import Patches
from model.images import decode_image, read_image

CPU_BATCH = 8  # images in one forward pass, where more gain nothing
DEVICE_BATCH = 64
BATCHES = 4  # that are taken at once
PROBE_SIDE = 256  # pixels of the picture that the watchdog has embedded

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """Seconds spent on each step."""

    decode: float
    queue: float
    embed: float
    search: float
    explain: float
    total: float


@dataclass(frozen=True)
class Answer:
    """An attribution and how it came about."""

    attribution: Attribution
    image_sha256: str
    created_at: datetime
    timing: Timing
    heatmaps: Mapping[str, HeatmapPair] = field(default_factory=dict)  # by exemplar id


@dataclass(frozen=True)
class Query:
    """A decoded image and what is asked about it."""

    attributor: Attributor
    pixels: torch.Tensor  # as the embedder's `preprocess` gives them
    size: tuple[int, int]  # width and height of the upright picture
    top_k: int
    exemplars: int
    explain: int = 0  # exemplars to explain, at most


@dataclass(frozen=True)
class Embedded:
    """A query whose image is embedded; seconds of `time.perf_counter`."""

    query: Query
    vectors: dict[Facet, NDArray[np.float32]]  # (1, D) of each facet, of unit norm
    patches: Patches | None  # where that is to be explained
    began: float
    ended: float


@dataclass(frozen=True)
class Inference:
    """What the inference threads made of one image, and when: seconds of `time.perf_counter`."""

    attribution: Attribution
    explanations: Mapping[str, Explanation]  # by exemplar id
    began: float
    embedded: float
    found: float
    explained: float


@dataclass(frozen=True)
class _Prepared:
    pixels: torch.Tensor
    size: tuple[int, int]
    sha256: str
    began: float
    ended: float


@cache
def probe_image() -> bytes:
    """An encoded picture of noise, for the watchdog."""
    file = io.BytesIO()
    Image.effect_noise((PROBE_SIDE, PROBE_SIDE), 64).convert("RGB").save(file, "PNG")
    return file.getvalue()


class Pipeline:
    """Takes a bounded number of images and answers them all.

    Decoding and preprocessing run on a few threads. Batches are embedded one after the other, where
    torch has the cores or the device to itself; one is searched for while the next is embedded.

    Args:
        settings: the limits.
        metrics: told of every step.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        metrics.watch_queue(lambda: self._held)
        self.heatmaps = HeatmapStore(settings.heatmap_seconds, settings.heatmap_bytes)
        self._held = 0  # places taken: images not answered yet, and exemplars to explain
        self._seconds = 0.0  # one place takes, lately
        self._probed: float | None = None  # when the probe in hand was sent
        self._failed: str | None = None  # how the last embedding ended, if badly
        self._answered_at = time.monotonic()
        self._decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
        batch = settings.max_batch or default_batch(settings.device)
        # One is decoded, one waits for a burst to pass, one is embedded and one searched for.
        self._capacity = settings.max_queue or BATCHES * batch
        self._batcher = Batcher(
            begin=self._embed,
            finish=self._find,
            size=batch,
            wait=settings.batch_wait_ms / 1000,
            # Waited for in vain once a batch, not once an image.
            blameless=(VectorStoreUnavailableError,),
        )

    def start(self) -> None:
        """Start the inference threads."""
        self._batcher.start()

    async def close(self) -> None:
        """Answer what was taken, then end the threads."""
        await anyio.to_thread.run_sync(self._batcher.close, self._settings.deadline_seconds)
        self._decoders.shutdown(wait=False)

    @property
    def held(self) -> int:
        """Places taken."""
        return self._held

    def share(self, images: int, *, explain: bool) -> tuple[int, int]:
        """How many of a request's images are worked on at once, and the places these take.

        To explain an exemplar costs about as much as a query. No request takes more than half of
        the queue, unless a single image does, so that those of several get in beside others.
        """
        each = min(1 + (self._settings.max_explained if explain else 0), self._capacity)
        at_once = min(images, max(1, self._capacity // 2 // each))
        return at_once, at_once * each

    @contextmanager
    def admitted(self, places: int = 1) -> Iterator[None]:
        """Hold places.

        Raises:
            QueueFullError: there are not enough.
        """
        self.check_room(places)
        self._held += places
        try:
            yield
        finally:
            self._held -= places

    def check_room(self, places: int = 1) -> None:
        """Refuse early what would be refused later.

        Raises:
            QueueFullError: there are not enough places.
        """
        most = self._capacity
        if self._held + places > most:
            seconds = math.ceil(max(1.0, self._held * self._seconds))
            raise QueueFullError(
                f"of the queue's {most} places {self._held} are taken and this needs {places}; try "
                f"again in {seconds} seconds",
                retry_after=seconds,
            )

    async def attribute(
        self,
        attributor: Attributor,
        data: bytes,
        *,
        top_k: int,
        exemplars: int,
        patience: Patience,
        explain: bool = False,
    ) -> Answer:
        """Answer one uploaded image that was `admitted`; ``explain`` keeps `heatmaps` of it.

        Raises:
            ImageError: it cannot be decoded, or is outside the limits.
            ClientGoneError: the connection was closed.
            DeadlineError: the deadline has passed.
            VectorStoreUnavailableError: the index's vectors cannot be reached now.
        """
        arrived = time.perf_counter()
        with self._batcher.expected():
            image = await self._prepared(data, attributor.embedder, patience)
        most = self._settings.max_explained if explain else 0
        query = Query(attributor, image.pixels, image.size, top_k, exemplars, most)
        made = await self._batcher.submit(query, patience)
        heatmaps: Mapping[str, HeatmapPair] = {}
        drawn = time.perf_counter()
        if made.explanations:
            heatmaps = await anyio.to_thread.run_sync(self.heatmaps.put_all, made.explanations)
        ended = time.perf_counter()
        timing = Timing(
            decode=image.ended - image.began,
            queue=(image.began - arrived) + (made.began - image.ended),
            embed=made.embedded - made.began,
            search=made.found - made.embedded,
            explain=(made.explained - made.found) + (ended - drawn) if explain else 0.0,
            total=ended - arrived,
        )
        self._metrics.verdict(made.attribution.verdict)
        for stage in STAGES:
            if explain or stage != "explain":
                self._metrics.stage(stage, getattr(timing, stage))
        record_stage("queue", arrived, image.began)
        record_stage("decode", image.began, image.ended)
        record_stage("queue", image.ended, made.began)
        record_stage("embed", made.began, made.embedded)
        record_stage("search", made.embedded, made.found)
        if explain:
            record_stage("explain", made.found, ended)
        return Answer(made.attribution, image.sha256, datetime.now(UTC), timing, heatmaps)

    async def probe(self, attributor: Attributor) -> None:
        """Embed and search for an image of no interest, unless a real one was answered lately.

        What `check_responsive` says rests on it while there are no requests.
        """
        every = self._settings.watchdog_seconds
        if self._probed is not None or time.monotonic() - self._answered_at < every:
            return
        self._probed = time.monotonic()
        try:
            forever = Patience(math.inf)
            image = await self._prepared(probe_image(), attributor.embedder, forever)
            query = Query(attributor, image.pixels, image.size, top_k=1, exemplars=0)
            await self._batcher.submit(query, forever)
        except SnapshotError:
            pass  # it was embedded; that there is nothing to search now is said by /health/ready
        except Exception as error:
            # One odd image must not bring the server down, so only what is known to be good counts.
            logger.exception("the watchdog's image cannot be embedded")
            self._failed = type(error).__name__
        finally:
            self._probed = None

    def check_responsive(self, patience: float) -> None:
        """Notice images that are never decoded or embedded, or that all fail.

        Args:
            patience: seconds that one may take.

        Raises:
            StalledError: it has taken longer.
        """
        began = [since for since in (self._batcher.busy_since, self._probed) if since is not None]
        seconds = time.monotonic() - min(began) if began else 0.0
        if seconds > patience:
            raise StalledError(
                f"an image has been embedding for {seconds:.0f} seconds; if that goes on, restart "
                "the server"
            )
        if self._failed:
            raise StalledError(
                f"every embedding fails ({self._failed}; the log tells more); restart the server"
            )

    async def _prepared(
        self, data: bytes, embedder: ImageEmbedder, patience: Patience
    ) -> _Prepared:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._decoders, self._prepare, data, embedder, patience)

    def _prepare(self, data: bytes, embedder: ImageEmbedder, patience: Patience) -> _Prepared:
        """On a decoding thread."""
        patience.check()
        began = time.perf_counter()
        image = decode_image(data, self._settings.image_limits, enough=embedder.enough)
        pixels = embedder.preprocess(image.pixels)
        return _Prepared(pixels, image.pixels.size, image.sha256, began, time.perf_counter())

    def _embed(self, queries: list[Query]) -> list[Embedded]:
        """On an inference thread, for one batch at a time."""
        embedded = embed(queries)
        self._metrics.batch(len(queries))
        self._alive()
        return embedded

    def _find(self, embedded: list[Embedded]) -> list[Inference]:
        """On an inference thread, while another batch may be embedded."""
        found = find(embedded, alone=self._batcher.turn)
        places = sum(1 + one.query.explain for one in embedded)
        latest = (time.perf_counter() - embedded[0].began) / places
        self._seconds += (latest - self._seconds) / 8 if self._seconds else latest
        return found

    def _alive(self) -> None:
        self._failed = None
        self._answered_at = time.monotonic()


def default_batch(device: str) -> int:
    """Images to embed at once on a device as `choose_device` knows it."""
    try:
        return CPU_BATCH if choose_device(device).type == "cpu" else DEVICE_BATCH
    except ModelError:  # said again, as the reason for not being ready, when the model is loaded
        return CPU_BATCH


def embed(queries: Sequence[Query]) -> list[Embedded]:
    """Embed a batch: one forward pass for all that share an embedder and the wish to explain."""
    made: dict[int, Embedded] = {}
    for places in _alike(queries, lambda q: (id(q.attributor.embedder), q.explain > 0)):
        together = [queries[i] for i in places]
        embedder = together[0].attributor.embedder
        pixels = [query.pixels for query in together]
        patches: Sequence[Patches | None] = [None] * len(places)
        began = time.perf_counter()
        if together[0].explain:
            embeddings, patches = embedder.embed_with_patches(pixels)
        else:
            embeddings = embedder.embed_pixels(pixels)
        ended = time.perf_counter()
        for number, place in enumerate(places):
            vectors = {facet: matrix[number : number + 1] for facet, matrix in embeddings.items()}
            made[place] = Embedded(queries[place], vectors, patches[number], began, ended)
    return [made[i] for i in range(len(queries))]


def find(
    batch: Sequence[Embedded], alone: Callable[[], AbstractContextManager[None]] = nullcontext
) -> list[Inference]:
    """Search for a batch, and explain the answers of which that is asked.

    One search for all that ask the same of the same index: another `top_k` searches to another
    depth, so an answer does not depend on what else is in its batch.

    Args:
        batch: what `embed` gave.
        alone: entered while an answer is explained, which takes forward passes.
    """
    made: dict[int, Inference] = {}
    queries = [one.query for one in batch]
    for places in _alike(queries, lambda q: (id(q.attributor), q.top_k, q.exemplars)):
        together = [batch[i] for i in places]
        first = together[0].query
        attributions = first.attributor.rank(
            {
                facet: np.concatenate([one.vectors[facet] for one in together])
                for facet in together[0].vectors
            },
            top_k=first.top_k,
            exemplars=first.exemplars,
        )
        found = time.perf_counter()
        for place, one, attribution in zip(places, together, attributions, strict=True):
            explanations: Mapping[str, Explanation] = {}
            if one.patches is not None:
                with alone():
                    explanations = explain_answer(
                        first.attributor,
                        attribution,
                        one.patches,
                        {facet: matrix[0] for facet, matrix in one.vectors.items()},
                        one.query.size,
                        most=one.query.explain,
                    )
            made[place] = Inference(
                attribution, explanations, one.began, one.ended, found, time.perf_counter()
            )
    return [made[i] for i in range(len(batch))]


def _alike(queries: Sequence[Query], key: Callable[[Query], Hashable]) -> list[list[int]]:
    """The places of the queries, together where their keys are equal."""
    groups: dict[Hashable, list[int]] = {}
    for place, query in enumerate(queries):
        groups.setdefault(key(query), []).append(place)
    return list(groups.values())


def answer_file(attributor: Attributor, path: Path, *, top_k: int, exemplars: int) -> Answer:
    """Answer one image file in this thread, without a server.

    Raises:
        ImageError: it cannot be read or decoded.
    """
    arrived = time.perf_counter()
    image = read_image(path, enough=attributor.embedder.enough)
    pixels = attributor.embedder.preprocess(image.pixels)
    [made] = find(embed([Query(attributor, pixels, image.pixels.size, top_k, exemplars)]))
    timing = Timing(
        decode=made.began - arrived,
        queue=0.0,
        embed=made.embedded - made.began,
        search=made.found - made.embedded,
        explain=0.0,
        total=made.found - arrived,
    )
    return Answer(made.attribution, image.sha256, datetime.now(UTC), timing)
