"""OpenTelemetry spans: of requests, by FastAPI itself, and of an image's way through the service.

Nothing is recorded unless a provider is set up: by the standard ``OTEL_EXPORTER_OTLP_ENDPOINT``
where the extra ``otel`` is installed, or by whoever starts the process.
"""

import time

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from starlette.types import Scope

from app.http.paths import route_path
from app.telemetry.metrics import Stage

_tracer = trace.get_tracer("whence")


def request_spans(root_path: str) -> TelemetryConfig:
    """Return how FastAPI records requests: a span each, but for health checks and scrapes."""

    def is_probe(scope: Scope) -> bool:
        path = route_path({"path": scope["path"], "root_path": root_path})
        return path.startswith(("/health/", "/metrics"))

    return {
        "auto_configure": True,
        "tracing": True,
        "operation_spans": False,
        "metrics": False,  # Prometheus has them
        "logs": False,
        "exclude": is_probe,
    }


def record_stage(name: Stage, began: float, ended: float) -> None:
    """A span below the present one, for a step that is over.

    Args:
        name: of the step.
        began: `time.perf_counter` then.
        ended: `time.perf_counter` then.
    """
    if not trace.get_current_span().is_recording():
        return
    epoch = time.time() - time.perf_counter()
    span = _tracer.start_span(name, start_time=round((epoch + began) * 1e9))
    span.end(end_time=round((epoch + ended) * 1e9))
