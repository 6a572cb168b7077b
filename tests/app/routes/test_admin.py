"""Admin requests, and what changes in a running server: takedowns and index versions."""

import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest
from fastapi.testclient import TestClient

from app import watchers
from app.auth.keys import KeyFile
from app.main import create_app
from app.settings import Settings
from index.answering.attribution import Attributor, open_attributor
from index.building.embedding import ImageEmbedder
from index.errors import TakedownError
from index.layout import DataFolder
from index.snapshot import MANIFEST, Manifest, Snapshot, publish, published_version
from index.takedowns.log import TakedownLog
from index.takedowns.witnesses import WITNESS
from model.files import FileStamp
from tests.app.conftest import CheckProblem, shade, write_keys
from tests.fakes import FakeEmbedder, build_snapshot
from tests.pictures import encode
from tests.waiting import wait_until

TOKEN = "a token that is long enough"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
BECAUSE = {**BEARER, "X-Whence-Reason": "r"}
NAMES = ("Crimson", "Emerald", "Navy blue")


def load(settings: Settings, embedder: ImageEmbedder | None) -> Attributor:
    return open_attributor(DataFolder(settings.data), embedder=embedder or FakeEmbedder())


def build(data: Path, *names: str, number: int = 3) -> Snapshot:
    """Publish a version with these concepts."""
    shutil.rmtree(data / "source", ignore_errors=True)
    return build_snapshot(data, {name: [shade(name, n) for n in range(number)] for name in names})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    build(tmp_path, *NAMES).close()
    write_keys(tmp_path, {TOKEN: "admin"})
    return tmp_path


@pytest.fixture
def server(data: Path) -> Iterator[TestClient]:
    app = create_app(Settings(data=data), load=load)
    with TestClient(app, raise_server_exceptions=False, headers=BEARER) as client:
        yield client


def ask(client: TestClient, name: str = "Emerald") -> dict[str, Any]:
    response = client.post("/attribute", files={"image": encode(shade(name, 1))})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def concepts(client: TestClient) -> list[str]:
    return [concept["id"] for concept in client.get("/concepts").json()["concepts"]]


# Who may


REQUESTS = [
    ("POST", "/takedowns"),
    ("DELETE", "/concepts/emerald"),
    ("DELETE", "/exemplars/x"),
    ("POST", "/admin/reload"),
    ("POST", "/admin/rebuild"),
    ("GET", "/admin/rebuild"),
]


@pytest.mark.parametrize(("method", "path"), REQUESTS)
@pytest.mark.parametrize("headers", [{}, BEARER])
def test_a_server_without_keys_takes_no_admin_requests(
    client: TestClient, check_problem: CheckProblem, method: str, path: str, headers: dict[str, str]
) -> None:
    problem = check_problem(client.request(method, path, headers=headers), 401, "unauthorized")
    assert "whence keys add" in problem["detail"]


