"""The watchdog: it notices when images are no longer decoded or embedded, or when all fail."""

import io
import logging
import math
import time
from functools import cache

from PIL import Image

from app.errors import StalledError
from app.inference.deadline import Deadline
from app.inference.job import ImageJob
from app.inference.pipeline import Pipeline
from index.answering.attribution import Attributor
from index.errors import SnapshotError

SIDE = 256  # pixels of the test image

logger = logging.getLogger(__name__)


@cache
def noise_image() -> bytes:
    """Return an encoded image of noise."""
    file = io.BytesIO()
    Image.effect_noise((SIDE, SIDE), 64).convert("RGB").save(file, "PNG")
    return file.getvalue()


class Watchdog:
    """Has a test image answered whenever none was embedded for a while.

    Only the test image counts as a failure: an image of a caller may be odd.

    Args:
        pipeline: to watch.
        every: seconds.
    """

    def __init__(self, pipeline: Pipeline, every: float) -> None:
        self._pipeline = pipeline
        self._every = every
        self._asked: float | None = None  # when the test image in hand was sent
        self._failure: tuple[str, float] | None = None  # kind and time of the last one

    async def poll(self, attributor: Attributor) -> None:
        """Have the test image answered, if it is time."""
        pipeline = self._pipeline
        if self._asked is not None or time.monotonic() - pipeline.embedded_at < self._every:
            return
        self._asked = time.monotonic()
        try:
            job = ImageJob(attributor, Deadline(math.inf), top_k=1, exemplars=0)
            await pipeline.work_on(job, noise_image())
        except SnapshotError:
            pass  # it was embedded; /health/ready tells that there is nothing to search in
        except Exception as error:
            name = type(error).__name__
            if self._failure is None or self._failure[0] != name:  # it is tried every time
                logger.exception("the watchdog's image cannot be embedded")
            self._failure = name, time.monotonic()
        else:
            self._failure = None
        finally:
            self._asked = None

    def check(self, seconds: float) -> None:
        """Return if no image has taken longer than ``seconds`` and the test image did not fail.

        Raises:
            StalledError: otherwise.
        """
        began = [since for since in (self._pipeline.busy_since, self._asked) if since is not None]
        taken = time.monotonic() - min(began) if began else 0.0
        if taken > seconds:
            raise StalledError(
                f"an image has been embedding for {taken:.0f} seconds; if that goes on, restart "
                "the server"
            )
        if self._failure and self._failure[1] > self._pipeline.embedded_at:
            raise StalledError(
                f"every embedding fails ({self._failure[0]}; the log tells more); restart the "
                "server"
            )

    def passes(self, seconds: float) -> bool:
        """Return whether `check` does."""
        try:
            self.check(seconds)
        except StalledError:
            return False
        return True
