"""A printed report: what its pages hold."""

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from playwright.sync_api import Browser

from app.main import create_app
from app.settings import Settings
from index.answering.attribution import Attributor
from tests.browser.conftest import picture
from tests.pictures import encode

MM = 96 / 25.4  # pixels of CSS


@pytest.fixture(scope="module")
def reports(attributor: Attributor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports on an ordinary image and on a long one, as files."""
    folder = tmp_path_factory.mktemp("reports")
    canvas = Image.new("RGB", (288, 96), "#808080")
    canvas.paste(picture(1), (192, 0))
    files = {}
    with TestClient(create_app(Settings(data=folder), attributor)) as client:
        for name, image in {"ordinary": picture(0), "long": canvas}.items():
            response = client.post(
                "/attribute/report",
                files={"image": (f"{'a long name of a file ' * 4}{name}.png", encode(image))},
                params={"top_k": 20},
            )
            assert response.status_code == 200, response.text
            files[name] = folder / f"{name}.html"
            files[name].write_bytes(response.content)
    return files


@pytest.mark.parametrize("name", ["ordinary", "long"])
def test_the_first_sheet_holds_finding_pictures_method_and_limits(
    browser: Browser, reports: dict[str, Path], name: str
) -> None:
    page = browser.new_page(viewport={"width": round(180 * MM), "height": round(267 * MM)})
    page.emulate_media(media="print")
    page.goto(reports[name].as_uri())
    assert page.locator(".first").evaluate("one => one.getBoundingClientRect().bottom") < 267 * MM
    finding = re.compile("^(Closest match|No match)")
    for text in (finding, "How it was found", "What this report does not say"):
        assert page.locator(".first").get_by_text(text).count() == 1
    query, exemplar = page.locator(".pair img").all()
    left, right = query.bounding_box(), exemplar.bounding_box()
    assert left
    assert right
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]
    for picture_, bold in zip((left, right), page.locator("rect.bold").all(), strict=True):
        drawn = bold.bounding_box()
        assert drawn
        assert drawn["x"] >= picture_["x"] - 2
        assert drawn["x"] + drawn["width"] <= picture_["x"] + picture_["width"] + 2
    page.close()


def test_a_printed_report_has_pages_of_a4(
    browser: Browser, reports: dict[str, Path], tmp_path: Path
) -> None:
    page = browser.new_page()
    page.goto(reports["long"].as_uri())
    printed = page.pdf(prefer_css_page_size=True)
    sizes = re.findall(rb"/MediaBox \[([\d. ]+)\]", printed)
    assert len(sizes) > 1
    assert {tuple(round(float(side)) for side in size.split()) for size in sizes} == {
        (0, 0, 595, 842)
    }
    page.close()
