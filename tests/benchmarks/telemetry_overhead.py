"""What request ids, metrics, logs and traces add to a request.

    python -m tests.benchmarks.telemetry_overhead [--requests 2000] [--rounds 15]

Calls one trivial route as a server would, over bare ASGI in this process, so that neither sockets
nor a client are timed: without Telemetry, with it, with its JSON line, and with a span besides.
The variants take turns, round by round. Prints JSON.
"""

import argparse
import asyncio
import io
import json
import logging
import platform
import statistics
import time
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from starlette.types import Message

from app.telemetry.logs import configure_logging
from app.telemetry.metrics import Metrics
from app.telemetry.requests import Telemetry
from app.telemetry.tracing import request_spans

SCOPE: dict[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/trivial",
    "raw_path": b"/trivial",
    "root_path": "",
    "query_string": b"",
    "headers": [(b"host", b"127.0.0.1:8000"), (b"user-agent", b"benchmark")],
    "client": ("127.0.0.1", 40000),
    "server": ("127.0.0.1", 8000),
}


class Nowhere(SpanExporter):
    """Takes spans and drops them: the network is not what is timed."""

    def export(self, _spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def make_app(*, telemetry: bool, spans: bool = False) -> FastAPI:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    config = {**request_spans(""), "auto_configure": False}
    app = FastAPI(telemetry={**config, "tracer_provider": provider} if spans else config)

    @app.get("/trivial")
    async def trivial() -> dict[str, str]:
        return {"status": "ok"}

    if telemetry:
        app.add_middleware(Telemetry, metrics=Metrics())
    return app


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None:
    assert message.get("status", 200) == 200


async def microseconds(app: FastAPI, requests: int) -> float:
    """The mean CPU time of a request, in all threads: other work on the machine does not count."""
    began = time.process_time()
    for _ in range(requests):
        # In a task of its own, as a server runs it.
        await asyncio.create_task(app({**SCOPE, "state": {}}, receive, send))
    return 1e6 * (time.process_time() - began) / requests


async def measure(requests: int, rounds: int) -> dict[str, list[float]]:
    log = io.StringIO()
    configure_logging("info", "json", log)
    variants = {
        "without": (make_app(telemetry=False), logging.WARNING),
        "metrics": (make_app(telemetry=True), logging.WARNING),
        "metrics, log": (make_app(telemetry=True), logging.INFO),
        "metrics, log, span": (make_app(telemetry=True, spans=True), logging.INFO),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):  # the first warms up
        for name, (app, level) in variants.items():
            logging.getLogger().setLevel(level)
            log.seek(0)
            log.truncate()
            taken = await microseconds(app, requests)
            lines = log.getvalue().count("\n")
            assert lines == (requests if level == logging.INFO else 0)
            if turn:
                times[name].append(taken)
    return times


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    times = asyncio.run(measure(args.requests, args.rounds))
    without = times["without"]
    report = {
        name: {
            "microseconds": round(statistics.median(taken), 1),
            "requests_per_second": round(1e6 / statistics.median(taken)),
            # Of neighbours in time, so that other work on the machine weighs on both.
            "added_microseconds": round(
                statistics.median(a - b for a, b in zip(taken, without, strict=True)), 1
            ),
        }
        for name, taken in times.items()
    }
    print(json.dumps({"machine": platform.processor() or platform.machine(), **report}, indent=2))


if __name__ == "__main__":
    main()
