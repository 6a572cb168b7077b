"""One answer to a body of work: the route and its limits, and the same answer by the client."""

import asyncio
import base64
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from app.reports.report import content_hash
from index.answering.attribution import Attributor
from tests.app.conftest import CheckProblem, shade
from tests.pictures import encode
from whence_client import AsyncWhence
from whence_client.models import TogetherResponse

EMERALDS = [encode(shade("Emerald", number)) for number in range(6)]
NAVIES = [encode(shade("Navy blue", number)) for number in range(6)]


def send(
    client: TestClient,
    images: Sequence[bytes],
    control: Sequence[bytes] = (),
    path: str = "",
    **p: Any,
) -> httpx.Response:
    """Post a group of images, and a control group."""
    files = [("image", ("a.png", one)) for one in images]
    files += [("control", ("b.png", one)) for one in control]
    return client.post(f"/attribute/together{path}", files=files, params=p)


def test_a_group_gets_one_answer(client: TestClient, attributor: Attributor) -> None:
    response = send(client, EMERALDS, top_k=2, exemplars=2)
    assert response.status_code == 200
    answer = response.json()
    assert TogetherResponse.model_validate(answer).concepts
    first, second = answer["concepts"]
    assert (first["id"], first["rank"], second["rank"]) == ("emerald", 1, 2)
    assert first["score"] > second["score"]
    assert [part["image"] for part in first["images"]] == [1, 2, 3, 4, 5, 6]
    assert sum(part["share"] for part in first["images"]) == pytest.approx(1)
    assert len(first["exemplars"]) == 2
    for hit in first["exemplars"]:
        assert hit["similarity"] == pytest.approx(1, abs=1e-4)  # its own picture is in the group
        own = attributor.snapshot.catalog.exemplar(hit["id"]).path
        assert own.endswith(f"{hit['image'] - 1:02d}.png")
    assert first["control"] is None
    assert answer["control"] is None
    assert "6 images together" in answer["statement"]
    evidence = answer["evidence"]
    assert evidence["images_sha256"] == [hashlib.sha256(one).hexdigest() for one in EMERALDS]
    assert evidence["calibration"] == attributor.snapshot.calibration_id


def test_it_tells_what_was_compared_of_each_image(
    client: TestClient, check_problem: CheckProblem
) -> None:
    long = encode(shade("Emerald", 0).resize((192, 48)))
    answer = send(client, [EMERALDS[0], long], [EMERALDS[1], EMERALDS[2]], previews="2").json()
    first, second = answer["seen"]
    assert (second["width"], second["height"]) == (192, 48)
    assert (len(first["compared"]), first["preview"]) == (1, None)
    assert len(second["compared"]) == 7
    start, _, data = second["preview"].partition(",")
    assert start == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (192, 48)
    check_problem(send(client, EMERALDS[:2], previews="1,3"), 422, "invalid-request")
    check_problem(send(client, EMERALDS[:2], previews="0"), 422, "invalid-request")
    check_problem(send(client, EMERALDS[:2], previews="one"), 422, "invalid-request")


def test_one_image_of_another_source_speaks_less(client: TestClient) -> None:
    answer = send(client, [*EMERALDS[:3], NAVIES[0]]).json()
    first = answer["concepts"][0]
    assert first["id"] == "emerald"
    shares = [part["share"] for part in first["images"]]
    assert shares[3] < min(shares[:3])


def test_the_order_of_images_does_not_matter(client: TestClient) -> None:
    some = [*EMERALDS[:2], NAVIES[0]]
    one, other = send(client, some).json(), send(client, some[::-1]).json()
    for a, b in zip(one["concepts"], other["concepts"], strict=True):
        assert (a["id"], a["score"]) == (b["id"], pytest.approx(b["score"]))
        parts = [part["score"] for part in b["images"]][::-1]
        assert [part["score"] for part in a["images"]] == pytest.approx(parts)


