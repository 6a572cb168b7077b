"""What Prometheus is told."""

import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from app.main import create_app
from app.settings import Settings
from app.telemetry.metrics import Metrics
from index.answering.attribution import Attributor
from tests.app.conftest import CheckProblem, write_keys
from tests.app.routes.test_admin import BEARER, BECAUSE, NAMES, TOKEN, build, load
from tests.pictures import encode, noise
from tests.ports import free_port
from tests.waiting import wait_until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


ASKS = "a key that may only ask"


class Scrape:
    """The samples of one moment: ``scrape("name", label="value")``, 0 where there is none."""

    def __init__(self, client: TestClient) -> None:
        response = client.get("/metrics", headers=BEARER)
        assert response.status_code == 200, response.text
        self.text = response.text
        self.samples = read(response.text)

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples.get((name, frozenset(labels.items())), 0.0)

    def labels(self, name: str, label: str) -> set[str]:
        return {dict(labels)[label] for found, labels in self.samples if found == name}


@pytest.fixture
def own(attributor: Attributor, tmp_path: Path) -> Iterator[TestClient]:
    """A client of an app that nothing else asks."""
    app = create_app(Settings(data=tmp_path, max_upload_bytes=200_000), attributor)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def post(client: TestClient, data: bytes) -> httpx.Response:
    return client.post("/attribute", files={"image": data})


def test_requests_are_counted_by_route_and_status(own: TestClient, query: bytes) -> None:
    for _ in range(2):
        assert post(own, query).status_code == 200
    assert post(own, b"no image").status_code == 415
    assert own.get("/concepts/emerald").status_code == 200
    assert own.get("/concepts/nobody").status_code == 404
    assert own.get("/docs").status_code == 200
    scrape = Scrape(own)

    def requests(method: str, route: str, status: int) -> float:
        labels = {"method": method, "route": route, "status": str(status)}
        return scrape("whence_http_requests_total", **labels)

    assert requests("POST", "/attribute", 200) == 2
    assert requests("POST", "/attribute", 415) == 1
    assert requests("GET", "/concepts/{concept_id}", 200) == 1
    assert requests("GET", "/concepts/{concept_id}", 404) == 1
    assert requests("GET", "/docs", 200) == 1
    seconds = "whence_http_request_duration_seconds"
    asked = {"method": "POST", "route": "/attribute"}
    assert scrape(f"{seconds}_count", **asked, outcome="answered") == 2
    assert scrape(f"{seconds}_count", **asked, outcome="refused") == 1
    assert scrape(f"{seconds}_sum", **asked, outcome="answered") > 0
    assert scrape("whence_http_requests_in_progress") == 1  # the scrape itself
    assert scrape("whence_refusals_total", problem="unsupported-image-type") == 1
    assert scrape("whence_refusals_total", problem="not-found") == 1


def test_callers_cannot_make_series(own: TestClient) -> None:
    for number in range(20):
        own.get(f"/no/such/page/{number}")
        own.get(f"/concepts/nobody-{number}?q={number}")
        own.request(f"METHOD{number}", "/concepts")
    scrape = Scrape(own)
    routes = {"unmatched", "/concepts/{concept_id}", "/concepts"}
    assert scrape.labels("whence_http_requests_total", "route") == routes
    assert scrape.labels("whence_http_requests_total", "method") == {"GET", "other"}


def test_an_attribution_is_timed_and_its_verdict_counted(own: TestClient, query: bytes) -> None:
    before = Scrape(own)
    assert before("whence_verdicts_total", verdict="no_match") == 0
    assert 'whence_verdicts_total{verdict="no_match"} 0.0' in before.text  # there from the start
    timing = post(own, query).json()["timing_ms"]
    answered = [post(own, encode(noise(40, 40, seed=n))).json()["verdict"] for n in range(3)]
    scrape = Scrape(own)
    for stage in ("decode", "queue", "embed", "search", "total"):
        assert scrape("whence_stage_duration_seconds_count", stage=stage) == 4
        assert scrape("whence_stage_duration_seconds_sum", stage=stage) >= timing[stage] / 1000
    assert scrape("whence_batch_images_sum") == 4
    for verdict in set(answered):
        assert scrape("whence_verdicts_total", verdict=verdict) >= answered.count(verdict)
    total = sum(v for (name, _), v in scrape.samples.items() if name == "whence_verdicts_total")
    assert total == 4
    assert scrape("whence_queue_depth") == 0


def test_the_queue_is_asked_at_the_scrape() -> None:
    metrics = Metrics()
    waiting: list[int] = []
    metrics.watch_queue(lambda: len(waiting))
    assert b"whence_queue_depth 0.0" in metrics.render("")[0]
    waiting += [1, 2, 3]
    assert b"whence_queue_depth 3.0" in metrics.render("")[0]


def test_the_index_is_named_and_counted(own: TestClient, attributor: Attributor) -> None:
    snapshot = attributor.snapshot
    scrape = Scrape(own)
    labels = {"version": snapshot.version, "model_id": snapshot.model_id}
    assert scrape("whence_index_info", **labels) == 1
    assert scrape("whence_index_exemplars") == 15
    assert scrape("whence_index_swaps_total") == 0


def test_process_metrics_are_there(own: TestClient) -> None:
    scrape = Scrape(own)
    assert scrape("process_resident_memory_bytes") > 1e7
    assert scrape("process_open_fds") > 0
    assert scrape("process_cpu_seconds_total") > 0


