"""Prometheus, its alerts and the dashboard ask for what the server has, and find each other.

Nothing here needs a container engine or the network.
"""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client import CollectorRegistry

from app.settings import Settings
from app.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
PROMETHEUS = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((ROOT / "deploy/alerts.yml").read_text(encoding="utf-8"))
GRAFANA = ROOT / "deploy/grafana"
ALERT_TESTS = Path(__file__).with_name("alerts.yml")
PROMTOOL = shutil.which("promtool")
DASHBOARD = json.loads((GRAFANA / "dashboards/whence.json").read_text(encoding="utf-8"))
BY_PROMETHEUS = {"job", "instance"}  # the labels it puts on whatever it scrapes


def exposed(registry: CollectorRegistry) -> dict[str, set[str]]:
    """Every sample's name and its labels."""
    found: dict[str, set[str]] = {"up": set()}
    for family in registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.fixture(scope="module")
def metrics() -> dict[str, set[str]]:
    """What the server exposes once everything has happened."""
    metrics = Metrics()
    metrics.request_began()
    metrics.request_ended("GET", "/concepts", 200, 0.1)
    metrics.refused("not-found")
    metrics.swapped("20261101T020000000-a1b2", "model", 3)
    return exposed(metrics.registry)


def targets(panel: dict[str, Any]) -> list[dict[str, Any]]:
    return panel.get("targets", [])


PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = {
    **{f"{p['title']} {t['refId']}": t["expr"] for p in PANELS for t in targets(p)},
    **{rule["alert"]: rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]},
}


@dataclass
class Query:
    """What a PromQL expression asks for."""

    selectors: list[tuple[str, set[str]]]  # each metric, and the labels it matches there
    rated: set[str]  # the metrics that stand in rate() or increase()
    grouped: set[str]  # labels of by () and on ()


def parse(expression: str) -> Query:
    """Read PromQL as Prometheus would.

    Raises:
        ValueError: it would refuse it.
    """
    query = Query([], set(), set())

    def visit(node: promql.Expr) -> None:
        if isinstance(node, promql.Call) and node.func.name in {"rate", "increase"}:
            query.rated.add(node.args[0].vector_selector.name)
        if isinstance(node, promql.VectorSelector):
            query.selectors.append((node.name, {m.name for m in node.matchers.matchers}))
        if isinstance(node, promql.AggregateExpr) and node.modifier:
            query.grouped.update(node.modifier.labels)
        if isinstance(node, promql.BinaryExpr) and node.modifier and node.modifier.matching:
            query.grouped.update(node.modifier.matching.labels)

    # Grafana puts its variables in before it asks; inside quotes they may stay.
    promql.walk(promql.parse(expression.replace("$__rate_interval", "5m")), visit)
    return query


def test_there_is_something_to_look_at() -> None:
    assert len(PANELS) >= 15
    assert all(targets(panel) and panel["description"] for panel in PANELS)
    assert len(EXPRESSIONS) >= len(PANELS) + 5


@pytest.mark.parametrize("title", EXPRESSIONS)
def test_every_expression_names_metrics_that_are_exposed(
    title: str, metrics: dict[str, set[str]]
) -> None:
    query = parse(EXPRESSIONS[title])
    assert query.selectors
    known = set(BY_PROMETHEUS)
    for name, matched in query.selectors:
        assert name in metrics, f"{name} is not exposed"
        assert matched <= metrics[name] | BY_PROMETHEUS, f"{name} has no such label"
        known |= metrics[name]
    assert query.grouped <= known


@pytest.mark.parametrize("title", EXPRESSIONS)
def test_counters_are_asked_for_their_rate_and_gauges_are_not(title: str) -> None:
    query = parse(EXPRESSIONS[title])
    counters = {
        name
        for name, _ in query.selectors
        if name.endswith(("_total", "_bucket", "_sum", "_count"))
    }
    assert query.rated == counters


def test_a_metric_that_is_not_exposed_would_be_noticed() -> None:
    query = parse(
        'sum by (stage) (rate(whence_no_such_total{stage="x"}[5m])) / on (job) up{job="a"}'
    )
    assert query.selectors == [("whence_no_such_total", {"stage"}), ("up", {"job"})]
    assert query.rated == {"whence_no_such_total"}
    assert query.grouped == {"stage", "job"}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_legend_shows_labels_that_are_left(panel: dict[str, Any]) -> None:
    for target in targets(panel):
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        if aggregated := parse(target["expr"]).grouped:
            assert shown <= aggregated


