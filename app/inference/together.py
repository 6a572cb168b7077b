"""The job of a group of images that are answered together."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from pathlib import Path

from app.inference.deadline import Deadline
from app.inference.expiring import random_id
from app.inference.job import ImageJob, decode_files, embed, search
from app.telemetry.metrics import STAGES, Stage
from index.answering.attribution import Attributor
from index.answering.together import GroupAttribution, attribute_together
from model.errors import ImageError
from model.images import DEFAULT_LIMITS, ImageLimits

GROUP, CONTROL = "image", "control"  # the form's fields


@dataclass(eq=False)
class GroupJob:
    """Holds a group's parameters and the results of its images.

    Attributes:
        attributor: answers.
        top_k: largest number of concepts in the answer.
        exemplars: largest number of exemplars listed for each concept.
        caller: as of `ImageJob`.
        images: the group's jobs, ranked.
        control: those of the control group.
        id: identifies the answer; random.
        attribution: the answer.
        created_at: time when the answer was complete, UTC.
    """

    attributor: Attributor
    top_k: int
    exemplars: int
    caller: str | None = None
    images: Sequence[ImageJob] = ()
    control: Sequence[ImageJob] = ()
    id: str = field(default_factory=random_id)
    attribution: GroupAttribution = field(init=False)
    created_at: datetime = field(init=False)
    total: float = 0.0  # seconds
    _began: float = field(default_factory=time.perf_counter)

    def image(self, deadline: Deadline, *, with_preview: bool = False) -> ImageJob:
        """Return the job of another image, which is ranked but not answered by itself."""
        return ImageJob(
            self.attributor,
            deadline,
            self.top_k,
            self.exemplars,
            self.caller,
            together=True,
            with_preview=with_preview,
        )

    def answer(self) -> None:
        """Answer, once all images are ranked."""
        self.attribution = attribute_together(
            self.attributor,
            [job.rankings for job in self.images],
            [job.rankings for job in self.control],
            top_k=self.top_k,
            exemplars=self.exemplars,
        )
        self.created_at = datetime.now(UTC)
        self.total = time.perf_counter() - self._began

    def seconds(self) -> dict[Stage, float]:
        """Return the seconds of each stage, summed over the images, and the total by the clock."""
        spent = dict.fromkeys(STAGES, 0.0)
        for job in [*self.images, *self.control]:
            for stage, seconds in job.seconds().items():
                spent[stage] += seconds
        return {**spent, "total": self.total}


def of_image(error: ImageError, name: str, place: int, count: int) -> ImageError:
    """Return an error that names its image, counted from 1, and the field."""
    return type(error)(f"{name} {place} of {count}: {error}")


def answer_group(
    attributor: Attributor,
    images: Sequence[Path],
    control: Sequence[Path],
    *,
    top_k: int,
    exemplars: int,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> GroupJob:
    """Answer for image files together, without a server.

    Raises:
        ImageError: a file cannot be used; its path is in the message.
    """
    group = GroupJob(attributor, top_k, exemplars)
    jobs: list[ImageJob] = []
    paths = [*images, *control]
    for batch in decode_files(paths, lambda: group.image(Deadline(inf)), limits):
        for path, job in zip(paths[len(jobs) :], batch, strict=False):
            if isinstance(job, ImageError):
                raise type(job)(f"{path}: {job}") from job
        ready = [job for job in batch if isinstance(job, ImageJob)]
        embed(ready)
        search(ready)
        jobs += ready
    group.images, group.control = jobs[: len(images)], jobs[len(images) :]
    group.answer()
    return group
