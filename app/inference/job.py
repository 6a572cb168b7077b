"""The job of one query image, and its steps: decode, embed, search and explain."""

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from math import inf
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from app.inference.deadline import Deadline
from app.inference.expiring import random_id
from app.inference.heatmaps import HeatmapPair
from app.telemetry.metrics import STAGES, Stage
from index.answering.attribution import Attribution, Attributor
from index.answering.explanation import Explanation, explain_answer
from index.answering.ranking import Ranking
from index.answering.squares import compared
from index.thumbnails import preview_jpeg
from model.config import Facet
from model.errors import ImageError
from model.explain import Patches
from model.images import DEFAULT_LIMITS, DecodedImage, ImageLimits, read_image
from model.regions import Region, crops, parts_of
from model.squares import Square

FILES = 8  # in one forward pass of `answer_files`
DECODERS = 2  # threads of `answer_files`


@dataclass(eq=False)
class ImageJob:
    """Holds one query image's parameters and the results of its steps.

    Attributes:
        attributor: answers the query.
        deadline: no step begins after it.
        top_k: largest number of concepts in the answer.
        exemplars: largest number of exemplars listed for each concept.
        caller: who sent the request, as `app.auth.security.caller_of` names them.
        explained: largest number of exemplars to explain.
        together: the image is ranked only, for an answer to a group of images.
        region: part of the image to answer about, in pixels of the upright image.
        limits: on the region's size.
        with_preview: make `preview`.
        id: identifies the answer; random.
        preview: the upright image as a small JPEG, if it is asked for.
        sha256: of the encoded image.
        size: width and height of the upright image, in pixels.
        parts: of the image, P of them, that are embedded.
        pixels: of each part (3, S, S) float32, from the embedder's `preprocess`.
        vectors: (P, D) float32 of unit norm, by facet.
        patches: of the parts, if the answer is explained.
        rankings: of the parts, if `together`.
        attribution: the answer, unless `together`.
        explanations: by exemplar id.
        heatmaps: by exemplar id.
        created_at: time when the answer was complete, UTC.
        spans: stage, begin and end of each step, in seconds of `time.perf_counter`.
    """

    attributor: Attributor
    deadline: Deadline
    top_k: int
    exemplars: int
    caller: str | None = None
    explained: int = 0
    region: Region | None = None
    limits: ImageLimits = DEFAULT_LIMITS
    together: bool = False
    with_preview: bool = False
    id: str = field(default_factory=random_id)
    preview: bytes | None = None
    sha256: str = field(init=False)
    size: tuple[int, int] = field(init=False)
    parts: Sequence[Region] = field(init=False)
    pixels: Sequence[torch.Tensor] = field(init=False)
    vectors: Mapping[Facet, NDArray[np.float32]] = field(init=False)
    patches: Sequence[Patches] = ()
    rankings: Sequence[Ranking] = field(init=False)
    attribution: Attribution = field(init=False)
    explanations: Mapping[str, Explanation] = field(default_factory=dict)
    heatmaps: Mapping[str, HeatmapPair] = field(default_factory=dict)
    created_at: datetime = field(init=False)
    spans: list[tuple[Stage, float, float]] = field(default_factory=list)
    _began: float = field(default_factory=time.perf_counter)

    def end(self, stage: Stage) -> None:
        """Record the end of a step, which began at the end of the previous step."""
        began = self.spans[-1][2] if self.spans else self._began
        self.spans.append((stage, began, time.perf_counter()))

    def complete(self) -> None:
        """Record the time of the complete answer."""
        self.created_at = datetime.now(UTC)
        self.spans.append(("total", self._began, time.perf_counter()))

    def seconds(self) -> dict[Stage, float]:
        """Return the seconds spent on each stage."""
        spent = dict.fromkeys(STAGES, 0.0)
        for stage, began, ended in self.spans:
            spent[stage] += ended - began
        return spent

    @property
    def compared(self) -> tuple[Region, ...]:
        """Return what the model sees of the parts, in pixels of the upright image."""
        return compared(self.attributor.embedder, self.parts)

    def decode(self, decode: Callable[[int | None, Square | None], DecodedImage]) -> None:
        """Decode and preprocess the image.

        Args:
            decode: decodes the image, given the embedder's `min_decode_side`, or None to decode it
                at full size, and the embedder's `square`, or None to return the whole image.

        Raises:
            ImageError: it cannot be decoded, or it or the region is outside the limits.
        """
        self.end("queue")
        embedder = self.attributor.embedder
        # A region of an image that was decoded reduced could have too few pixels.
        whole = self.region or self.with_preview
        square = None if whole else embedder.square
        image = decode(None if self.region else embedder.min_decode_side, square)
        self.sha256, self.size = image.sha256, image.size
        if self.region:
            self.region.check(self.size, self.limits)
        self.parts = parts_of(self.size, self.region)
        if square:
            self.pixels = [embedder.normalise(part) for part in square.split(image.pixels)]
        else:
            self.pixels = [
                embedder.preprocess(part) for part in crops(image.pixels, self.size, self.parts)
            ]
        if self.with_preview:
            self.preview = preview_jpeg(image.pixels)
        self.end("decode")


