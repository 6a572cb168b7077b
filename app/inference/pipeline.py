"""The inference pipeline: decodes uploads in other processes, and answers them in batches."""

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

import anyio.to_thread

from app.inference.batching import Batcher
from app.inference.heatmaps import HeatmapStore
from app.inference.job import ImageJob, embed, search
from app.inference.permit import Permit, Queue
from app.inference.together import CONTROL, GROUP, GroupJob, of_image
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.telemetry.tracing import record_stage
from index.errors import VectorStoreUnavailableError
from model.decoding.processes import decoders
from model.embedder import choose_device
from model.errors import DecodersUnavailableError, ImageError, ModelError
from model.images import decode_image
from model.regions import Region
from whence_client.models import AttributeParameters, ListParameters

CPU_BATCH = 8  # images in one forward pass; larger ones are not faster on a CPU
DEVICE_BATCH = 64
LONGEST_WAIT = 0.4  # seconds in a full queue; see `Queue.places`
BATCHES = 5  # in the queue: one in decoding, in embedding and in the search, and two of a burst

logger = logging.getLogger(__name__)


class Pipeline:
    """Answers query images: decodes each in another process, then embeds and searches in batches.

    Args:
        settings: the limits.
        metrics: record every step.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        batch = settings.max_batch or default_batch(settings.device)
        self.queue = Queue(settings.max_queue or BATCHES * batch)
        if not settings.max_queue:
            self.queue.longest_wait = LONGEST_WAIT
        metrics.watch_queue(lambda: self.queue.taken)
        self.heatmaps = HeatmapStore(settings.heatmap_seconds, settings.heatmap_bytes)
        self.embedded_at = time.monotonic()  # the end of the last forward pass
        # Each accepted image has a thread, which waits for a decoding process and preprocesses.
        self._threads = ThreadPoolExecutor(self.queue.capacity, thread_name_prefix="decode")
        self._full = min(batch, self.queue.capacity)  # images
        self._batcher = Batcher[ImageJob](
            self._embed,
            self._search,
            size=batch,
            wait=settings.batch_wait_ms / 1000,
            shared_errors=(VectorStoreUnavailableError,),
        )

    def start(self) -> None:
        """Start the inference threads and the decoding processes."""
        self._batcher.start()
        processes = decoders()
        processes.configure(self._settings.decode_processes, self._settings.decode_pixels)
        try:
            processes.warm()
        except DecodersUnavailableError as error:  # each request tries again
            logger.warning("%s", error)

    async def close(self) -> None:
        """Finish the accepted images, then end the threads."""
        await anyio.to_thread.run_sync(self._batcher.close, self._settings.deadline_seconds)
        self._threads.shutdown(wait=False)

    @property
    def busy_since(self) -> float | None:
        """Return the time, by `time.monotonic`, when the oldest unfinished batch began."""
        return self._batcher.busy_since

    async def attribute(
        self,
        permit: Permit,
        image: bytes,
        parameters: AttributeParameters,
        *,
        preview: bool = False,
    ) -> ImageJob:
        """Answer one uploaded image; if explained, its heatmaps are put into `heatmaps`.

        Args:
            permit: of the request.
            image: the uploaded file.
            parameters: of the request.
            preview: also make the job's preview.

        Raises:
            ImageError: the image cannot be decoded, or is outside the limits.
            DecodersUnavailableError: no process that decodes can be started.
            ClientGoneError, DeadlineError: the answer is no longer needed.
            VectorStoreUnavailableError: the index's vector store is unavailable.
        """
        job = ImageJob(
            permit.attributor,
            permit.deadline,
            parameters.top_k,
            parameters.exemplars,
            permit.caller,
            self._settings.max_explained if parameters.explain else 0,
            region_of(parameters),
            self._settings.image_limits,
            with_preview=preview,
        )
        await self.process(job, image)
        if job.explanations:
            put_all = self.heatmaps.put_all
            job.heatmaps = await anyio.to_thread.run_sync(put_all, job.explanations, job.caller)
            job.end("explain")
        job.complete()
        self._record(job)
        return job

    async def attribute_together(
        self,
        permit: Permit,
        images: Sequence[bytes],
        control: Sequence[bytes],
        parameters: ListParameters,
        previews: Collection[int] = (),
    ) -> GroupJob:
        """Answer for a group of uploaded images, compared with a control group if there is one.

        Args:
            permit: of the request.
            images: the uploaded files of the group.
            control: those of the control group.
            parameters: of the request.
            previews: numbers of the group's images, from 1, whose previews are made.

        Raises:
            ImageError: an image cannot be decoded, or is outside the limits; the message names it.
            ClientGoneError, DeadlineError: the answer is no longer needed.
            VectorStoreUnavailableError: the index's vector store is unavailable.
        """
        group = GroupJob(permit.attributor, parameters.top_k, parameters.exemplars, permit.caller)
        turns = asyncio.Semaphore(permit.at_once)

        async def rank(name: str, image: bytes, place: int, count: int) -> ImageJob:
            async with turns:
                with_preview = name == GROUP and place in previews
                job = group.image(permit.deadline, with_preview=with_preview)
                try:
                    await self.process(job, image)
                except ImageError as error:
                    raise of_image(error, name, place, count) from error
                return job

        ranked = await asyncio.gather(
            *(
                rank(name, image, place, len(some))
                for name, some in ((GROUP, images), (CONTROL, control))
                for place, image in enumerate(some, start=1)
            ),
            return_exceptions=True,
        )
        jobs = []
        for outcome in ranked:
            if isinstance(outcome, BaseException):
                raise outcome
            jobs.append(outcome)
        group.images, group.control = jobs[: len(images)], jobs[len(images) :]
        await anyio.to_thread.run_sync(group.answer)
        self._metrics.verdict(group.attribution.verdict)
        for job in jobs:
            for stage, began, ended in job.spans:
                self._metrics.stage(stage, ended - began)
                record_stage(stage, began, ended)
        return group

    async def process(self, job: ImageJob, image: bytes) -> None:
        """Run all steps of a job.

        Raises: see `attribute`.
        """
        with self._batcher.expected():
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._threads, self._decode, job, image)
        await self._batcher.submit(job)

    def _decode(self, job: ImageJob, image: bytes) -> None:
        job.deadline.check()
        limits, check = self._settings.image_limits, job.deadline.check
        job.decode(
            lambda side, square: decode_image(
                image, limits, min_decode_side=side, square=square, check=check
            )
        )

    def _embed(self, jobs: list[ImageJob]) -> None:
        embed(jobs)
        self.embedded_at = time.monotonic()
        self._metrics.batch(len(jobs))

    def _search(self, jobs: list[ImageJob]) -> None:
        search(jobs, self._batcher.forward_lock)
        places = sum(1 + job.explained for job in jobs)
        [began, *_] = [begin for stage, begin, _ in jobs[0].spans if stage == "embed"]
        seconds = (time.perf_counter() - began) / places
        self.queue.record(seconds, full=len(jobs) >= self._full)

    def _record(self, job: ImageJob) -> None:
        """Record the duration of each step in metrics and traces."""
        self._metrics.verdict(job.attribution.verdict)
        for stage, seconds in job.seconds().items():
            if job.explained or stage != "explain":
                self._metrics.stage(stage, seconds)
        for stage, began, ended in job.spans:
            if stage != "total":
                record_stage(stage, began, ended)


def region_of(parameters: AttributeParameters) -> Region | None:
    """Return the region that a request asks about, if it names one."""
    return Region(*map(int, parameters.region.split(","))) if parameters.region else None


def default_batch(device: str) -> int:
    """Return the default batch size on a device, named as for `choose_device`."""
    try:
        return CPU_BATCH if choose_device(device).type == "cpu" else DEVICE_BATCH
    except ModelError:  # reported when the model is loaded
        return CPU_BATCH
