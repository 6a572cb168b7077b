"""Reports on an answer that was given before."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.reports.reading import read_report
from app.reports.verify import verify_report
from app.settings import Settings
from index.answering.attribution import Attributor, open_attributor
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from index.takedowns.withdrawal import withdraw
from tests.app.conftest import CheckProblem, write_keys
from tests.fakes import FakeEmbedder, patches
from tests.pictures import encode
from tests.waiting import wait_until

QUERY = encode(patches(3, side=64))
Ask = Callable[..., httpx.Response]


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path / "data")
    for number in range(6):
        concept = tmp_path / "source" / f"Painter {number}"
        concept.mkdir(parents=True)
        for turn in range(2):
            patches(2 * number + turn, side=64).save(concept / f"{turn}.png")
    rebuild(folder, read_sources([tmp_path / "source"]), FakeEmbedder(), RebuildOptions())
    return folder


def serve(data: DataFolder) -> TestClient:
    def load(settings: Settings, _: object) -> Attributor:
        return open_attributor(DataFolder(settings.data), embedder=FakeEmbedder())

    return TestClient(create_app(Settings(data=data.root), load=load))


@pytest.fixture
def client(data: DataFolder) -> Iterator[TestClient]:
    with serve(data) as client:
        yield client


def ask(client: TestClient, data: bytes = QUERY, **parameters: Any) -> dict[str, Any]:
    response = client.post("/attribute", files={"image": ("q.png", data)}, params=parameters)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def report(
    client: TestClient, answer: str, data: bytes = QUERY, name: str = "q.png", **more: Any
) -> httpx.Response:
    parameters = {"answer": answer, **more}
    return client.post("/attribute/report", files={"image": (name, data)}, params=parameters)


def test_every_format_reports_on_the_answer_that_was_given(
    client: TestClient, data: DataFolder, tmp_path: Path
) -> None:
    answer = ask(client, keep=True, top_k=2, exemplars=1, explain=True)
    ask(client, encode(patches(8, side=64)), keep=True)
    told = report(client, answer["id"], format="json").json()
    again = report(client, answer["id"], format="json", top_k=5).json()
    page = report(client, answer["id"], format="html").text
    assert told == again == read_report(page)[1]
    assert told["created_at"] == answer["evidence"]["created_at"]
    assert told["parameters"] == {"top_k": 2, "exemplars": 1}
    shown = told["answer"]
    for concept in answer["concepts"]:
        for hit in concept["exemplars"]:
            hit["heatmaps"] = None  # those expire
    assert shown == {name: answer[name] for name in shown}
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    found = verify_report(file, data, embedder=FakeEmbedder())
    assert found.complete
    assert found.passed, found.findings


def test_kept_answers_have_a_size(client: TestClient, check_problem: CheckProblem) -> None:
    files = {"image": ("q.png", QUERY)}
    large: dict[str, Any] = {"top_k": 100, "exemplars": 20}
    response = client.post("/attribute", files=files, params={**large, "keep": True})
    [fault] = check_problem(response, 422, "invalid-request")["errors"]
    assert (fault["name"], "2,000" in fault["detail"]) == ("exemplars", True)
    assert client.post("/attribute", files=files, params=large).status_code == 200
    group = [("image", ("q.png", QUERY))] * 5
    for params, name in ((large, "exemplars"), ({"top_k": 820, "exemplars": 0}, "top_k")):
        response = client.post("/attribute/together", files=group, params={**params, "keep": True})
        [fault] = check_problem(response, 422, "invalid-request")["errors"]
        assert fault["name"] == name
        response = client.post("/attribute/together", files=group, params=params)
        assert response.status_code == 200
    assert "at most 4,096: ask for 819 concepts at most" in fault["detail"]


def test_a_caller_drops_no_answers_of_others(
    data: DataFolder, monkeypatch: pytest.MonkeyPatch, check_problem: CheckProblem
) -> None:
    monkeypatch.setattr("app.service.MAX_BYTES", 60_000)
    write_keys(data.root, {"mine": "attribute", "others": "attribute"})
    with serve(data) as client:
        client.headers["Authorization"] = "Bearer others"
        other = ask(client, keep=True)["id"]
        client.headers["Authorization"] = "Bearer mine"
        mine = [ask(client, keep=True)["id"] for _ in range(20)]
        assert report(client, mine[-1]).status_code == 200
        check_problem(report(client, mine[0]), 404, "answer-gone")
        assert report(client, other).status_code == 200


@pytest.mark.parametrize("answer", ["", "kept"])
def test_only_a_new_answer_is_checked_for_its_size(client: TestClient, answer: str) -> None:
    kept = ask(client, keep=True)["id"] if answer else ""
    parameters: dict[str, Any] = {"top_k": 100_000, "exemplars": 50, "answer": kept}
    assert report(client, **parameters).status_code == (200 if answer else 422)


def test_the_name_is_the_one_that_came_with_the_question(client: TestClient) -> None:
    answer = ask(client, keep=True)
    told = report(client, answer["id"], format="json").json()
    again = report(client, answer["id"], name="another name.png", format="json").json()
    assert told["query"]["name"] == "q.png"
    assert again == told
    page = report(client, answer["id"], name="a third.png", format="html").text
    seen = page[: page.index("<script")]
    assert seen.count(answer["id"]) == 2
    assert "a third.png" not in page


def test_a_part_of_an_image_is_reported_on_as_asked(client: TestClient) -> None:
    answer = ask(client, keep=True, region="8,0,32,40")
    told = report(client, answer["id"], format="json").json()["answer"]
    assert told["region"] == {"x": 8, "y": 0, "width": 32, "height": 40}
    assert told["compared"] == answer["compared"]


def test_ids_differ_and_answers_are_kept_only_if_asked(
    client: TestClient, check_problem: CheckProblem
) -> None:
    first, second = ask(client), ask(client)
    assert first["id"] != second["id"]
    assert len(first["id"]) == 32
    problem = check_problem(report(client, first["id"]), 404, "answer-gone")
    assert "keep=true" in problem["detail"]


def test_an_answer_is_not_reported_for_another_image(
    client: TestClient, check_problem: CheckProblem
) -> None:
    answer = ask(client, keep=True)
    other = encode(patches(8, side=64))
    problem = check_problem(report(client, answer["id"], other), 409, "other-image")
    assert hashlib.sha256(other).hexdigest() in problem["detail"]


def test_an_answer_is_gone_once_its_index_has_changed(
    client: TestClient, data: DataFolder, check_problem: CheckProblem
) -> None:
    answer = ask(client, keep=True)
    withdraw(data, "concept", answer["concepts"][-1]["id"], reason="test")
    wait_until(lambda: report(client, answer["id"]).status_code != 200)
    response = report(client, answer["id"])
    problem = check_problem(response, 404, "answer-gone")
    assert "changed" in problem["detail"]


def test_a_preview_is_a_picture_that_browsers_show(client: TestClient) -> None:
    tiff = encode(patches(3, side=64), "TIFF")
    assert ask(client, tiff)["preview"] is None
    answer = ask(client, tiff, preview=True)
    assert answer["preview"].startswith("data:image/jpeg;base64,/9j/")
    assert (answer["width"], answer["height"]) == (64, 64)
