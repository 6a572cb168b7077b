import io
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from app.errors import HeatmapGoneError
from app.inference.expiring import OVERHEAD, random_id
from app.inference.heatmaps import HeatmapStore
from app.main import create_app
from app.settings import Settings
from index.answering.attribution import Attributor
from tests.app.conftest import CheckProblem, shade
from tests.pictures import encode

Post = Callable[..., httpx.Response]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# The store


def test_a_picture_lives_for_the_set_time() -> None:
    clock = Clock()
    store = HeatmapStore(60, 10**6, clock)
    identifier = store.put(b"one")
    assert store.get(identifier) == (b"one", 60)
    clock.now += 59
    assert store.get(identifier) == (b"one", 1)
    clock.now += 1
    with pytest.raises(HeatmapGoneError, match=r"60 seconds.*explain=true"):
        store.get(identifier)


def test_expired_pictures_take_no_memory() -> None:
    clock = Clock()
    store = HeatmapStore(60, 10**6, clock)
    for _ in range(10):
        store.put(bytes(1000))
    clock.now += 61
    kept = store.put(b"new")
    assert list(store._entries) == [kept]
    assert store._bytes == 3 + OVERHEAD


def test_one_caller_drops_its_own_only() -> None:
    store = HeatmapStore(60, 12 * (1000 + OVERHEAD))
    others = [store.put(bytes(1000), caller=caller) for caller in ("address 10.0.0.1", None)]
    mine = [store.put(bytes(1000), caller="key mine") for _ in range(20)]
    assert [one for one in mine if store.find(one)] == mine[-3:]  # a quarter
    assert all(store.find(one) for one in others)
    large = store.put(bytes(5000), caller="key mine")
    assert store.find(large)
    for _ in range(20):  # this machine stands for many callers
        last = store.put(bytes(1000))
    assert not any(store.find(one) for one in (*others, *mine, large))
    assert store.find(last)
    assert not store._of_callers


def test_identifiers_are_no_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["-abc", "_abc", "9-_c"])
    monkeypatch.setattr("app.inference.expiring.secrets.token_urlsafe", lambda _: next(drawn))
    assert random_id() == "9-_c"


def test_when_it_is_full_the_oldest_go_first() -> None:
    store = HeatmapStore(60, 10 * (1000 + OVERHEAD))
    identifiers = [store.put(bytes(1000)) for _ in range(25)]
    for identifier in identifiers[:15]:
        with pytest.raises(HeatmapGoneError):
            store.get(identifier)
    assert all(len(store.get(identifier)[0]) == 1000 for identifier in identifiers[15:])
    assert store._bytes == 10 * (1000 + OVERHEAD)
    with pytest.raises(HeatmapGoneError):  # larger than all there is room for
        store.get(store.put(bytes(10**6)))
    assert store._bytes == 0


def test_identifiers_are_long_and_random() -> None:
    store = HeatmapStore(60, 10**7)
    identifiers = {store.put(b"same") for _ in range(1000)}
    assert len(identifiers) == 1000
    assert all(re.fullmatch(r"[\w-]{32}", identifier) for identifier in identifiers)


def test_threads_do_not_upset_it() -> None:
    store = HeatmapStore(60, 50 * (100 + OVERHEAD))
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(500):
                store.get(store.put(bytes(100)))
        except HeatmapGoneError:
            pass  # others pushed it out
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert store._bytes == len(store._entries) * (100 + OVERHEAD) <= 50 * (100 + OVERHEAD)


# Over HTTP


def hits(response: httpx.Response) -> list[dict]:
    assert response.status_code == 200, response.text
    return [hit for concept in response.json()["concepts"] for hit in concept["exemplars"]]


def test_explain_gives_heatmaps_of_both_pictures(
    post: Post, client: TestClient, query: bytes
) -> None:
    response = post(query, explain="true", top_k=2, exemplars=2)
    shown = hits(response)
    assert len(shown) == 4
    assert response.json()["timing_ms"]["explain"] > 0
    urls = set()
    for hit in shown:
        heatmaps = hit["heatmaps"]
        assert set(heatmaps) == {"query_url", "exemplar_url", "expires_at"}
        left = datetime.fromisoformat(heatmaps["expires_at"]) - datetime.now(UTC)
        assert timedelta(minutes=9) < left <= timedelta(minutes=10)
        for url in (heatmaps["query_url"], heatmaps["exemplar_url"]):
            urls.add(url)
            drawn = client.get(url)
            assert drawn.status_code == 200
            assert drawn.headers["content-type"] == "image/png"
            assert drawn.headers["x-content-type-options"] == "nosniff"
            caching = re.fullmatch(r"private, max-age=(\d+)", drawn.headers["cache-control"])
            assert caching
            assert 540 < int(caching[1]) <= 600
            with Image.open(io.BytesIO(drawn.content)) as picture:
                assert picture.size == (64, 48)
    assert len(urls) == 8


def test_explaining_changes_nothing_else(post: Post, query: bytes) -> None:
    plain, explained = post(query).json(), post(query, explain="true").json()
    for answer in (plain, explained):
        del answer["id"], answer["timing_ms"], answer["evidence"]["created_at"]
        for concept in answer["concepts"]:
            for hit in concept["exemplars"]:
                hit.pop("heatmaps")
    assert plain == explained


def test_only_the_first_exemplars_are_explained(post: Post, query: bytes) -> None:
    response = post(query, explain="true", top_k=4, exemplars=3)
    explained = [
        [hit["heatmaps"] is not None for hit in concept["exemplars"]]
        for concept in response.json()["concepts"]
    ]
    assert explained == [[True, True, False]] * 2 + [[True, False, False]] * 2


def test_without_explain_nothing_is_drawn(post: Post, query: bytes) -> None:
    response = post(query)
    assert all(hit["heatmaps"] is None for hit in hits(response))
    assert response.json()["timing_ms"]["explain"] == 0


@pytest.mark.parametrize("name", ["nothing", "a" * 32, "%00", "é", "..%2f..%2fetc"])
def test_an_unknown_heatmap_is_not_found(
    client: TestClient, check_problem: CheckProblem, name: str
) -> None:
    check_problem(client.get(f"/heatmaps/{name}.png"), 404, "not-found")


def test_an_expired_heatmap_is_not_found_and_the_problem_says_what_to_do(
    attributor: Attributor, tmp_path: Path, check_problem: CheckProblem
) -> None:
    settings = Settings(data=tmp_path, heatmap_seconds=0.01)
    with TestClient(create_app(settings, attributor)) as client:
        image = {"image": encode(shade("Emerald", 1))}
        response = client.post("/attribute", files=image, params={"explain": True})
        url = hits(response)[0]["heatmaps"]["query_url"]
        threading.Event().wait(0.05)
        problem = check_problem(client.get(url), 404, "not-found")
    assert "explain=true" in problem["detail"]