def test_health_is_asked_for_at_each_scrape() -> None:
    metrics, state = Metrics(), {"ready": False, "live": True}
    metrics.watch_health(lambda: state["ready"], lambda: state["live"])
    assert b"whence_ready 0.0\nwhence_live 1.0" in b"\n".join(samples(metrics))
    state.update(ready=True, live=False)
    assert b"whence_ready 1.0\nwhence_live 0.0" in b"\n".join(samples(metrics))


def samples(metrics: Metrics) -> list[bytes]:
    lines = metrics.render("")[0].splitlines()
    return [line for line in lines if not line.startswith(b"#")]


def test_apps_do_not_share_metrics(own: TestClient, app: FastAPI, query: bytes) -> None:
    post(own, query)
    other = read(create_app(app.state.settings).state.metrics.render("")[0].decode())
    assert not [labels for name, labels in other if name == "whence_http_requests_total"]


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
    ],
)
def test_the_format_is_the_one_asked_for(own: TestClient, accept: str, media_type: str) -> None:
    response = own.get("/metrics", headers={"Accept": accept})
    assert response.headers["content-type"].startswith(media_type)
    assert response.text.endswith("# EOF\n") is accept.startswith("application/openmetrics")


# Swaps, failures, takedowns


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TestClient]:
    build(tmp_path, *NAMES).close()
    write_keys(tmp_path, {TOKEN: "admin", ASKS: "attribute"})
    with TestClient(create_app(Settings(data=tmp_path), load=load)) as client:
        yield client


def test_swaps_are_counted(server: TestClient, tmp_path: Path) -> None:
    before = Scrape(server)
    [(old,)] = [before.labels("whence_index_info", "version")]
    assert before("whence_index_swaps_total") == 0
    build(tmp_path, "Crimson", "Emerald").close()
    assert server.post("/admin/reload", headers=BEARER).status_code == 200
    after = Scrape(server)
    assert after("whence_index_swaps_total") == 1
    assert after("whence_index_exemplars") == 6
    assert old not in after.labels("whence_index_info", "version")


def test_failed_reloads_are_counted(server: TestClient, tmp_path: Path) -> None:
    other = tmp_path / "other"  # damaged before the server can see it
    snapshot = build(other, "Crimson", "Emerald")
    snapshot.close()
    damaged = snapshot.folder / "catalog.sqlite"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    shutil.copytree(other / "index", tmp_path / "index", dirs_exist_ok=True)
    assert server.post("/admin/reload", headers=BEARER).status_code == 409
    scrape = Scrape(server)
    assert scrape("whence_index_reload_failures_total") >= 1
    assert scrape("whence_index_swaps_total") == 0
    assert scrape("whence_index_exemplars") == 9
    assert scrape("whence_refusals_total", problem="not-reloaded") == 1


def test_takedowns_are_counted(server: TestClient) -> None:
    assert server.delete("/concepts/emerald", headers=BECAUSE).status_code == 200
    scrape = Scrape(server)
    assert scrape("whence_takedowns_total", kind="concept") == 1
    assert scrape("whence_index_exemplars") == 6
    assert scrape("whence_index_hidden_exemplars") == 3
    assert scrape("whence_index_swaps_total") == 0  # the version is the same


def test_without_an_index_there_is_no_info(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(data=tmp_path))) as client:
        scrape = Scrape(client)
        assert scrape.labels("whence_index_info", "version") == set()
        build(tmp_path, *NAMES).close()  # of a model that is not there: it cannot be served
        wait_until(lambda: Scrape(client)("whence_index_reload_failures_total") > 1)


# Who may ask


def test_with_keys_only_those_of_scope_admin_may_scrape(
    server: TestClient, check_problem: CheckProblem
) -> None:
    check_problem(server.get("/metrics"), 401, "unauthorized")
    check_problem(
        server.get("/metrics", headers={"Authorization": "Bearer guess"}), 401, "unauthorized"
    )
    asks = {"Authorization": f"Bearer {ASKS}"}
    check_problem(server.get("/metrics", headers=asks), 403, "forbidden")
    assert server.get("/metrics", headers=BEARER).status_code == 200


def test_the_metrics_port_asks_for_no_key_and_closes(
    attributor: Attributor, tmp_path: Path
) -> None:
    write_keys(tmp_path, {TOKEN: "admin"})
    settings = Settings(data=tmp_path, metrics_port=free_port())
    url = f"http://127.0.0.1:{settings.metrics_port}/metrics"
    with TestClient(create_app(settings, attributor)) as client:
        client.get("/health/live")
        scraped = httpx.get(url, trust_env=False)
        assert 'route="/health/live"' in scraped.text
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)
    assert not [t for t in threading.enumerate() if "serve_forever" in t.name]


def test_every_metric_is_described_and_named_as_prometheus_advises(own: TestClient) -> None:
    scrape = Scrape(own)
    ours = [f for f in text_string_to_metric_families(scrape.text) if f.name.startswith("whence_")]
    assert len(ours) >= 15
    for family in ours:
        assert family.documentation.endswith("."), family.name
        assert re.fullmatch(r"whence_[a-z_]+", family.name)
        assert not re.search(r"_(ms|milliseconds|minutes|kb|count)$", family.name)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "answered"), (304, "answered"), (429, "refused"), (499, "left"), (503, "failed")],
)
def test_times_are_kept_apart_by_outcome(status: int, outcome: str) -> None:
    metrics = Metrics()
    metrics.request_began()
    metrics.request_ended("GET", "/concepts", status, 0.1)
    labels = {"method": "GET", "route": "/concepts", "outcome": outcome}
    name = "whence_http_request_duration_seconds_count"
    assert metrics.registry.get_sample_value(name, labels) == 1
