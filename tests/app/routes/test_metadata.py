"""What a manifest says of an exemplar reaches readers as it was written."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.reports.report import content_hash
from app.reports.verify import verify_report
from app.settings import Settings
from index.answering.attribution import Attributor, open_attributor
from index.building.embedding import ImageEmbedder
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from tests.app.conftest import CheckProblem, write_keys
from tests.client.test_client import URL, Bridge
from tests.fakes import FakeEmbedder, patches
from tests.pictures import encode
from whence_client import Whence

TOKEN = "a token that is long enough"
# As the records are written in the manifest, which is also how they must come back.
METADATA = [
    '{"year": 1999, "id": 12345678901234567890, "tags": ["a", 1, null], "at": "2020-01-01"}',
    '{"year": "c. 1900", "nested": {"a": {"b": true}}, "名": "<b>北斎</b>", "ratio": 0.1}',
    "{}",
]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[TestClient]:
    lines = []
    for number, written in enumerate(METADATA):
        patches(number, side=64).save(tmp_path / f"{number}.png")
        record = {"path": f"{number}.png", "concept": f"c{number}", "license": "CC0-1.0"}
        lines.append(json.dumps(record)[:-1] + (f", {written[1:]}" if written != "{}" else "}"))
    (tmp_path / "m.jsonl").write_text("\n".join(lines), encoding="utf-8")
    data = DataFolder(tmp_path / "data")
    rebuild(
        data, read_sources([tmp_path / "m.jsonl"]), FakeEmbedder(), RebuildOptions(canary_rate=0)
    )
    write_keys(data.root, {TOKEN: "admin"})
    app = create_app(Settings(data=data.root), load=load)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with TestClient(app, raise_server_exceptions=False, headers=headers) as client:
        yield client


def load(settings: Settings, _: ImageEmbedder | None) -> Attributor:
    return open_attributor(DataFolder(settings.data), embedder=FakeEmbedder())


def ids(site: TestClient) -> list[str]:
    """Of the exemplars, in the order of the manifest."""
    names = [f"c{number}" for number in range(len(METADATA))]
    return [site.get(f"/concepts/{name}").json()["exemplars"][0]["id"] for name in names]


def ask(site: TestClient, number: int, **parameters: Any) -> dict[str, Any]:
    files = {"image": ("q.png", encode(patches(number, side=64)))}
    answer = site.post("/attribute", files=files, params={"top_k": 3, **parameters})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_an_exemplar_shows_what_its_record_said(site: TestClient) -> None:
    for number, (exemplar, written) in enumerate(zip(ids(site), METADATA, strict=True)):
        response = site.get(f"/exemplars/{exemplar}")
        assert response.headers["cache-control"] == "private, no-cache"
        record = response.json()
        assert repr(record["metadata"]) == repr(json.loads(written))
        assert (record["id"], record["concept_id"], record["concept_name"], record["license"]) == (
            exemplar, f"c{number}", f"c{number}", "CC0-1.0",
        )  # fmt: skip
        assert "/m.jsonl" not in response.text  # no path on the server's disk


def test_answers_have_metadata_where_it_is_asked_for(site: TestClient) -> None:
    asked = ask(site, 0, metadata=True)
    told = {one["id"]: one["exemplars"][0]["metadata"] for one in asked["concepts"]}
    assert told == {f"c{number}": json.loads(text) for number, text in enumerate(METADATA)}
    plain = ask(site, 0)
    assert {one["exemplars"][0]["metadata"] for one in plain["concepts"]} == {None}
    batch = site.post(
        "/attribute/batch",
        files=[("image", ("q.png", encode(patches(1, side=64))))],
        params={"metadata": True, "top_k": 1},
    ).json()
    [hit] = batch["answers"][0]["attribution"]["concepts"][0]["exemplars"]
    assert hit["metadata"] == json.loads(METADATA[1])


def test_the_client_reads_it(site: TestClient) -> None:
    with Whence(URL, key=TOKEN, transport=Bridge(site)) as whence:
        record = whence.exemplar(ids(site)[0])
        assert record.metadata == json.loads(METADATA[0])
        answer = whence.attribute(encode(patches(0, side=64)), top_k=1, metadata=True)
        assert answer.concepts[0].exemplars[0].metadata == record.metadata
        answer = whence.attribute(encode(patches(0, side=64)), top_k=1)
        assert answer.concepts[0].exemplars[0].metadata is None


@pytest.mark.parametrize("format_name", ["html", "json"])
def test_a_report_shows_it_and_is_verified_with_it(site, tmp_path: Path, format_name: str) -> None:
    """Numbers are text there: the canonical form of RFC 8785 has none beyond 2^53."""
    report = site.post(
        "/attribute/report",
        files={"image": ("q.png", encode(patches(0, side=64)))},
        params={"format": format_name, "top_k": 3},
    )
    assert report.status_code == 200, report.text
    file = tmp_path / f"report.{format_name}"
    file.write_bytes(report.content)
    found = verify_report(file, DataFolder(tmp_path / "data"), embedder=FakeEmbedder())
    assert {finding.name: finding.passed for finding in found.findings}["exemplars"] is True
    if format_name == "html":
        assert "<dt>id</dt><dd>12345678901234567890</dd>" in report.text
        assert "<dt>tags</dt><dd>[&#34;a&#34;, 1, null]</dd>" in report.text
        assert "<dt>名</dt><dd>&lt;b&gt;北斎&lt;/b&gt;</dd>" in report.text
        return
    shown = report.json()["exemplars"][ids(site)[0]]["metadata"]
    assert shown == {
        "year": "1999", "id": "12345678901234567890", "tags": '["a", 1, null]', "at": "2020-01-01",
    }  # fmt: skip
    record = report.json()
    record["exemplars"][ids(site)[0]]["metadata"]["year"] = "1899"
    file.write_text(json.dumps({**record, "sha256": content_hash(record)}))
    found = verify_report(file, DataFolder(tmp_path / "data"), embedder=FakeEmbedder())
    assert {finding.name: finding.passed for finding in found.findings}["exemplars"] is False


def test_what_is_taken_down_has_no_record(site: TestClient, check_problem: CheckProblem) -> None:
    exemplar, other, _ = ids(site)
    response = site.delete(f"/exemplars/{exemplar}", headers={"X-Whence-Reason": "asked for"})
    assert response.status_code == 200, response.text
    check_problem(site.get(f"/exemplars/{exemplar}"), 404, "not-found")
    assert site.get(f"/exemplars/{other}").status_code == 200
    answer = ask(site, 0, metadata=True)
    assert exemplar not in json.dumps(answer)
