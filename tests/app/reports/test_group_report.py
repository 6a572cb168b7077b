"""Reports on a body of work: one answer, one hash, and what verifying them finds out."""

import html
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.reports.finding import statement_in
from app.reports.reading import read_report
from app.reports.rendering import as_html
from app.reports.report import content_hash
from app.reports.signing import make_key_pair, read_public_key
from app.reports.texts import LANGUAGES, texts
from app.reports.together import GroupReport
from app.reports.verify import ReportVerification, verify_report
from app.settings import Settings
from index.answering.attribution import Attributor, open_attributor
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from tests.app.conftest import CheckProblem
from tests.fakes import FakeEmbedder, patches
from tests.pictures import encode
from whence_client.models import MoreThanControl

SIZE = 6  # of the body of work; fewer pairs than five are no difference
WORKS = [encode(patches(number, side=64)) for number in range(SIZE)]
OTHERS = [encode(patches(number, side=64)) for number in range(SIZE, 2 * SIZE)]
NAMES = ["first.png", "<b>second.png", *(f"{number}.png" for number in range(2, SIZE))]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    root = tmp_path_factory.mktemp("group")
    for number in range(6):
        concept = root / "source" / f"Painter {number}"
        concept.mkdir(parents=True)
        for turn in range(SIZE):
            patches(SIZE * number + turn, side=64).save(concept / f"{turn}.png")
    folder = DataFolder(root / "data")
    rebuild(folder, read_sources([root / "source"]), FakeEmbedder(), RebuildOptions())
    return folder


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "key.pem"
    make_key_pair(path)
    return path


@pytest.fixture(scope="module")
def client(data: DataFolder, key: Path) -> Any:
    def load(settings: Settings, _: object) -> Attributor:
        return open_attributor(DataFolder(settings.data), embedder=FakeEmbedder())

    settings = Settings(data=data.root, report_key=key)
    with TestClient(create_app(settings, load=load)) as client:
        yield client


def send(
    client: TestClient,
    path: str,
    images: Sequence[bytes] = WORKS,
    control: Sequence[bytes] = (),
    names: Sequence[str] = NAMES,
    **parameters: Any,
) -> httpx.Response:
    files = [("image", (name, image)) for name, image in zip(names, images, strict=True)]
    files += [("control", ("c.png", image)) for image in control]
    return client.post(f"/attribute/together{path}", files=files, params=parameters)


@pytest.fixture(scope="module")
def answer(client: TestClient) -> dict[str, Any]:
    response = send(client, "", control=OTHERS, keep=True, top_k=3, exemplars=2)
    assert response.status_code == 200, response.text
    told: dict[str, Any] = response.json()
    return told


def report(client: TestClient, answer: dict[str, Any], **more: Any) -> httpx.Response:
    parameters = {"control": OTHERS, "answer": answer["id"], **more}
    return send(client, "/report", **parameters)