@pytest.mark.parametrize(("method", "path"), REQUESTS)
@pytest.mark.parametrize(
    "authorization", [None, "Bearer wrong", "Bearer ", "Bearer", f"Basic {TOKEN}", f"Token {TOKEN}"]
)
def test_without_the_right_key_nothing_is_done(
    server: TestClient,
    check_problem: CheckProblem,
    method: str,
    path: str,
    authorization: str | None,
) -> None:
    headers = {"Authorization": authorization} if authorization else None
    kept = server.headers.pop("Authorization")
    response = server.request(method, path, headers=headers)
    server.headers["Authorization"] = kept
    check_problem(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert len(concepts(server)) == 3


@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_a_key_that_may_only_ask_changes_nothing(
    server: TestClient, data: Path, check_problem: CheckProblem, method: str, path: str
) -> None:
    other = KeyFile(DataFolder(data).keys).add("asks")
    headers = {"Authorization": f"Bearer {other}"}
    check_problem(wait_known(server, method, path, headers), 403, "forbidden")
    assert len(concepts(server)) == 3


def wait_known(
    server: TestClient, method: str, path: str, headers: dict[str, str]
) -> httpx.Response:
    """The answer once the server knows the key."""
    answers: list[httpx.Response] = []

    def known() -> bool:
        answers.append(server.request(method, path, headers=headers))
        return answers[-1].status_code != 401

    wait_until(known)
    return answers[-1]


# Takedowns


def test_a_concept_taken_down_is_gone_with_the_answer(server: TestClient, data: Path) -> None:
    assert ask(server)["concepts"][0]["id"] == "emerald"
    image = server.get("/concepts/emerald").json()["exemplars"][0]["image_url"]
    headers = {**BEARER, "X-Whence-Reason": "the%20artist%2C%20Ren%C3%A9e"}
    response = server.delete("/concepts/emerald", headers=headers)
    assert response.status_code == 200
    body = response.json()
    assert (body["kind"], body["target"], body["exemplars"]) == ("concept", "emerald", 3)
    assert concepts(server) == ["crimson", "navy-blue"]
    assert "emerald" not in [concept["id"] for concept in ask(server)["concepts"]]
    assert server.get("/concepts/emerald").status_code == 404
    assert server.get(image).status_code == 404
    ready = server.get("/health/ready").json()
    assert (ready["concepts"], ready["exemplars"], ready["taken_down"]) == (2, 6, 3)
    [one] = TakedownLog(DataFolder(data).takedowns).read().active
    assert (one.id, one.reason) == (body["id"], "the artist, Renée")


def test_an_exemplar_taken_down_is_gone_and_the_others_stay(server: TestClient) -> None:
    [first, *_] = server.get("/concepts/emerald").json()["exemplars"]
    assert server.delete(f"/exemplars/{first['id']}", headers=BECAUSE).status_code == 200
    left = server.get("/concepts/emerald").json()
    assert left["exemplar_count"] == len(left["exemplars"]) == 2
    shown = [e["id"] for concept in ask(server)["concepts"] for e in concept["exemplars"]]
    assert first["id"] not in shown


def test_what_is_not_there_cannot_be_taken_down(
    server: TestClient, check_problem: CheckProblem
) -> None:
    for path in ("/concepts/nobody", "/exemplars/nobody"):
        check_problem(server.delete(path, headers=BECAUSE), 404, "not-found")


def test_what_is_hidden_already_can_be_taken_down_as_well(server: TestClient) -> None:
    exemplars = server.get("/concepts/emerald").json()["exemplars"]
    for one in exemplars:
        assert server.delete(f"/exemplars/{one['id']}", headers=BECAUSE).status_code == 200
    response = server.delete("/concepts/emerald", headers=BECAUSE)
    assert response.status_code == 200
    assert (response.json()["exemplars"], response.json()["hides"]) == (3, [])
    again = server.delete(f"/exemplars/{exemplars[0]['id']}", headers=BECAUSE)
    assert again.status_code == 200


def test_a_takedown_can_be_posted_and_tells_what_it_hides(server: TestClient, data: Path) -> None:
    exemplars = server.get("/concepts/emerald").json()["exemplars"]
    wanted = {"kind": "exemplar", "id": exemplars[0]["id"], "reason": "the artist, Renée"}
    response = server.post("/takedowns", json=wanted, headers=BEARER)
    assert response.status_code == 201
    body = response.json()
    assert body["reason"] == "the artist, Renée"
    assert body["hides"] == [
        {
            "id": exemplars[0]["id"],
            "concept_id": "emerald",
            "sha256": exemplars[0]["sha256"],
            "how": "named",
        }
    ]
    concept = server.delete("/concepts/emerald", headers=BECAUSE).json()
    assert [one["id"] for one in concept["hides"]] == [one["id"] for one in exemplars[1:]]
    assert concept["exemplars"] == 3
    assert concepts(server) == ["crimson", "navy-blue"]


@pytest.mark.parametrize(
    "headers",
    [
        BEARER,
        {**BEARER, "X-Whence-Reason": ""},
        {**BEARER, "X-Whence-Reason": "%20"},
        {**BEARER, "X-Reason": "r"},
    ],
)
def test_a_reason_is_needed(
    server: TestClient, check_problem: CheckProblem, headers: dict[str, str]
) -> None:
    problem = check_problem(
        server.delete("/concepts/emerald", headers=headers), 422, "invalid-request"
    )
    assert "X-Whence-Reason" in problem["detail"]
    assert len(concepts(server)) == 3


def test_a_reason_in_the_address_is_refused(
    server: TestClient, check_problem: CheckProblem
) -> None:
    response = server.delete("/concepts/emerald?reason=r", headers=BECAUSE)
    check_problem(response, 422, "invalid-request")
    assert len(concepts(server)) == 3


@pytest.mark.parametrize(
    "change",
    [{"reason": ""}, {"reason": " "}, {"reason": None}, {"kind": "image"}, {"id": ""}, {"more": 1}],
)
def test_a_posted_takedown_is_checked(
    server: TestClient, check_problem: CheckProblem, change: dict[str, Any]
) -> None:
    wanted = {"kind": "concept", "id": "emerald", "reason": "r", **change}
    response = server.post("/takedowns", json=wanted, headers=BEARER)
    check_problem(response, 422, "invalid-request")
    garbage = server.post("/takedowns", content=b"{", headers=BEARER)
    check_problem(garbage, 422, "invalid-request")
    assert len(concepts(server)) == 3


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b'{"kind": }', "Expecting value, at character 9"),
        (b'{"kind": "\xff"}', "UnicodeDecodeError"),
        (b"[" * 50_000, "RecursionError"),
        (b"1" * 5000, "ValueError"),
    ],
)
def test_json_that_cannot_be_read_is_a_problem_of_its_own(
    server: TestClient, check_problem: CheckProblem, body: bytes, cause: str
) -> None:
    headers = BEARER | {"Content-Type": "application/json"}
    response = server.post("/takedowns", content=body, headers=headers)
    assert f"({cause})" in check_problem(response, 400, "malformed-json")["detail"]
    said = server.get("/openapi.json").json()["paths"]["/takedowns"]["post"]["responses"]["400"]
    assert "malformed-json" in said["content"]["application/problem+json"]["examples"]


