"""The watchdog: detects that decoding or embedding hangs, or fails for every image."""

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
    """Embeds a test image whenever no image was embedded for some time.

    Only failures of the test image count, since a caller's image can itself be at fault.

    Args:
        pipeline: to watch.
        interval: seconds without an embedding before the test image is embedded.
    """

    def __init__(self, pipeline: Pipeline, interval: float) -> None:
        self._pipeline = pipeline
        self._interval = interval
        self._test_began: float | None = None  # start of the unfinished test
        self._failure: tuple[str, float] | None = None  # type and time of the last error

    async def poll(self, attributor: Attributor) -> None:
        """Embed the test image, if it is time."""
        pipeline = self._pipeline
        idle = time.monotonic() - pipeline.embedded_at
        if self._test_began is not None or idle < self._interval:
            return
        self._test_began = time.monotonic()
        try:
            job = ImageJob(attributor, Deadline(math.inf), top_k=1, exemplars=0)
            await pipeline.process(job, noise_image())
        except SnapshotError:
            pass  # embedding worked; /health/ready reports the index
        except Exception as error:
            name = type(error).__name__
            if self._failure is None or self._failure[0] != name:  # logged once
                logger.exception("the watchdog's image cannot be embedded")
            self._failure = name, time.monotonic()
        else:
            self._failure = None
        finally:
            self._test_began = None

    def check(self, seconds: float) -> None:
        """Raise an error if the pipeline hangs or fails.

        Raises:
            StalledError: an image has taken longer than ``seconds``, or the test image failed.
        """
        started = (self._pipeline.busy_since, self._test_began)
        began = [start for start in started if start is not None]
        taken = time.monotonic() - min(began) if began else 0.0
        if taken > seconds:
            raise StalledError(
                f"an image has been embedding for {taken:.0f} seconds; if this continues, restart "
                "the server"
            )
        if self._failure and self._failure[1] > self._pipeline.embedded_at:
            raise StalledError(
                f"every embedding fails ({self._failure[0]}; see the log); restart the server"
            )

    def passes(self, seconds: float) -> bool:
        """Return True if `check` raises no error."""
        try:
            self.check(seconds)
        except StalledError:
            return False
        return True
