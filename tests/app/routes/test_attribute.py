import asyncio
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from app.main import create_app
from app.schemas import AttributionResponse
from app.settings import Settings
from index.answering.attribution import Attributor
from tests.app.conftest import COLOURS, CheckProblem, shade
from tests.pictures import encode, oriented

Post = Callable[..., httpx.Response]


def test_the_source_comes_first_with_its_evidence(
    post: Post, query: bytes, attributor: Attributor
) -> None:
    response = post(query)
    assert response.status_code == 200
    answer = response.json()
    assert set(answer) == {
        "verdict", "concepts", "no_source_share", "unlisted_share", "unattributed_share",
        "candidates", "statement", "region", "compared", "evidence", "timing_ms", "id", "width",
        "height", "preview",
    }  # fmt: skip
    assert answer["verdict"] in {"attributed", "uncertain", "no_match"}
    first = answer["concepts"][0]
    assert set(first) == {
        "rank", "id", "name", "score", "share", "p_value", "scored_as_high", "likelihood_ratio",
        "support", "facets", "found_by", "exemplars", "square",
    }  # fmt: skip
    assert (first["rank"], first["id"], first["name"]) == (1, "emerald", "Emerald")
    assert set(first["facets"]) == {"subject", "style"}
    assert first["found_by"]
    assert set(first["found_by"]) <= set(first["facets"])
    assert 0 < first["p_value"] <= 1
    hit = first["exemplars"][0]
    assert set(hit) == {
        "id", "similarity", "facet", "image_url", "source_url", "license", "heatmaps", "metadata"
    }  # fmt: skip
    assert hit["similarity"] == pytest.approx(1, abs=1e-4)
    assert hit["image_url"] == f"/exemplars/{hit['id']}/image"
    assert hit["heatmaps"] is None
    evidence = answer["evidence"]
    assert evidence.pop("created_at").endswith("Z")
    assert evidence == {
        "model_id": "fake-colours",
        "index_version": attributor.snapshot.version,
        "calibration": attributor.snapshot.calibration_id,
        "test_images": len(attributor.snapshot.calibration.null_scores),
        "image_sha256": hashlib.sha256(query).hexdigest(),
    }


def test_the_answer_says_when_it_was_made(post: Post, query: bytes) -> None:
    made = datetime.fromisoformat(post(query).json()["evidence"]["created_at"])
    assert abs(datetime.now(UTC) - made) < timedelta(minutes=1)


@pytest.mark.parametrize("top_k", [1, 2, 5, 20])
def test_shares_sum_to_one_whatever_is_listed(post: Post, query: bytes, top_k: int) -> None:
    answer = post(query, top_k=top_k).json()
    shares = [concept["share"] for concept in answer["concepts"]]
    rest = answer["no_source_share"] + answer["unlisted_share"]
    assert sum(shares) + rest == pytest.approx(1, abs=1e-6)
    assert rest == pytest.approx(answer["unattributed_share"], abs=1e-6)
    assert answer["no_source_share"] == post(query, top_k=3).json()["no_source_share"]
    assert shares == sorted(shares, reverse=True)


def test_parameters_set_how_much_is_listed(post: Post, query: bytes) -> None:
    by_default = post(query).json()["concepts"]
    assert [concept["rank"] for concept in by_default] == [1, 2, 3, 4, 5]
    assert {len(concept["exemplars"]) for concept in by_default} == {3}
    short = post(query, top_k=2, exemplars=0).json()["concepts"]
    assert [concept["id"] for concept in short] == [c["id"] for c in by_default[:2]]
    assert [concept["exemplars"] for concept in short] == [[], []]


def test_the_answer_is_the_one_the_index_gives(
    post: Post, query: bytes, attributor: Attributor
) -> None:
    [expected] = attributor.attribute([shade("Emerald", 1)], top_k=3)
    answer = post(query, top_k=3).json()
    assert answer["verdict"] == expected.verdict
    for found, concept in zip(answer["concepts"], expected.concepts, strict=True):
        assert found["id"] == concept.concept.id
        assert found["score"] == pytest.approx(concept.score)
        assert [hit["id"] for hit in found["exemplars"]] == [
            hit.exemplar.id for hit in concept.exemplars
        ]


def test_timing_adds_up(post: Post, query: bytes) -> None:
    response = post(query)
    timing = response.json()["timing_ms"]
    assert set(timing) == {"decode", "queue", "embed", "search", "explain", "total"}
    parts = sum(timing[name] for name in ("decode", "queue", "embed", "search", "explain"))
    assert parts <= timing["total"] + 0.01
    assert f"embed;dur={timing['embed']}" in response.headers["Server-Timing"]


