import io

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from index.answering.attribution import Attributor
from tests.app.conftest import COLOURS, CheckProblem, shade

# Concepts


def names(client: TestClient, **parameters: object) -> list[str]:
    response = client.get("/concepts", params={k: str(v) for k, v in parameters.items()})
    assert response.status_code == 200
    return [concept["name"] for concept in response.json()["concepts"]]


def test_concepts_are_listed_by_name(client: TestClient, attributor: Attributor) -> None:
    listed = client.get("/concepts").json()
    assert {k: listed[k] for k in ("total", "offset", "limit")} == {
        "total": 5,
        "offset": 0,
        "limit": 50,
    }
    assert listed["index_version"] == attributor.snapshot.version
    assert sorted(COLOURS) == [concept["name"] for concept in listed["concepts"]]
    first = attributor.snapshot.catalog.exemplars_of("crimson")[0]
    assert listed["concepts"][1] == {
        "id": "crimson",
        "name": "Crimson",
        "kind": None,
        "exemplar_count": 3,
        "image_url": f"/exemplars/{first.id}/image",
    }


def test_exemplars_of_a_concept_come_in_pages(
    client: TestClient, check_problem: CheckProblem
) -> None:
    whole = client.get("/concepts/crimson").json()
    assert whole["exemplar_count"] == len(whole["exemplars"]) == 3
    pages = [
        client.get("/concepts/crimson", params={"offset": offset, "limit": 2}).json()
        for offset in (0, 2, 4)
    ]
    assert [one for page in pages for one in page.pop("exemplars")] == whole["exemplars"]
    assert {page["offset"]: page["limit"] for page in pages} == {0: 2, 2: 2, 4: 2}
    assert {page["image_url"] for page in pages} == {whole["image_url"]}
    response = client.get("/concepts/crimson", params={"limit": 1001})
    check_problem(response, 422, "invalid-request")


def test_pages_cover_everything_once(client: TestClient) -> None:
    pages = [names(client, offset=offset, limit=2) for offset in (0, 2, 4, 6)]
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert [name for page in pages for name in page] == sorted(COLOURS)
    assert client.get("/concepts", params={"offset": 4, "limit": 2}).json()["total"] == 5


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("navy", ["Navy blue"]),
        ("BLUE", ["Navy blue"]),
        ("m", ["Crimson", "Emerald"]),
        ("100%", ["100% chalk"]),
        ("%", ["100% chalk"]),
        ("_", []),
        ("ochre", ["Étude in ochre"]),
        ("Étude", ["Étude in ochre"]),
        ("'; DROP TABLE concepts; --", []),
    ],
)
def test_search_takes_the_words_as_they_are(
    client: TestClient, query: str, found: list[str]
) -> None:
    assert names(client, q=query) == found
    assert client.get("/concepts", params={"q": query}).json()["total"] == len(found)


def test_words_are_found_in_any_order(client: TestClient) -> None:
    assert names(client, q="ochre étude") == ["Étude in ochre"]
    assert names(client, q="blue_NAVY") == ["Navy blue"]


def test_concepts_are_filtered_and_ordered(client: TestClient) -> None:
    assert names(client, kind="artist") == []
    assert names(client, license="CC0-1.0") == []
    assert names(client, source="example.org") == []
    assert sorted(names(client, order="exemplars")) == sorted(COLOURS)


def test_the_collection_is_summarized(client: TestClient, attributor: Attributor) -> None:
    assert client.get("/collection").json() == {
        "kinds": [],
        "licenses": [],
        "sources": [],
        "index_version": attributor.snapshot.version,
    }


def test_limits_are_told_without_a_key(client: TestClient) -> None:
    limits = client.get("/limits").json()
    assert (limits["max_upload_bytes"], limits["max_top_k"]) == (200_000, 20)
    assert limits["min_side"] >= 1


@pytest.mark.parametrize(
    "parameters",
    [
        {"limit": "0"},
        {"order": "random"},
        {"limit": "1001"},
        {"limit": "x"},
        {"offset": "-1"},
        {"offset": str(2**63)},
        {"q": "x" * 201},
        {"query": "navy"},
    ],
)
def test_wrong_parameters_are_named(
    client: TestClient, check_problem: CheckProblem, parameters: dict[str, str]
) -> None:
    response = client.get("/concepts", params=parameters)
    problem = check_problem(response, 422, "invalid-request")
    assert [fault["name"] for fault in problem["errors"]] == list(parameters)


def test_a_concept_shows_its_exemplars(client: TestClient) -> None:
    concept = client.get("/concepts/navy-blue").json()
    assert concept["name"] == "Navy blue"
    assert concept["exemplar_count"] == len(concept["exemplars"]) == 3
    exemplar = concept["exemplars"][0]
    assert set(exemplar) == {
        "id", "image_url", "width", "height", "sha256", "source_url", "license"
    }  # fmt: skip
    assert (exemplar["width"], exemplar["height"]) == (64, 48)


def test_paths_on_the_server_are_not_told(client: TestClient, attributor: Attributor) -> None:
    [path, *_] = [exemplar.path for exemplar in attributor.snapshot.catalog.exemplars()]
    assert path
    assert path not in client.get("/concepts/navy-blue").text


@pytest.mark.parametrize(
    "path", ["/concepts/nobody", "/exemplars/nothing/image", "/concepts/%00", "/concepts/%ff"]
)
def test_what_is_not_there_is_not_found(
    client: TestClient, check_problem: CheckProblem, path: str
) -> None:
    problem = check_problem(client.get(path), 404, "not-found")
    assert "in this index" in problem["detail"]


# Exemplars


def image_url(client: TestClient) -> str:
    url: str = client.get("/concepts/navy-blue").json()["exemplars"][0]["image_url"]
    return url


def test_an_exemplar_is_a_jpeg_that_may_be_kept(client: TestClient) -> None:
    response = client.get(image_url(client))
    assert response.headers["content-type"] == "image/jpeg"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "private, no-cache"  # it may be taken down
    image = Image.open(io.BytesIO(response.content))
    assert image.size == shade("Navy blue", 0).size
    assert image.getpixel((60, 40)) == pytest.approx(COLOURS["Navy blue"], abs=6)


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
def test_a_known_exemplar_is_not_sent_again(client: TestClient, form: str) -> None:
    tag = client.get(image_url(client)).headers["etag"]
    response = client.get(image_url(client), headers={"if-none-match": form.format(tag)})
    assert response.status_code == 304
    assert response.content == b""
    assert response.headers["etag"] == tag


def test_another_tag_gets_the_picture(client: TestClient) -> None:
    response = client.get(image_url(client), headers={"if-none-match": '"other"'})
    assert response.status_code == 200