@pytest.fixture(scope="module")
def record(client: TestClient, answer: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = report(client, answer, format="json").json()
    return told


def verify(
    content: str, data: DataFolder, folder: Path, key: Path | None = None
) -> ReportVerification:
    file = folder / "report"
    file.write_text(content, encoding="utf-8")
    public = read_public_key(key.with_name(f"{key.name}.pub")) if key else None
    return verify_report(file, data, embedder=FakeEmbedder(), public_key=public)


def test_every_format_tells_the_one_answer_under_one_hash(
    client: TestClient, answer: dict[str, Any], record: dict[str, Any]
) -> None:
    html = report(client, answer, format="html").text
    assert read_report(html)[1] == record
    assert record["sha256"] == content_hash(record)
    assert record["created_at"] == answer["evidence"]["created_at"]
    assert record["parameters"] == {"top_k": 3, "exemplars": 2}
    shown = record["answer"]
    assert shown == {name: answer[name] for name in shown}
    assert "timing_ms" not in shown
    assert [one["name"] for one in record["images"]] == NAMES
    assert answer["id"] in re.sub(r"<script.*", "", html, flags=re.DOTALL)


def test_other_names_and_another_order_change_nothing(
    client: TestClient, answer: dict[str, Any], record: dict[str, Any]
) -> None:
    again = report(
        client,
        answer,
        images=WORKS[::-1],
        names=[str(number) for number in range(SIZE)],
        format="json",
    )
    assert again.json() == record


def test_other_files_are_refused(
    client: TestClient, answer: dict[str, Any], check_problem: CheckProblem
) -> None:
    other = report(client, answer, images=[*WORKS[:-1], OTHERS[0]])
    problem = check_problem(other, 409, "other-image")
    assert "'image'" in problem["detail"]
    assert "same files, in any order" in problem["detail"]
    problem = check_problem(report(client, answer, control=[]), 409, "other-image")
    assert "'control'" in problem["detail"]


def test_parameters_of_a_kept_answer_have_no_effect(
    client: TestClient, answer: dict[str, Any], record: dict[str, Any]
) -> None:
    assert report(client, answer, format="json", top_k=5000, exemplars=50).json() == record
    assert send(client, "/report", top_k=5000).status_code == 422


def test_answers_of_the_two_kinds_are_not_mixed_up(
    client: TestClient, answer: dict[str, Any], check_problem: CheckProblem
) -> None:
    parameters = {"answer": answer["id"]}
    one = client.post("/attribute/report", files={"image": WORKS[0]}, params=parameters)
    check_problem(one, 404, "answer-gone")
    unkept = send(client, "").json()
    assert unkept["id"] != answer["id"]
    check_problem(report(client, unkept, control=[]), 404, "answer-gone")


@pytest.mark.parametrize("form", ["json", "html"])
def test_a_report_as_written_is_verified(
    client: TestClient,
    answer: dict[str, Any],
    data: DataFolder,
    key: Path,
    tmp_path: Path,
    form: str,
) -> None:
    found = verify(report(client, answer, format=form).text, data, tmp_path, key)
    assert found.complete
    assert all(finding.passed for finding in found.findings), found.findings
    assert "signature" in {finding.name for finding in found.findings}


def test_a_report_on_a_new_answer_is_verified(
    client: TestClient, data: DataFolder, tmp_path: Path
) -> None:
    wide = [encode(patches(0, side=64).resize((192, 64))), WORKS[1]]
    told = send(client, "/report", images=wide, names=NAMES[:2], format="json")
    assert told.status_code == 200, told.text
    assert len(told.json()["images"][0]["compared"]) > 1
    assert verify(told.text, data, tmp_path).complete


def _first(record: dict[str, Any]) -> dict[str, Any]:
    concept: dict[str, Any] = record["answer"]["concepts"][0]
    return concept


def _swap(images: list[dict[str, Any]]) -> None:
    images[0], images[1] = images[1], images[0]


def said_anew(record: dict[str, Any]) -> dict[str, Any]:
    """A report whose forger makes the sentence follow from the figures."""
    answer = GroupReport.model_validate(record).answer
    record["answer"]["statement"] = statement_in(answer, texts("en"))
    return record


CHANGES: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "another verdict": ("scores", lambda r: r["answer"].update(verdict="uncertain")),
    "a higher ratio": ("scores", lambda r: _first(r).update(likelihood_ratio=1e6)),
    "a part": ("scores", lambda r: _first(r)["images"][0].update(share=0.99)),
    "a part's ratio": ("scores", lambda r: _first(r)["images"][1].update(likelihood_ratio=1e6)),
    "the comparison": ("scores", lambda r: _first(r)["control"].update(difference=9.0)),
    "more than the control": ("scores", lambda r: r["answer"]["control"].update(more=[])),
    "no comparison": ("scores", lambda r: _first(r).update(control=None)),
    "the nearest image": ("scores", lambda r: _first(r)["exemplars"][0].update(image=3)),
    "the order of images": ("image", lambda r: _swap(r["images"])),
    "an image left out": ("image", lambda r: r["images"].pop()),
    "a control image left out": ("image", lambda r: r["control"].pop()),
    "what was compared": ("scores", lambda r: r["images"][0]["compared"][0].update(x=5)),
    "a name of a concept": ("exemplars", lambda r: _first(r).update(name="Somebody")),
    "the limits": ("statements", lambda r: r.update(limits=[])),
    "the time": ("statements", lambda r: r.update(created_at="2001-01-01T00:00:00Z")),
    "the test groups": ("scores", lambda r: r["answer"]["evidence"].update(test_groups=9)),
    "the null": ("index", lambda r: r["calibration"].update(null_queries=9)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_forged_report_with_a_right_hash_is_found_out(
    record: dict[str, Any], data: DataFolder, tmp_path: Path, name: str
) -> None:
    where, change = CHANGES[name]
    forged = json.loads(json.dumps(record))
    change(forged)
    assert forged != record
    forged["signature"] = None
    forged["sha256"] = content_hash(said_anew(forged))
    found = verify(json.dumps(forged), data, tmp_path)
    assert where in {finding.name for finding in found.findings if finding.passed is False}


def test_a_page_in_german_has_the_same_data_and_is_verified(
    client: TestClient,
    answer: dict[str, Any],
    record: dict[str, Any],
    data: DataFolder,
    tmp_path: Path,
) -> None:
    page = report(client, answer, format="html", language="de").text
    assert read_report(page)[1] == record
    shown = re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)
    for words in ("Werkgruppe", "Die fraglichen Bilder", "Paarweise mit 6 Vergleichsbildern"):
        assert words in shown
    assert " the " not in shown
    assert verify(page, data, tmp_path).complete
    found = verify(page.replace("Werkgruppe", "Gruppe", 1), data, tmp_path)
    assert "page" in {finding.name for finding in found.findings if finding.passed is False}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_tells_what_is_drawn_on_more(record: dict[str, Any], language: Any) -> None:
    said = texts(language)
    some = GroupReport.model_validate(record)
    assert some.answer.control is not None
    more = [MoreThanControl(id="c9", name="Ninth", difference=1.25, p_value=0.03125)]
    some.answer.control.more = more
    page = as_html(some, language)
    told = said.say(
        "control_more_one",
        name="Ninth",
        difference=said.number(1.25, ".3f"),
        p=said.number(0.0312, ".3g"),
    )
    assert f"<li>{told}</li>" in page
    some.answer.control.more = []
    page = as_html(some, language)
    assert said.say("control_more_none") in page
    assert f'alt="{said.say("alt_control", number=1)}"' in page
    assert page.count(f'alt="{said.say("alt_images", number=1)}"') == 1


def test_the_method_is_that_of_the_null(record: dict[str, Any]) -> None:
    some = GroupReport.model_validate(record)
    said = texts("en").say
    for groups, null, method in (
        (50, 50, ["group_method_2", "p_fitted"]),
        (39, 39, ["group_method_2", "p_counted"]),
        (0, 50, ["group_method_2_single", "p_fitted"]),
        (0, 0, ["method_no_images"]),
    ):
        some.answer.evidence.test_groups, some.calibration.null_queries = groups, null
        page = html.unescape(as_html(some))
        keys = ["group_method_2", "group_method_2_single", "method_no_images"]
        keys += ["p_fitted", "p_counted", "chance.group_none"]
        p_value = f"{some.answer.concepts[0].p_value:.3g}"
        found = [key for key in keys if said(key, count=null, p=p_value) in page]
        assert found == method + ["chance.group_none"] * (not groups)


def test_a_page_that_shows_something_else_is_found_out(
    client: TestClient, answer: dict[str, Any], data: DataFolder, tmp_path: Path
) -> None:
    page = report(client, answer, format="html").text
    found = verify(page.replace("Painter 0", "Painter 9", 1), data, tmp_path)
    assert "page" in {finding.name for finding in found.findings if finding.passed is False}


def test_names_are_text_and_every_picture_stands_once(record: dict[str, Any]) -> None:
    page = as_html(GroupReport.model_validate(record))
    assert "<b>second" not in page
    pictures = re.findall(r'<img id="picture-([^"]+)"', page)
    assert len(set(pictures)) == len(pictures)
    assert {f"images-{number}" for number in range(1, SIZE + 1)} | {"control-1"} <= set(pictures)
    assert set(record["exemplars"]) <= set(pictures)