def test_answers_are_not_kept_by_caches(post: Post, query: bytes) -> None:
    assert post(query).headers["Cache-Control"] == "no-store"


def dressed(image: Image.Image) -> dict[str, bytes]:
    gray = Image.new("I;16", image.size)
    frames = {"save_all": True, "append_images": [shade("Crimson", 0)], "duration": 100}
    return {
        "CMYK": encode(image.convert("CMYK"), "JPEG", quality=95),
        "16-bit": encode(gray),
        "palette": encode(image.quantize(64)),
        "transparent": encode(image.convert("RGBA")),
        "EXIF-rotated": encode(
            image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=oriented(6)
        ),
        "animated": encode(image.quantize(64), "GIF", **frames),
        "WebP": encode(image, "WEBP"),
        "AVIF": encode(image, "AVIF"),
        "TIFF": encode(image, "TIFF"),
        "BMP": encode(image, "BMP"),
    }


@pytest.mark.parametrize("name", dressed(shade("Emerald", 1)))
def test_images_of_every_kind_are_answered(post: Post, name: str) -> None:
    response = post(dressed(shade("Emerald", 1))[name])
    assert response.status_code == 200, response.text
    if name != "16-bit":  # which knows no colours
        assert response.json()["concepts"][0]["id"] == "emerald"


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"top_k": "0"}, "top_k"),
        ({"top_k": "-1"}, "top_k"),
        ({"top_k": "five"}, "top_k"),
        ({"top_k": "1.5"}, "top_k"),
        ({"top_k": ""}, "top_k"),
        ({"top_k": "21"}, "top_k"),
        ({"top_k": "9" * 5000}, "top_k"),
        ({"exemplars": "-1"}, "exemplars"),
        ({"exemplars": "11"}, "exemplars"),
        ({"explain": "perhaps"}, "explain"),
        ({"topk": "3"}, "topk"),
        ({"top_k": "3", "url": "http://example.org"}, "url"),
    ],
)
def test_wrong_parameters_are_named(
    post: Post, query: bytes, check_problem: CheckProblem, parameters: dict[str, str], name: str
) -> None:
    problem = check_problem(post(query, **parameters), 422, "invalid-request")
    assert [(fault["place"], fault["name"]) for fault in problem["errors"]] == [("query", name)]
    assert f"query parameter '{name}'" in problem["detail"]


def test_all_wrong_parameters_are_named_at_once(
    post: Post, query: bytes, check_problem: CheckProblem
) -> None:
    problem = check_problem(post(query, top_k=0, exemplars=-1, x=1), 422, "invalid-request")
    assert {fault["name"] for fault in problem["errors"]} == {"top_k", "exemplars", "x"}


def test_concurrent_requests_get_their_own_answers(
    settings: Settings, attributor: Attributor
) -> None:
    names = [name for name in COLOURS for _ in range(4)][:16]
    files = [encode(shade(name, 2)) for name in names]
    app = create_app(settings, attributor)

    async def ask_all() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            requests = (client.post("/attribute", files={"image": file}) for file in files)
            return await asyncio.gather(*requests)

    for name, file, response in zip(names, files, asyncio.run(ask_all()), strict=True):
        answer = response.json()
        assert answer["concepts"][0]["name"] == name
        assert answer["evidence"]["image_sha256"] == hashlib.sha256(file).hexdigest()


def test_the_documented_example_is_an_answer() -> None:
    [example] = AttributionResponse.model_json_schema()["examples"]
    AttributionResponse.model_validate(example, extra="forbid")


@pytest.mark.parametrize(
    ("path", "images", "accepted", "refused"),
    [
        ("/attribute", 1, {"top_k": 4, "exemplars": 5}, {"top_k": 7, "exemplars": 3}),
        ("/attribute/batch", 2, {"top_k": 2, "exemplars": 5}, {"top_k": 4, "exemplars": 5}),
        ("/attribute/together", 3, {"top_k": 4, "exemplars": 2}, {"top_k": 4, "exemplars": 3}),
    ],
)
def test_the_exemplars_of_an_answer_have_a_limit(
    settings: Settings,
    attributor: Attributor,
    query: bytes,
    check_problem: CheckProblem,
    path: str,
    images: int,
    accepted: dict[str, int],
    refused: dict[str, int],
) -> None:
    app = create_app(settings.model_copy(update={"max_answer_exemplars": 20}), attributor)
    files = [("image", query)] * images
    with TestClient(app) as client:
        assert client.post(path, files=files, params=accepted).status_code == 200
        response = client.post(path, files=files, params=refused)
    problem = check_problem(response, 422, "invalid-request")
    assert "the limit is 20: lower top_k or exemplars" in problem["errors"][0]["detail"]