def test_takedowns_do_not_wait_for_the_threads_of_slow_reads(server: TestClient) -> None:
    assert server.portal
    limiter = server.portal.call(anyio.to_thread.current_default_thread_limiter)
    over = threading.Event()
    limiter.total_tokens, tokens = 1, limiter.total_tokens
    held = server.portal.start_task_soon(anyio.to_thread.run_sync, over.wait)
    try:
        wait_until(lambda: limiter.borrowed_tokens == 1)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(server.delete, "/concepts/emerald", headers=BECAUSE)
            try:
                assert asked.result(10).status_code == 200
            finally:
                over.set()
    finally:
        limiter.total_tokens = tokens
        held.result(10)
    assert "emerald" not in concepts(server)


def test_a_takedown_of_another_process_is_noticed(server: TestClient, data: Path) -> None:
    log = TakedownLog(DataFolder(data).takedowns)
    one = log.add("concept", "emerald", [], reason="r")
    wait_until(lambda: len(concepts(server)) == 2)
    log.lift(one.id, reason="r")
    wait_until(lambda: len(concepts(server)) == 3)


def test_a_log_that_cannot_be_written_is_a_problem_and_nothing_is_hidden(
    server: TestClient, data: Path, check_problem: CheckProblem
) -> None:
    (data / "takedowns.jsonl").mkdir()
    response = server.delete("/concepts/emerald", headers=BECAUSE)
    check_problem(response, 503, "takedowns-unusable")
    assert len(concepts(server)) == 3


def test_a_damaged_log_takes_no_takedown(
    server: TestClient, data: Path, check_problem: CheckProblem
) -> None:
    (data / "takedowns.jsonl").write_text("garbage\n")
    problem = check_problem(
        server.delete("/concepts/emerald", headers=BECAUSE), 503, "takedowns-unusable"
    )
    assert "line 1" in problem["detail"]
    assert (data / "takedowns.jsonl").read_text() == "garbage\n"


def test_a_takedown_that_is_not_in_force_is_not_told_as_done(
    server: TestClient,
    data: Path,
    check_problem: CheckProblem,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: TakedownLog) -> None:
        raise TakedownError("the log cannot be read")

    monkeypatch.setattr(TakedownLog, "read", fail)
    response = server.delete("/concepts/emerald", headers=BECAUSE)
    detail = check_problem(response, 503, "takedowns-unusable")["detail"]
    assert "recorded but not in force" in detail
    monkeypatch.undo()
    [one] = TakedownLog(DataFolder(data).takedowns).read().active
    assert one.id in detail
    wait_until(lambda: len(concepts(server)) == 2)


