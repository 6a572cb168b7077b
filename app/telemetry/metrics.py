"""Prometheus metrics of one app, and their registry."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from index.answering.calibration import Verdict

Stage = Literal["decode", "queue", "embed", "search", "explain", "total"]
STAGES: tuple[Stage, ...] = get_args(Stage)
Outcome = Literal["answered", "refused", "failed", "left"]
ALERTED = ("internal-error", "vectors-unreachable")  # deploy/alerts.yml

CLIENT_LEFT = 499  # as nginx counts a request whose client did not wait for the answer
# Bounds of the histograms' buckets: seconds, and images.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Holds the metrics of one app; every method is safe on any thread.

    Labels take few values: route templates, known methods, statuses and names of problems, never
    text that a caller can choose.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._requests = Counter(
            "whence_http_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "whence_http_request_duration_seconds",
            "From a request's first line to its answer's last byte.",
            ["method", "route", "outcome"],
            buckets=SECONDS,
            registry=registry,
        )
        self._in_progress = Gauge(
            "whence_http_requests_in_progress", "Requests being answered.", registry=registry
        )
        self._refusals = Counter(
            "whence_refusals",
            "Answers that were a problem, by the last part of its type.",
            ["problem"],
            registry=registry,
        )
        self._stages = Histogram(
            "whence_stage_duration_seconds",
            "Steps of attributing an image.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "whence_batch_images",
            "Images embedded in one forward pass.",
            buckets=IMAGES,
            registry=registry,
        )
        self._queue = Gauge(
            "whence_queue_depth", "Images taken in and not answered yet.", registry=registry
        )
        self._ready = Gauge(
            "whence_ready",
            "1 while the server can answer: an index is loaded and embedding works.",
            registry=registry,
        )
        self._live = Gauge(
            "whence_live",
            "0 when only a restart helps: embedding hangs or fails.",
            registry=registry,
        )
        self._verdicts = Counter(
            "whence_verdicts", "Images attributed, by verdict.", ["verdict"], registry=registry
        )
        self._index = Gauge(
            "whence_index_info",
            "1 for the index version and model that answer; absent while there is none.",
            ["version", "model_id"],
            registry=registry,
        )
        self._exemplars = Gauge(
            "whence_index_exemplars", "Exemplars that answers can name.", registry=registry
        )
        self._hidden = Gauge(
            "whence_index_hidden_exemplars",
            "Exemplars of the index that takedowns hide.",
            registry=registry,
        )
        self._swaps = Counter(
            "whence_index_swaps", "Index versions that took another's place.", registry=registry
        )
        self._reload_failures = Counter(
            "whence_index_reload_failures",
            "Tries to serve what is published or taken down that failed.",
            registry=registry,
        )
        self._takedowns = Counter(
            "whence_takedowns", "Takedowns recorded over HTTP.", ["kind"], registry=registry
        )
        self._takedown_log = Gauge(
            "whence_takedown_log_usable",
            "0 while the takedown log is lost, damaged or older than what was read before; the "
            "takedowns read before stay in force.",
            registry=registry,
        )
        self._takedown_log.set(1)
        self._version: str | None = None
        # A series that appears with its first event would hide that event from rate().
        for stage in STAGES:
            self._stages.labels(stage)
        for verdict in get_args(Verdict):
            self._verdicts.labels(verdict)
        for kind in ("concept", "exemplar"):
            self._takedowns.labels(kind)
        for problem in ALERTED:
            self._refusals.labels(problem)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Render all metrics as an Accept header asks; return them and their media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type

    @contextmanager
    def served(self, host: str, port: int) -> Iterator[None]:
        """Serve ``http://host:port/metrics`` during the block, on a separate thread.

        Raises:
            OSError: the port cannot be listened on.
        """
        server, thread = start_http_server(port, host, self.registry)
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def request_began(self) -> None:
        """Count a request that has begun."""
        self._in_progress.inc()

    def request_ended(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count and time a request that has ended."""
        self._in_progress.dec()
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(method, route, _outcome(status)).observe(seconds)

    def refused(self, problem: str) -> None:
        """Count an answer that is a problem."""
        self._refusals.labels(problem).inc()

    def stage(self, name: Stage, seconds: float) -> None:
        """Time one step of one image."""
        self._stages.labels(name).observe(seconds)

    def batch(self, size: int) -> None:
        """Count the images of one forward pass."""
        self._batches.observe(size)

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Read the queue's depth from ``depth`` at every scrape."""
        self._queue.set_function(depth)

    def watch_health(self, ready: Callable[[], bool], live: Callable[[], bool]) -> None:
        """Read the health at every scrape, on its thread; neither function may raise or wait."""
        self._ready.set_function(ready)
        self._live.set_function(live)

    def verdict(self, verdict: Verdict) -> None:
        """Count an answer by its verdict."""
        self._verdicts.labels(verdict).inc()

    def swapped(self, version: str, model_id: str, exemplars: int, hidden: int = 0) -> None:
        """Record the index version that is served, also after a takedown.

        Args:
            version: of the index.
            model_id: of its model.
            exemplars: number of exemplars that answers can name.
            hidden: number of exemplars that takedowns hide.
        """
        if self._version not in (None, version):
            self._swaps.inc()
        self._version = version
        self._index.clear()
        self._index.labels(version, model_id).set(1)
        self._exemplars.set(exemplars)
        self._hidden.set(hidden)

    def index_lost(self) -> None:
        """Record that no index version is served."""
        self._index.clear()
        self._exemplars.set(0)
        self._hidden.set(0)

    def reload_failed(self) -> None:
        """Count a failure to serve the published version or the log of takedowns."""
        self._reload_failures.inc()

    def takedown_log(self, *, usable: bool) -> None:
        """Record whether the takedown log could be read and agrees with its witnesses."""
        self._takedown_log.set(usable)

    def taken_down(self, kind: Literal["concept", "exemplar"]) -> None:
        """Count a recorded takedown."""
        self._takedowns.labels(kind).inc()


def _outcome(status: int) -> Outcome:
    """Return an answer's outcome: refusals are quick, and would hide the time of the others."""
    if status == CLIENT_LEFT:
        return "left"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "failed"
    return "refused" if status >= HTTPStatus.BAD_REQUEST else "answered"