def test_a_control_group_tells_what_is_drawn_on_more(client: TestClient) -> None:
    answer = send(client, EMERALDS, NAVIES, top_k=5).json()
    by_id = {concept["id"]: concept["control"] for concept in answer["concepts"]}
    assert by_id["emerald"]["more"]
    assert by_id["emerald"]["difference"] > 0
    # Of 2^6 exchanges only that of all pairs can be as high: by what the controls draw on.
    assert by_id["emerald"]["p_value"] in (1 / 64, 2 / 64)
    assert not by_id["navy-blue"]["more"]
    assert by_id["navy-blue"]["difference"] < 0
    assert answer["control"]["more"][0]["id"] == "emerald"
    assert len(answer["control"]["images_sha256"]) == 6
    p_value = f"(p = {by_id['emerald']['p_value']:.3g})"
    told = f"the images draw on Emerald more than the control images do {p_value}."
    assert answer["statement"].endswith(told)


def test_a_control_group_like_the_images_shows_no_difference(client: TestClient) -> None:
    answer = send(client, EMERALDS, EMERALDS).json()
    assert answer["control"]["more"] == []
    assert all(concept["control"]["p_value"] == 1 for concept in answer["concepts"])
    assert "not shown to draw on Emerald more" in answer["statement"]


@pytest.mark.parametrize(
    ("images", "control", "detail"),
    [
        (EMERALDS[:1], [], "was sent 1 time: send 2 to 64 images a request"),
        (EMERALDS[:1] * 65, [], "was sent 65 times: send 2 to 64 images a request"),
        ([], EMERALDS[:2], "is missing"),
        (EMERALDS[:3], EMERALDS[:2], "send as many, in the order of their pairs, or none"),
    ],
)
def test_other_numbers_of_images_are_refused(
    client: TestClient,
    check_problem: CheckProblem,
    images: list[bytes],
    control: list[bytes],
    detail: str,
) -> None:
    problem = check_problem(send(client, images, control), 422, "invalid-request")
    assert detail in problem["errors"][0]["detail"]


def test_another_field_is_refused(client: TestClient, check_problem: CheckProblem) -> None:
    files = [("image", ("a", one)) for one in EMERALDS[:2]] + [("picture", ("a", EMERALDS[0]))]
    problem = check_problem(client.post("/attribute/together", files=files), 422, "invalid-request")
    assert "the fields 'image' and 'control'" in problem["errors"][0]["detail"]
    check_problem(send(client, EMERALDS, explain=True), 422, "invalid-request")
    check_problem(send(client, EMERALDS, top_k=21), 422, "invalid-request")


def test_a_damaged_image_fails_the_request_by_its_number(
    client: TestClient, check_problem: CheckProblem
) -> None:
    problem = check_problem(
        send(client, [*EMERALDS[:2], EMERALDS[2][:200]]), 400, "undecodable-image"
    )
    assert problem["detail"].startswith("image 3 of 3: ")
    problem = check_problem(
        send(client, EMERALDS[:2], [b"no image", EMERALDS[0]]), 415, "unsupported-image-type"
    )
    assert problem["detail"].startswith("control 1 of 2: ")


def test_a_report_holds_the_answer_and_a_hash(client: TestClient) -> None:
    response = send(client, EMERALDS[:2], NAVIES[:2], path="/report", top_k=1, format="json")
    assert response.status_code == 200
    report = json.loads(response.content)
    assert report["sha256"] == content_hash(report)
    assert report["answer"]["concepts"][0]["id"] == "emerald"
    assert [one["sha256"] for one in report["images"]] == report["answer"]["evidence"][
        "images_sha256"
    ]
    assert [one["width"] for one in report["control"]] == [64, 64]
    named = {hit["id"] for concept in report["answer"]["concepts"] for hit in concept["exemplars"]}
    assert set(report["exemplars"]) == named
    assert (
        f'filename="whence-group-{report["sha256"][:12]}.json"'
        in response.headers["content-disposition"]
    )


def test_the_async_client_answers_alike(app: FastAPI, client: TestClient, tmp_path: Path) -> None:
    direct = send(client, EMERALDS, NAVIES).json()
    path = tmp_path / "first.png"
    path.write_bytes(EMERALDS[0])

    async def ask() -> TogetherResponse:
        async with AsyncWhence("http://testserver", transport=httpx.ASGITransport(app)) as whence:
            return await whence.attribute_together([path, *EMERALDS[1:]], control=NAVIES)

    answer = asyncio.run(ask()).model_dump(mode="json")
    assert answer["concepts"] == direct["concepts"]
    assert answer["control"] == direct["control"]
