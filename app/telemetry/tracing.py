"""OpenTelemetry spans of requests (made by FastAPI) and of the steps of one image.

Spans are recorded only if a provider is set up: by the standard ``OTEL_EXPORTER_OTLP_ENDPOINT``
with the extra ``otel``, or by the process that embeds the app.
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
    """Record a span for a step that has ended, below the current span.

    Args:
        name: of the step.
        began: `time.perf_counter` at its start.
        ended: `time.perf_counter` at its end.
    """
    if not trace.get_current_span().is_recording():
        return
    epoch = time.time() - time.perf_counter()
    span = _tracer.start_span(name, start_time=round((epoch + began) * 1e9))
    span.end(end_time=round((epoch + ended) * 1e9))