def test_every_alert_is_tested_where_it_fires_and_where_it_does_not() -> None:
    cases = yaml.safe_load(ALERT_TESTS.read_text(encoding="utf-8"))["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"]]
    alerts = {rule["alert"] for group in ALERTS["groups"] for rule in group["rules"]}
    assert {check["alertname"] for check in checks if check["exp_alerts"]} == alerts
    assert {check["alertname"] for check in checks if not check["exp_alerts"]} == alerts


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool on this machine (apt: prometheus)")
@pytest.mark.parametrize(
    "args",
    [
        ["check", "config", "--syntax-only", ROOT / "deploy/prometheus.yml"],
        ["check", "rules", ROOT / "deploy/alerts.yml"],
        ["test", "rules", ALERT_TESTS],
    ],
    ids=["config", "rules", "tests"],
)
def test_promtool_accepts_the_files_and_the_alerts_fire_as_their_tests_say(
    args: list[str | Path],
) -> None:
    command = [str(PROMTOOL), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_series_that_alerts_watch_exist_before_the_first_event() -> None:
    fresh = Metrics().registry
    for rule in (rule for group in ALERTS["groups"] for rule in group["rules"]):
        for problem in re.findall(r'problem="([\w-]+)"', rule["expr"]):
            assert fresh.get_sample_value("whence_refusals_total", {"problem": problem}) == 0


def test_panels_do_not_overlap() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


# The files find each other


def mounted(service: str) -> dict[str, Path]:
    """Where the files of this project lie in a service: target to source."""
    pairs = (volume.split(":")[:2] for volume in COMPOSE["services"][service]["volumes"])
    return {target: ROOT / source for source, target in pairs if source.startswith("./")}


def server_environment() -> dict[str, str]:
    """The defaults of every server in compose."""
    text = (ROOT / "deploy/server.env").read_text(encoding="utf-8")
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def test_prometheus_scrapes_the_server_s_metrics_port() -> None:
    [job] = PROMETHEUS["scrape_configs"]
    assert job["job_name"] == "whence"  # as the dashboard and the alerts call it
    environment = server_environment()
    settings = Settings(
        metrics_port=environment["WHENCE_METRICS_PORT"],
        metrics_host=environment["WHENCE_METRICS_HOST"],
    )
    assert settings.metrics_host == "0.0.0.0"
    assert job["static_configs"] == [{"targets": [f"whence:{settings.metrics_port}"]}]
    assert "ports" not in COMPOSE["services"]["whence"]


def test_prometheus_scrapes_every_replica_that_runs() -> None:
    [job] = PROMETHEUS["scrape_configs"]
    [found] = job["dns_sd_configs"]
    replicas = {
        name
        for name, service in COMPOSE["services"].items()
        if service.get("profiles") == ["scale"] and service["image"] == "whence"
    }
    assert set(found["names"]) == replicas
    assert server_environment()["WHENCE_METRICS_PORT"] == str(found["port"])


def test_prometheus_finds_its_files() -> None:
    mounts = mounted("prometheus")
    assert all(path.is_file() for path in mounts.values())
    [config] = [w for w in COMPOSE["services"]["prometheus"]["command"] if "config.file" in w]
    folder = Path(config.partition("=")[2]).parent
    for name in (Path(config).name, *PROMETHEUS["rule_files"]):
        assert str(folder / name) in mounts


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    mounts = mounted("grafana")
    assert all(path.is_dir() for path in mounts.values())
    provisioning = mounts["/etc/grafana/provisioning"]
    sources = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())
    [port] = COMPOSE["services"]["prometheus"]["ports"]
    [source] = sources["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"] == f"http://prometheus:{port.rpartition(':')[2]}"
    [provider] = yaml.safe_load((provisioning / "dashboards/whence.yml").read_text())["providers"]
    home = COMPOSE["services"]["grafana"]["environment"][
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"
    ]
    assert str(Path(home).parent) == provider["options"]["path"]
    assert (mounts[provider["options"]["path"]] / Path(home).name).is_file()