def test_a_damaged_log_keeps_a_server_from_starting_to_serve(
    data: Path, check_problem: CheckProblem
) -> None:
    (data / "takedowns.jsonl").write_text("garbage\n")
    app = create_app(Settings(data=data), load=load)
    with TestClient(app, headers=BEARER) as client:
        check_problem(client.get("/concepts"), 503, "takedowns-unusable")


def test_samples_of_a_withdrawn_work_are_not_shown(server: TestClient, data: Path) -> None:
    folder = data / "samples" / published_version(data / "index")
    folder.mkdir(parents=True)
    shade("Emerald", 1).resize((128, 96)).save(folder / "a copy.png")
    shade("Crimson", 1).save(folder / "other.png")

    def shown() -> list[str]:
        return [sample["name"] for sample in server.get("/samples").json()["samples"]]

    assert shown() == ["a copy", "other"]
    assert server.get("/samples/a copy.png").status_code == 200
    server.delete("/concepts/emerald", headers=BECAUSE)
    assert shown() == ["other"]
    assert server.get("/samples/a copy.png").status_code == 404
    assert server.get("/samples/other.png").status_code == 200


def test_heatmaps_of_a_withdrawn_work_are_not_shown(server: TestClient) -> None:
    image = {"image": encode(shade("Emerald", 1))}
    answer = server.post("/attribute", files=image, params={"explain": True}).json()
    maps = {
        concept["id"]: hit["heatmaps"]
        for concept in answer["concepts"]
        for hit in concept["exemplars"][:1]
        if hit["heatmaps"]
    }
    assert len(maps) > 1
    server.delete("/concepts/emerald", headers=BECAUSE)
    for concept, pair in maps.items():
        expected = 404 if concept == "emerald" else 200
        assert server.get(pair["query_url"]).status_code == expected
        assert server.get(pair["exemplar_url"]).status_code == expected


