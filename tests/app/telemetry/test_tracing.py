"""Spans, in this process: what they are called, how they hang together, what they keep quiet.

That they reach a collector is tested with the real server, in test_serve.py.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app import main
from app.main import create_app
from app.settings import Settings
from app.telemetry import tracing
from index.answering.attribution import Attributor

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where the spans of apps made in this test go; the process's own provider stays as it is."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(
        main,
        "request_spans",
        lambda root_path: {**tracing.request_spans(root_path), "tracer_provider": provider},
    )
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("whence"))
    return exporter


@pytest.fixture
def traced(
    exported: InMemorySpanExporter, attributor: Attributor, tmp_path: Path
) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(data=tmp_path), attributor)) as client:
        yield client


def by_start(spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
    return sorted(spans, key=lambda span: span.start_time or 0)


def test_an_attribution_is_a_span_with_its_steps_inside(
    traced: TestClient, exported: InMemorySpanExporter, query: bytes
) -> None:
    response = traced.post(
        "/attribute?top_k=2", files={"image": query}, headers={"traceparent": PARENT}
    )
    timing = response.json()["timing_ms"]
    [request] = [s for s in exported.get_finished_spans() if s.kind is trace.SpanKind.SERVER]
    steps = by_start([s for s in exported.get_finished_spans() if s is not request])
    assert request.name == "POST /attribute"
    assert format(request.context.trace_id, "032x") == PARENT.split("-")[1]  # the caller's trace
    assert [step.name for step in steps] == ["queue", "decode", "queue", "embed", "search"]
    for step in steps:
        assert step.parent
        assert step.parent.span_id == request.context.span_id
        assert request.start_time <= step.start_time <= step.end_time <= request.end_time
    for name in ("decode", "embed", "search"):
        [step] = [step for step in steps if step.name == name]
        assert (step.end_time - step.start_time) / 1e6 == pytest.approx(timing[name], abs=0.01)


def test_a_span_bears_the_request_s_id_and_not_its_query(
    traced: TestClient, exported: InMemorySpanExporter
) -> None:
    response = traced.get("/concepts?q=s3cret")
    [span] = exported.get_finished_spans()
    assert span.attributes["whence.request_id"] == response.headers["X-Request-ID"]
    assert span.attributes["http.route"] == "/concepts"
    assert "s3cret" not in span.to_json()


def test_probes_and_scrapes_leave_no_span(
    traced: TestClient, exported: InMemorySpanExporter
) -> None:
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert traced.get(path).status_code == 200
    assert exported.get_finished_spans() == ()


def test_nor_do_they_under_a_sub_path(
    exported: InMemorySpanExporter, attributor: Attributor, tmp_path: Path
) -> None:
    settings = Settings(data=tmp_path, root_path="/whence")
    with TestClient(create_app(settings, attributor)) as client:
        for path in ("/health/live", "/whence/health/live", "/whence/metrics"):
            assert client.get(path).status_code == 200
        assert exported.get_finished_spans() == ()
        client.get("/whence/concepts")
    assert len(exported.get_finished_spans()) == 1


def test_without_a_provider_nothing_is_recorded(
    client: TestClient, exported: InMemorySpanExporter, query: bytes
) -> None:
    assert client.post("/attribute", files={"image": query}).status_code == 200
    assert exported.get_finished_spans() == ()