def embed(jobs: Sequence[ImageJob]) -> None:
    """Embed a batch: per embedder one forward pass, and another for the jobs to explain."""
    for group in _groups(jobs, lambda job: (id(job.attributor.embedder), job.explained > 0)):
        for job in group:
            job.end("queue")
        embedder = group[0].attributor.embedder
        pixels = [part for job in group for part in job.pixels]
        patches: Sequence[Patches] = ()
        if group[0].explained:
            vectors, patches = embedder.embed_with_patches(pixels)
        else:
            vectors = embedder.embed_pixels(pixels)
        start = 0
        for job in group:
            own = slice(start, start + len(job.pixels))
            job.vectors = {facet: rows[own] for facet, rows in vectors.items()}
            job.patches = patches[own]
            start = own.stop
            job.end("embed")


def search(
    jobs: Sequence[ImageJob], forward_lock: AbstractContextManager[object] | None = None
) -> None:
    """Search the index for an embedded batch, and explain the answers that ask for it.

    Jobs with the same attributor and parameters share one search: its depth follows from `top_k`,
    so that an answer does not depend on the rest of its batch.

    Args:
        jobs: from `embed`.
        forward_lock: held during the forward passes of an explanation.
    """
    for group in _groups(
        jobs, lambda job: (id(job.attributor), job.together, job.top_k, job.exemplars)
    ):
        first = group[0]
        vectors = {
            facet: np.concatenate([job.vectors[facet] for job in group]) for facet in first.vectors
        }
        if first.together:
            rankings = iter(first.attributor.rankings(vectors, top_k=first.top_k))
            for job in group:
                job.rankings = list(islice(rankings, len(job.parts)))
                job.end("search")
            continue
        answers = first.attributor.rank(
            vectors,
            top_k=first.top_k,
            exemplars=first.exemplars,
            parts=[job.parts for job in group],
        )
        for job, attribution in zip(group, answers, strict=True):
            job.attribution = attribution
            job.end("search")
        for job in group:
            if job.patches:
                with forward_lock or nullcontext():
                    _explain(job)


def _explain(job: ImageJob) -> None:
    job.explanations = explain_answer(
        job.attributor,
        job.attribution,
        job.patches,
        job.vectors,
        job.size,
        job.parts,
        most=job.explained,
    )
    job.end("explain")


def _groups(jobs: Sequence[ImageJob], key: Callable[[ImageJob], Hashable]) -> list[list[ImageJob]]:
    groups: dict[Hashable, list[ImageJob]] = {}
    for job in jobs:
        groups.setdefault(key(job), []).append(job)
    return list(groups.values())


def answer_files(
    attributor: Attributor,
    paths: Sequence[Path],
    *,
    top_k: int,
    exemplars: int,
    region: Region | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Iterator[ImageJob | ImageError]:
    """Answer the queries of image files without a server; yield a job or an error each."""

    def new_job() -> ImageJob:
        return ImageJob(attributor, Deadline(inf), top_k, exemplars, region=region, limits=limits)

    for decoded in decode_files(paths, new_job, limits):
        jobs = [one for one in decoded if isinstance(one, ImageJob)]
        if jobs:
            embed(jobs)
            search(jobs)
        for job in jobs:
            job.complete()
        yield from decoded


def decode_files(
    paths: Sequence[Path], new_job: Callable[[], ImageJob], limits: ImageLimits = DEFAULT_LIMITS
) -> Iterator[list[ImageJob | ImageError]]:
    """Yield batches of up to `FILES` decoded jobs, or errors in their places, in order.

    Threads decode the next batch while the current one is in use.
    """

    def decode(path: Path) -> ImageJob | ImageError:
        job = new_job()
        try:
            job.decode(
                lambda side, square: read_image(path, limits, min_decode_side=side, square=square)
            )
        except ImageError as error:
            return error
        return job

    with ThreadPoolExecutor(DECODERS) as pool:
        decoding = [pool.submit(decode, path) for path in paths[:FILES]]
        for start in range(0, len(paths), FILES):
            decoded = [future.result() for future in decoding]
            decoding = [pool.submit(decode, path) for path in paths[start + FILES :][:FILES]]
            yield decoded