def test_a_catalog_that_is_written_over_answers_nothing(
    server: TestClient, data: Path, check_problem: CheckProblem
) -> None:
    catalog = data / "index" / published_version(data / "index") / "catalog.sqlite"
    whole = catalog.read_bytes()
    catalog.write_bytes(whole[: len(whole) // 2])
    response = server.get("/concepts")
    assert "whence rebuild" in check_problem(response, 503, "no-index")["detail"]
    catalog.write_bytes(whole)
    wait_until(lambda: server.get("/concepts").status_code == 200)


@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_log_that_is_lost_with_its_witnesses_shows_nothing_again(
    data: Path,
    tmp_path_factory: pytest.TempPathFactory,
    check_problem: CheckProblem,
    whole_folder: bool,
) -> None:
    """The memory of the running server is the last witness; it leaves a copy for the repair."""
    folder = DataFolder(data)
    log = TakedownLog(folder.takedowns)
    app = create_app(Settings(data=data), load=load)
    backup = tmp_path_factory.mktemp("backup")
    shutil.copytree(data, backup, dirs_exist_ok=True)
    with TestClient(app, raise_server_exceptions=False, headers=BEARER) as server:
        assert server.delete("/concepts/emerald", headers=BECAUSE).status_code == 200
        if whole_folder:  # an older copy of everything is restored
            shutil.copytree(backup, data, dirs_exist_ok=True)
        for path in (log.path, log.extent_file, *data.glob(f"*/*/{WITNESS}")):
            path.unlink()
        ready = wait_until(lambda: (r := server.get("/health/ready").json())["reload_error"] and r)
        assert "whence takedown repair" in ready["reload_error"]
        assert ready["taken_down"] == 3
        assert "whence_takedown_log_usable 0.0" in server.get("/metrics").text
        problem = check_problem(
            server.delete("/concepts/crimson", headers=BECAUSE), 503, "takedowns-unusable"
        )
        assert "whence takedown repair" in problem["detail"]
        assert concepts(server) == ["crimson", "navy-blue"]
        wait_until(log.rescue_file.exists)
        with pytest.raises(TakedownError, match="0 records of at least 1"):
            log.read()
        assert log.repair() == 1
        wait_until(lambda: server.get("/health/ready").json()["reload_error"] is None)
        assert "whence_takedown_log_usable 1.0" in server.get("/metrics").text
        assert concepts(server) == ["crimson", "navy-blue"]


def test_a_log_damaged_later_is_told_and_what_is_hidden_stays_hidden(
    server: TestClient, data: Path
) -> None:
    server.delete("/concepts/emerald", headers=BECAUSE)
    (data / "takedowns.jsonl").write_text("garbage\n")
    wait_until(lambda: server.get("/health/ready").json()["reload_error"])
    assert "damaged" in server.get("/health/ready").json()["reload_error"]
    assert len(concepts(server)) == 2


def test_an_attributor_given_to_the_app_is_masked_too(
    data: Path, check_problem: CheckProblem
) -> None:
    given = open_attributor(DataFolder(data), embedder=FakeEmbedder())
    app = create_app(Settings(data=data), given)
    with TestClient(app, headers=BEARER) as client:
        client.delete("/concepts/emerald", headers=BECAUSE)
        assert concepts(client) == ["crimson", "navy-blue"]
    assert given.snapshot.catalog.concept_count() == 3  # it is the caller's, and still open


# Hot swap


def version_of(client: TestClient) -> str:
    return str(client.get("/health/ready").json()["index_version"])


def test_a_new_version_is_noticed(server: TestClient, data: Path) -> None:
    snapshot = build(data, "Crimson")
    wait_until(lambda: version_of(server) == snapshot.version)
    assert concepts(server) == ["crimson"]
    assert ask(server)["evidence"]["index_version"] == snapshot.version


def test_a_reload_waits_until_the_new_version_is_served(server: TestClient, data: Path) -> None:
    before = version_of(server)
    snapshot = build(data, "Crimson")
    response = server.post("/admin/reload", headers=BEARER)
    assert response.json() == {
        "index_version": snapshot.version,
        "previous_version": response.json()["previous_version"],
    }
    assert response.json()["previous_version"] in {before, snapshot.version}
    assert concepts(server) == ["crimson"]


def test_a_broken_new_version_leaves_the_old_one_serving_and_is_told(
    server: TestClient, data: Path, check_problem: CheckProblem
) -> None:
    before = version_of(server)
    broken = data / "index" / "broken"
    shutil.copytree(data / "index" / before, broken)
    manifest = Manifest.model_validate_json((broken / MANIFEST).read_bytes())
    changed = manifest.model_copy(update={"version": "broken"})
    (broken / MANIFEST).write_text(changed.model_dump_json())
    (broken / "style.faiss").unlink()
    publish(data / "index", "broken")
    response = server.post("/admin/reload", headers=BEARER)
    detail = check_problem(response, 409, "not-reloaded")["detail"]
    assert before in detail
    assert "style.faiss is missing" in detail
    assert "style.faiss" in server.get("/health/ready").json()["reload_error"]
    assert len(concepts(server)) == 3
    server.delete("/concepts/emerald", headers=BECAUSE)
    assert len(concepts(server)) == 2  # takedowns reach the old one as well
    publish(data / "index", before)
    assert server.post("/admin/reload", headers=BEARER).status_code == 200
    assert server.get("/health/ready").json()["reload_error"] is None


def test_a_takedown_holds_in_the_next_version_and_after_a_rollback(
    server: TestClient, data: Path
) -> None:
    first = published_version(data / "index")
    assert first
    server.delete("/concepts/emerald", headers=BECAUSE)
    build(data, *NAMES).close()
    server.post("/admin/reload", headers=BEARER)
    assert concepts(server) == ["crimson", "navy-blue"]
    publish(data / "index", first)
    server.post("/admin/reload", headers=BEARER)
    assert version_of(server) == first
    assert concepts(server) == ["crimson", "navy-blue"]


def test_a_mended_log_is_no_error_any_more(
    server: TestClient, data: Path, check_problem: CheckProblem
) -> None:
    (data / "takedowns.jsonl").write_text("garbage\n")
    response = server.post("/admin/reload", headers=BEARER)
    assert check_problem(response, 409, "not-reloaded")["detail"].count("line 1") == 1
    (data / "takedowns.jsonl").unlink()
    wait_until(lambda: server.get("/health/ready").json()["reload_error"] is None)


def test_an_index_that_cannot_be_read_is_told_once_and_the_old_version_goes_on(
    server: TestClient, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = version_of(server)
    index = data / "index"
    index.rename(data / "aside")
    index.write_text("no folder")  # as good as a folder without permissions, which root may read
    wait_until(lambda: server.get("/health/ready").json()["reload_error"])
    tries = attempts(server)
    assert server.post("/admin/reload", headers=BEARER).status_code == 409
    wait_until(lambda: attempts(server) > tries + 1)
    assert ask(server)["evidence"]["index_version"] == before
    lines = [line for line in caplog.records if line.levelname in {"WARNING", "ERROR"}]
    assert [line.name for line in lines] == ["app.watchers"]
    assert "the server goes on as it was" in lines[0].message
    assert not lines[0].exc_info
    index.unlink()
    (data / "aside").rename(index)
    wait_until(lambda: server.get("/health/ready").json()["reload_error"] is None)


def attempts(client: TestClient) -> float:
    """How often something could not be put into effect."""
    text = client.get("/metrics").text
    found = re.search(r"^whence_index_reload_failures_total (.+)$", text, re.MULTILINE)
    assert found
    return float(found[1])


def test_a_damage_that_a_reload_met_is_looked_at_again(server: TestClient, data: Path) -> None:
    folder = data / "index" / version_of(server)
    (folder / "style.faiss").rename(data / "aside")
    assert server.post("/admin/reload", headers=BEARER).status_code == 409
    (data / "aside").rename(folder / "style.faiss")
    wait_until(lambda: server.get("/health/ready").json()["reload_error"] is None)


def test_a_rollback_from_a_broken_version_does_not_wait(
    server: TestClient, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "RETRY_SECONDS", 600)
    before = version_of(server)
    (data / "index" / "broken").mkdir()
    publish(data / "index", "broken")
    wait_until(lambda: server.get("/health/ready").json()["reload_error"])
    publish(data / "index", before)
    wait_until(lambda: server.get("/health/ready").json()["reload_error"] is None)


class Slow(FakeEmbedder):
    """Holds queries back until it is released; quick for one caller, the warming one."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.released = threading.Event()
        self.released.set()

    def embed_pixels(self, pixels: Any) -> Any:
        self.entered.release()
        assert self.released.wait(30)
        return super().embed_pixels(pixels)


def test_a_request_in_flight_ends_on_the_version_it_began_with(data: Path) -> None:
    embedder = Slow()

    def load_slow(settings: Settings, again: ImageEmbedder | None) -> Attributor:
        # A new version is warmed with an embedder of its own, the old one's being held back.
        return open_attributor(
            DataFolder(settings.data), embedder=FakeEmbedder() if again else embedder
        )

    app = create_app(Settings(data=data), load=load_slow)
    with TestClient(app, headers=BEARER) as client, ThreadPoolExecutor(1) as pool:
        old = version_of(client)
        while embedder.entered.acquire(blocking=False):
            pass  # what warming left
        embedder.released.clear()
        try:
            waiting = pool.submit(ask, client)
            assert embedder.entered.acquire(timeout=300)
            snapshot = build(data, "Crimson")
            assert client.post("/admin/reload", headers=BEARER).status_code == 200
            assert concepts(client) == ["crimson"]
        finally:
            embedder.released.set()
        answer = waiting.result(30)
    assert answer["evidence"]["index_version"] == old != snapshot.version
    assert answer["concepts"][0]["id"] == "emerald"


def test_a_takedown_does_not_wait_for_a_version_that_is_being_opened(data: Path) -> None:
    entered, released = threading.Event(), threading.Event()
    released.set()

    def load_slow(settings: Settings, embedder: ImageEmbedder | None) -> Attributor:
        opened = load(settings, embedder)  # with the takedowns of now
        entered.set()
        assert released.wait(30)
        return opened

    app = create_app(Settings(data=data), load=load_slow)
    with TestClient(app, headers=BEARER) as client, ThreadPoolExecutor(1) as pool:
        old = version_of(client)
        entered.clear()
        released.clear()
        try:
            new = build(data, *NAMES).version
            reloaded = pool.submit(client.post, "/admin/reload", headers=BEARER)
            assert entered.wait(30)
            response = client.delete("/concepts/emerald", headers=BECAUSE)
            assert response.status_code == 200
            assert concepts(client) == ["crimson", "navy-blue"]
            TakedownLog(DataFolder(data).takedowns).add("concept", "crimson", [], reason="r")
            wait_until(lambda: concepts(client) == ["navy-blue"])
            assert version_of(client) == old
        finally:
            released.set()
        assert reloaded.result(30).status_code == 200
        assert version_of(client) == new
        assert concepts(client) == ["navy-blue"]
        assert ask(client, "Emerald")["evidence"]["index_version"] == new


def test_what_is_replaced_is_closed_when_its_last_request_has_ended() -> None:
    closed = []

    class Closable:
        class snapshot:  # noqa: N801
            @staticmethod
            def close() -> None:
                closed.append(True)

    leased = watchers._Leased(Closable(), owned=True)  # type: ignore[arg-type]
    with leased.lease(), leased.lease():
        leased.retire()
        assert not closed
    assert closed == [True]


def test_the_model_is_loaded_once_for_versions_that_share_it(data: Path) -> None:
    embedders: list[ImageEmbedder | None] = []

    def watched(settings: Settings, embedder: ImageEmbedder | None) -> Attributor:
        embedders.append(embedder)
        return load(settings, embedder)

    app = create_app(Settings(data=data), load=watched)
    with TestClient(app, headers=BEARER) as client:
        client.post("/admin/reload", headers=BEARER)
        ask(client)
    assert embedders[0] is None
    assert all(isinstance(embedder, FakeEmbedder) for embedder in embedders[1:])


def test_steady_requests_see_whole_versions_while_they_are_swapped(
    server: TestClient, data: Path
) -> None:
    versions = {version_of(server): 3}
    for count in (1, 2):
        snapshot = build(data, *NAMES[:count])
        versions[snapshot.version] = count
        snapshot.close()
    stop = threading.Event()

    def keep_asking() -> list[httpx.Response]:
        answers = []
        while not stop.is_set():
            answers.append(server.post("/attribute", files={"image": encode(shade("Crimson", 1))}))
        return answers

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(keep_asking) for _ in range(4)]
        try:
            for version in [*versions, *versions]:
                publish(data / "index", version)
                assert server.post("/admin/reload", headers=BEARER).status_code == 200
        finally:
            stop.set()
        answers = [answer for one in asking for answer in one.result(30)]
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers:
        body = answer.json()
        assert len(body["concepts"]) == versions[body["evidence"]["index_version"]]


def test_a_version_published_within_one_tick_of_the_clock_is_served(
    server: TestClient, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where times are coarse and files unnumbered, both states of `CURRENT` have one stamp."""
    exact = FileStamp.of

    def coarse(path: Path) -> FileStamp:
        return exact(path)._replace(modified_ns=0, changed_ns=0, inode=0)

    monkeypatch.setattr(FileStamp, "of", coarse)
    before = version_of(server)
    wait_until(lambda: server.get("/health/ready").json()["reload_error"] is None)
    build(data, "Crimson").close()
    now = published_version(data / "index")
    assert now != before
    wait_until(lambda: version_of(server) == now)


@pytest.mark.parametrize("content", [None, b"", b"2026"])
def test_a_rename_that_is_not_atomic_disturbs_nothing(
    server: TestClient, data: Path, content: bytes | None
) -> None:
    """Between its steps `CURRENT` is missing, empty or cut short; the old version goes on."""
    current = data / "index" / "CURRENT"
    before, whole = version_of(server), current.read_bytes()
    current.unlink()
    if content is not None:
        current.write_bytes(content)
    wait_until(lambda: server.get("/health/ready").json()["reload_error"])
    assert concepts(server) == ["crimson", "emerald", "navy-blue"]
    assert version_of(server) == before
    current.write_bytes(whole)
    wait_until(lambda: server.get("/health/ready").json()["reload_error"] is None)
    assert version_of(server) == before
