"""``whence serve`` as an operator starts it: its log, its metrics port, its traces."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from model.checkpoint import load_embedder, save_model
from tests.fakes import patches, tiny_model
from tests.pictures import encode
from tests.ports import free_port
from tests.waiting import NEVER

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-c", "from app.cli.main import main; main()", "serve"]


@dataclass
class Served:
    """What a server did between its start and its end."""

    answer: httpx.Response
    metrics: str
    log: list[dict[str, Any]]
    exports: list[ExportTraceServiceRequest]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    folder = DataFolder(root)
    for number in range(4):
        concept = root / "source" / f"concept-{number}"
        concept.mkdir(parents=True)
        for place in range(2):
            patches(10 * number + place, side=64).save(concept / f"{place}.png")
    embedder = load_embedder(folder.models, save_model(folder.models, tiny_model(), {}))
    rebuild(folder, read_sources([root / "source"]), embedder, RebuildOptions(canary_rate=0))
    return root


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """An OTLP endpoint, and what is sent to it."""
    exports: list[ExportTraceServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            exports.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", exports
        server.shutdown()


@pytest.fixture(scope="module")
def served(data: Path, collector: tuple[str, list[ExportTraceServiceRequest]]) -> Served:
    """A server that was started, asked once, and stopped as a container is."""
    endpoint, exports = collector
    port, metrics_port = free_port(), free_port()
    process = subprocess.Popen(
        [*COMMAND, "--data", str(data), "--port", str(port)],
        cwd=ROOT,
        env={
            **os.environ,
            "WHENCE_METRICS_PORT": str(metrics_port),
            "WHENCE_DEVICE": "cpu",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(300, process.kill)
    watchdog.start()
    lines: list[str] = []
    try:
        assert process.stderr
        for line in process.stderr:
            lines.append(line)
            if "Uvicorn running on" in line:
                break
        with httpx.Client(trust_env=False) as client:
            answer = client.post(
                f"http://127.0.0.1:{port}/attribute", files={"image": encode(patches(10, side=64))}
            )
            metrics = client.get(f"http://127.0.0.1:{metrics_port}/metrics").text
        process.send_signal(signal.SIGTERM)
        lines += process.stderr.readlines()
        process.wait(NEVER)
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
    assert answer.status_code == 200, lines
    return Served(answer, metrics, [json.loads(line) for line in lines], exports)


def test_every_line_of_the_log_is_json(served: Served) -> None:
    assert {"timestamp", "level", "logger", "event"} <= set.intersection(*map(set, served.log))
    assert {line["logger"] for line in served.log} >= {"uvicorn.error", "app.watchers"}
    requests = [line for line in served.log if line["event"] == "request"]
    assert [(line["route"], line["status"]) for line in requests] == [("/attribute", 200)]
    assert requests[0]["request_id"] == served.answer.headers["x-request-id"]


def test_the_metrics_port_answers(served: Served) -> None:
    assert 'whence_http_requests_total{method="POST",route="/attribute"' in served.metrics
    assert "whence_index_exemplars 8.0" in served.metrics


def test_spans_reach_the_collector_before_the_server_ends(served: Served) -> None:
    resources = [resource for export in served.exports for resource in export.resource_spans]
    for resource in resources:
        named = {a.key: a.value.string_value for a in resource.resource.attributes}
        assert named["service.name"] == "whence"
    spans = [span for r in resources for scope in r.scope_spans for span in scope.spans]
    names = {span.name for span in spans}
    assert names == {"POST /attribute", "queue", "decode", "embed", "search"}
    [line] = [line for line in served.log if line["event"] == "request"]
    assert {span.trace_id.hex() for span in spans} == {line["trace_id"]}


HANGING = """
import sys, time
from app.cli import main as cli
from app.inference import pipeline
from app.http import server

def decode_image(*_, **__):
    print("decoding", file=sys.stderr, flush=True)
    time.sleep(1000)

pipeline.decode_image = decode_image
server.ANSWER_SECONDS = server.CLOSE_SECONDS = 1
cli.main()
"""


def test_a_server_stops_in_time_whatever_hangs_or_still_arrives(data: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING, "serve", "--data", str(data), "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, "WHENCE_DEVICE": "cpu", "WHENCE_DEADLINE_SECONDS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(300, process.kill)
    watchdog.start()
    address = ("127.0.0.1", port)
    head = (
        b"POST /attribute HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n"
    )
    form = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\na\r\n--x--\r\n'
    )
    try:
        assert process.stderr
        next(line for line in process.stderr if "Uvicorn running on" in line)
        with socket.create_connection(address) as held, socket.create_connection(address) as slow:
            held.sendall(head % len(form) + b"\r\n" + form)  # its image is decoded for ever
            next(line for line in process.stderr if line == "decoding\n")
            slow.settimeout(NEVER)
            slow.sendall(head % 1000 + b"Expect: 100-continue\r\n\r\n")
            assert slow.recv(2**16).startswith(b"HTTP/1.1 100 ")  # the rest is waited for
            process.send_signal(signal.SIGINT)
            assert slow.recv(2**16).startswith(b"HTTP/1.1 503 ")
            log = process.stderr.read()
            assert process.wait(NEVER) == 1
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
    assert "still running: MainThread" in log
    assert "Traceback" not in log
