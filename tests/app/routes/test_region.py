"""Long images, and questions about a part of an image."""

import io
from collections.abc import Callable

import httpx
import pytest
from PIL import Image

from tests.app.conftest import CheckProblem, shade
from tests.pictures import encode, noise, oriented

Post = Callable[..., httpx.Response]
SQUARES = [
    {"x": x, "y": 0, "width": 100, "height": 100} for x in (0, 50, 100, 150, 200)
]  # as the fake embedder sees all of a square


def scene() -> Image.Image:
    """An image of 300 x 100 pixels with Emerald at the right."""
    image = noise(300, 100)
    image.paste(shade("Emerald", 1).resize((100, 100)), (200, 0))
    return image


def test_a_long_image_says_which_squares_were_compared(post: Post) -> None:
    answer = post(encode(scene())).json()
    assert answer["compared"] == SQUARES
    assert answer["region"] is None
    first = answer["concepts"][0]
    assert first["id"] == "emerald"
    assert first["square"] in {3, 4}  # which both show it
    assert {concept["square"] for concept in answer["concepts"]} <= set(range(5))


def test_an_ordinary_image_has_one_square(post: Post, query: bytes) -> None:
    answer = post(query).json()
    assert answer["compared"] == [{"x": 0, "y": 0, "width": 64, "height": 48}]
    assert {concept["square"] for concept in answer["concepts"]} == {0}


def test_a_region_is_answered_as_if_it_were_the_image(post: Post) -> None:
    data = encode(scene())
    asked = post(data, region="200,0,100,100").json()
    alone = post(encode(scene().crop((200, 0, 300, 100)))).json()
    assert asked["concepts"] == alone["concepts"]
    area = {"x": 200, "y": 0, "width": 100, "height": 100}
    assert (asked["region"], asked["compared"]) == (area, [area])
    assert post(data, region="0,0,300,100").json()["compared"] == SQUARES


def test_a_region_is_of_the_upright_image_at_full_size(post: Post) -> None:
    sideways = scene().resize((600, 200)).transpose(Image.Transpose.ROTATE_90)
    data = encode(sideways, "JPEG", quality=95, exif=oriented(6))
    answer = post(data, region="400,0,200,200").json()
    assert answer["concepts"][0]["id"] == "emerald"
    assert post(data).json()["compared"][4] == {"x": 400, "y": 0, "width": 200, "height": 200}


def test_a_region_holds_for_each_image_of_a_batch(post: Post, client) -> None:
    files = [("image", ("a.png", encode(scene()))), ("image", ("b.png", encode(noise(60, 60))))]
    parameters = {"region": "200,0,100,100"}
    first, second = client.post("/attribute/batch", files=files, params=parameters).json()[
        "answers"
    ]
    assert first["attribution"]["concepts"][0]["id"] == "emerald"
    assert second["problem"]["type"] == "urn:whence:problem:region-outside-image"


@pytest.mark.parametrize(
    ("region", "kind"),
    [
        ("250,0,100,100", "region-outside-image"),
        ("0,50,100,51", "region-outside-image"),
        ("999999999,0,100,100", "region-outside-image"),
        ("0,0,15,100", "region-too-small"),
        ("0,0,0,0", "region-too-small"),
        ("300,100,0,0", "region-too-small"),
        ("0,0,100", "invalid-request"),
        ("0,0,100,100,1", "invalid-request"),
        ("-1,0,100,100", "invalid-request"),
        ("0,0,1e2,100", "invalid-request"),
        ("0, 0, 100, 100", "invalid-request"),
        ("0.5,0,100,100", "invalid-request"),
        ("٣,0,100,100", "invalid-request"),
        ("0,0,100,9999999999", "invalid-request"),
        ("", "invalid-request"),
        ("all", "invalid-request"),
    ],
)
def test_regions_that_cannot_be_are_refused_by_name(
    post: Post, check_problem: CheckProblem, region: str, kind: str
) -> None:
    problem = check_problem(post(encode(scene()), region=region), 422, kind)
    if kind == "region-outside-image":
        assert "300 x 100" in problem["detail"]


def test_a_heatmap_lies_over_the_square_of_its_concept(post: Post, client) -> None:
    answer = post(encode(scene()), explain=True, top_k=1, exemplars=1).json()
    [hit] = answer["concepts"][0]["exemplars"]
    response = client.get(hit["heatmaps"]["query_url"])
    with Image.open(io.BytesIO(response.content)) as drawn:
        opacity = drawn.convert("RGBA").getchannel("A")
    assert opacity.width / opacity.height == pytest.approx(3, rel=0.05)
    left, _, right, _ = opacity.getbbox()
    square = answer["compared"][answer["concepts"][0]["square"]]
    scale = opacity.width / 300
    assert left >= scale * square["x"] - 1
    assert right <= scale * (square["x"] + square["width"]) + 1
