"""Evidence reports: what they hold, and what verifying them finds out."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from app.cli.main import cli
from app.main import create_app
from app.reports.finding import statement_in
from app.reports.reading import read_report
from app.reports.rendering import as_html, layout, web_link
from app.reports.report import Report, ReportError, content_hash
from app.reports.signing import read_public_key
from app.reports.texts import texts
from app.reports.verify import ReportVerification, verify_report
from app.settings import Settings
from index.answering.attribution import Attributor, open_attributor
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from index.snapshot import open_published
from index.takedowns.log import TakedownLog
from index.takedowns.withdrawal import withdraw
from model.checkpoint import load_embedder, save_model
from model.images import ImageLimits
from tests.app.conftest import CheckProblem
from tests.fakes import FakeEmbedder, patches, tiny_model
from tests.pictures import encode, noise

RATE = 0.1
NASTY = '</script><script>alert("1")</script> & <b>co</b>'
QUERY = encode(patches(3, side=64))


class Gallery:
    """An index in a folder of its own, a server that answers from it, and its reports."""

    def __init__(self, root: Path) -> None:
        self.root, self.data = root, DataFolder(root / "data")
        source = root / "source"
        source.mkdir()
        lines = ["path,concept,name,kind,source_url,license"]
        for number in range(12):
            patches(number, side=64).save(source / f"{number}.png")
            name = NASTY if number // 2 == 1 else f"Painter {number // 2}"
            url = "javascript:alert(2)" if number % 2 else f"https://example.org/{number}"
            quoted = name.replace('"', '""')
            lines.append(f'{number}.png,c{number // 2},"{quoted}",artist,{url},CC0 <i>1.0</i>')
        (source / "manifest.csv").write_text("\n".join(lines), encoding="utf-8")
        self.source = source / "manifest.csv"
        self.rebuild()

    def rebuild(self, **options: Any) -> None:
        rebuild(self.data, read_sources([self.source]), FakeEmbedder(), RebuildOptions(**options))

    def report(
        self, image: bytes = QUERY, *, key: Path | None = None, **parameters: Any
    ) -> httpx.Response:
        def load(settings: Settings, _: object) -> Attributor:
            return open_attributor(
                DataFolder(settings.data),
                embedder=FakeEmbedder(),
                rate=settings.false_attribution_rate,
            )

        # Twelve exemplars make a small null, which no rate of 1% can be read from.
        settings = Settings(data=self.data.root, report_key=key, false_attribution_rate=RATE)
        with TestClient(create_app(settings, load=load)) as client:
            response = client.post(
                "/attribute/report", files={"image": ("q.png", image)}, params=parameters
            )
        assert response.status_code == 200, response.text
        return response

    def verify(self, content: str | bytes, key: Path | None = None) -> ReportVerification:
        file = self.root / "report"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        public_key = read_public_key(key) if key else None
        return verify_report(file, self.data, embedder=FakeEmbedder(), public_key=public_key)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """A gallery that no test changes."""
    return Gallery(tmp_path_factory.mktemp("gallery"))


@pytest.fixture(scope="module")
def record(whole: Gallery) -> dict[str, Any]:
    content: dict[str, Any] = whole.report(format="json").json()
    return content


@pytest.fixture(scope="module")
def page(whole: Gallery) -> str:
    return whole.report(format="html").text


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery(tmp_path)


def states(found: ReportVerification) -> dict[str, bool | None]:
    return {finding.name: finding.passed for finding in found.findings}


def text_of(found: ReportVerification, name: str) -> str:
    return next(finding.text for finding in found.findings if finding.name == name)


def rehashed(record: dict[str, Any]) -> str:
    """A report whose forger knows how to make a hash."""
    return json.dumps({**record, "sha256": content_hash(record)})


def changed(record: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(record))
    change(copy)
    return copy


def said_anew(record: dict[str, Any]) -> dict[str, Any]:
    """A report whose forger makes the sentence follow from the figures."""
    answer = Report.model_validate(record).answer
    record["answer"]["statement"] = statement_in(answer, texts("en"))
    return record


# What it holds


def test_it_holds_the_images_to_the_byte(whole: Gallery, record: dict[str, Any]) -> None:
    query = record["query"]
    assert base64.b64decode(query["original"]["data"]) == QUERY
    assert query["original"]["media_type"] == "image/png"
    assert query["sha256"] == hashlib.sha256(QUERY).hexdigest()
    assert (query["width"], query["height"], query["bytes"]) == (64, 64, len(QUERY))
    catalog = open_published(whole.data.index).catalog
    assert record["exemplars"]
    for name, exemplar in record["exemplars"].items():
        assert base64.b64decode(exemplar["thumbnail"]["data"]) == catalog.thumbnail(name)
        assert exemplar["sha256"] == catalog.exemplar(name).sha256


def test_it_gives_the_answer_and_what_it_rests_on(whole: Gallery, record: dict[str, Any]) -> None:
    snapshot = open_published(whole.data.index)
    assert record["answer"]["verdict"] == "attributed"
    best = record["answer"]["concepts"][0]
    assert best["id"] == "c1"
    assert best["name"] == NASTY
    assert best["exemplars"][0]["similarity"] == pytest.approx(1)
    assert record["index"]["version"] == snapshot.version
    manifest = json.loads((snapshot.folder / "manifest.json").read_text())
    assert record["index"]["manifest_checksum"] == manifest["checksum"]
    assert record["calibration"]["id"] == snapshot.calibration_id
    assert record["calibration"]["rate"] == RATE
    assert record["calibration"]["null_queries"] == len(snapshot.calibration.null_scores)
    assert record["software"]["name"] == "whence"
    assert any("does not prove" in limit for limit in record["limits"])


def test_it_comes_as_a_file_to_keep(whole: Gallery, record: dict[str, Any]) -> None:
    response = whole.report()
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    name = re.fullmatch(
        r'attachment; filename="whence-report-([0-9a-f]{12})\.html"',
        response.headers["content-disposition"],
    )
    assert name
    assert response.headers["cache-control"] == "no-store"
    assert f'"sha256": "{name[1]}' in response.text
    assert record["sha256"][:12] != name[1]  # made at another time


def test_as_many_as_asked_for_are_reported(whole: Gallery) -> None:
    few = whole.report(format="json", top_k=2, exemplars=1).json()
    assert len(few["answer"]["concepts"]) == 2
    assert len(few["exemplars"]) == 2
    assert few["parameters"] == {"top_k": 2, "exemplars": 1}
    none = whole.report(format="json", exemplars=0).json()
    assert none["exemplars"] == {}
    assert whole.verify(json.dumps(none)).complete


@pytest.mark.parametrize(
    ("parameters", "status", "kind"),
    [
        ({"format": "pdf"}, 422, "invalid-request"),
        ({"top_k": 10_000}, 422, "invalid-request"),
        ({"other": 1}, 422, "invalid-request"),
        ({}, 415, "unsupported-image-type"),
    ],
)
def test_what_cannot_be_reported_is_a_problem(
    client: TestClient,
    check_problem: CheckProblem,
    parameters: dict[str, Any],
    status: int,
    kind: str,
) -> None:
    files = {"image": ("a.png", b"no image")}
    response = client.post("/attribute/report", files=files, params=parameters)
    check_problem(response, status, kind)


# The page


class Reader(HTMLParser):
    """Every element with its attributes, and the text that is seen."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._hidden = tag if tag in {"script", "style"} else ""

    def handle_endtag(self, tag: str) -> None:
        self._hidden = ""

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data


def test_the_page_runs_nothing_and_fetches_nothing(page: str) -> None:
    elements = Reader(page).elements
    scripts = [attributes for tag, attributes in elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "whence-report"}]
    assert not any(name.startswith("on") for _, attributes in elements for name in attributes)
    sources = [attributes["src"] for _, attributes in elements if "src" in attributes]
    assert sources
    assert all(str(source).startswith("data:image/jpeg;base64,") for source in sources)
    policy = next(a["content"] for t, a in elements if a.get("http-equiv"))
    assert str(policy).startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in str(policy)


def test_names_are_text_and_only_web_addresses_are_links(page: str) -> None:
    reader = Reader(page)
    assert f"Closest match: {NASTY}" in reader.text
    assert "CC0 <i>1.0</i>" in reader.text
    links = [attributes["href"] for tag, attributes in reader.elements if tag == "a"]
    assert links
    assert all(str(link).startswith("https://example.org/") for link in links)
    assert "javascript:alert(2)" in reader.text
    assert not {"b", "i"} & {tag for tag, _ in reader.elements}


def test_the_page_holds_the_same_data(whole: Gallery) -> None:
    page = whole.report().text
    [data] = re.findall(r'id="whence-report">(.*?)</script>', page, re.DOTALL)
    assert "<" not in data
    _, record = read_report(page)
    assert content_hash(record) == record["sha256"]
    assert html.unescape(NASTY) == record["answer"]["concepts"][0]["name"]


def test_the_page_holds_each_picture_once(whole: Gallery) -> None:
    page = whole.report().text
    _, record = read_report(page)
    thumbnails = [one["thumbnail"]["data"] for one in record["exemplars"].values()]
    assert len(thumbnails) > 1
    for data in [*thumbnails, record["query"]["preview"]["data"]]:
        assert page.count(data) == 1
    assert page.count(record["query"]["original"]["data"]) == 1


def test_a_report_has_a_size(attributor: Attributor, tmp_path: Path, query: bytes) -> None:
    with TestClient(create_app(Settings(data=tmp_path), attributor)) as client:
        for top_k, status in ((10, 200), (11, 422)):
            parameters = {"top_k": top_k, "exemplars": 50}
            response = client.post("/attribute/report", files={"image": query}, params=parameters)
            assert response.status_code == status
    assert "at most 500 exemplars" in response.text


def _without_support(record: dict[str, Any]) -> None:
    record["answer"].update(verdict="no_match", candidates=[])
    for concept in record["answer"]["concepts"]:
        concept.update(likelihood_ratio=0.2, support="none")


def test_every_verdict_is_said_in_words(whole: Gallery) -> None:
    record = whole.report(format="json").json()
    two = [concept["id"] for concept in record["answer"]["concepts"][:2]]
    for verdict, candidates, words in (
        ("attributed", two[:1], "Closest match:"),
        ("attributed", [], "Closest match:"),  # at a high rate, without support
        ("uncertain", two, "Closest matches:"),
        ("uncertain", two[:1], "Several concepts match about as closely"),
        ("no_match", two[:1], "No match; nearest with some support:"),
        ("no_match", two[:1], "This server reports a match at p of at most 0.1; here p is "),
        ("no_match", [], "No match in this collection"),
    ):
        answer = {"verdict": verdict, "candidates": candidates}
        said = changed(record, lambda r, new=answer: r["answer"].update(new))  # type: ignore[misc]
        assert words in Reader(as_html(Report.model_validate(said))).text
    unsupported = changed(record, _without_support)
    text = Reader(as_html(Report.model_validate(unsupported))).text
    assert "it is no evidence of a source" in text
    assert "Appendix: nearest concepts" in text
    assert "Best exemplar of" not in text
    empty = changed(
        record, lambda r: r["answer"].update(verdict="no_match", concepts=[], candidates=[])
    )
    assert "No concept was listed" in Reader(as_html(Report.model_validate(empty))).text


def test_the_page_counts_and_measures_in_words(record: dict[str, Any]) -> None:
    def text(**calibration: Any) -> str:
        said = json.loads(json.dumps(record))
        said["parameters"] = {"top_k": 1, "exemplars": 1}
        said["query"] |= {"width": 1400, "height": 254}
        said["answer"]["concepts"][0]["p_value"] = 0.0123456
        said["calibration"] |= calibration
        return Reader(as_html(Report.model_validate(said))).text

    many = text(null_queries=40)
    for words in ("1 concept, 1 exemplar of each", "1400 \u00d7 254 pixels", "p = 0.0123."):
        assert words in many
    assert "exponential tail fitted to them" in many
    few = text(null_queries=39)
    assert "p is counted among the scores compared with, which are too few" in few
    assert "exponential tail" not in few
    assert "too small for test images" in text(null_queries=0)
    assert "1 test image, a work of" in text(null_queries=1)


@pytest.mark.parametrize(
    ("found", "count", "words"),
    [
        (0, 1500, "None of 1,500 test images matched this strongly."),
        (1, 1500, "1 of 1,500 unrelated test images scored this high."),
        (0, 0, "The collection is too small to tell how high unrelated images score."),
    ],
)
def test_chances_are_said_in_words(found: int, count: int, words: str) -> None:
    assert texts("en").chance(found, count) == words


def test_the_count_of_a_long_image_tells_its_squares(whole: Gallery) -> None:
    """Test images had one square each, so that the count alone would overstate the evidence."""
    canvas = Image.new("RGB", (192, 64), "grey")
    canvas.paste(patches(3, side=64), (128, 0))
    text = Reader(whole.report(encode(canvas), format="html").text).text
    assert "each compared in one square" in text
    assert "best of the 5 squares here" in text
    assert "matched this strongly" not in text
    assert "scored this high" not in text


def test_the_head_has_the_name_the_hash_and_the_time(whole: Gallery, page: str) -> None:
    head = Reader(page[: page.index("<main>")]).text
    assert "q.png" in head
    assert hashlib.sha256(QUERY).hexdigest() in head
    assert re.search(r"\d\d:\d\d:\d\d UTC", head)


def test_every_printed_page_has_a_number_and_the_reports_hash(page: str) -> None:
    [data] = re.findall(r'id="whence-report">(.*?)</script>', page, re.DOTALL)
    assert f'@bottom-left {{ content: "Report {json.loads(data)["sha256"]}"' in page
    assert 'content: counter(page) " of " counter(pages)' in page


def test_no_picture_of_the_page_is_repeated(page: str) -> None:
    sources = [a["src"] for tag, a in Reader(page).elements if tag == "img"]
    assert len(sources) == len(set(sources))


def test_weak_candidates_stand_in_the_appendix(whole: Gallery, record: dict[str, Any]) -> None:
    text = Reader(as_html(Report.model_validate(record))).text
    before, _, appendix = text.partition("Appendix: weaker candidates")
    for concept in record["answer"]["concepts"]:
        place = before if concept["likelihood_ratio"] >= 2 else appendix
        assert f"{concept['rank']} {concept['name']}" in place
    assert appendix


def test_what_was_compared_is_drawn(whole: Gallery) -> None:
    canvas = Image.new("RGB", (192, 64), "#808080")
    canvas.paste(patches(3, side=64), (128, 0))
    report = whole.report(encode(canvas), format="json").json()
    assert len(report["answer"]["compared"]) == 5
    assert report["answer"]["concepts"][0]["square"] == 4
    page = as_html(Report.model_validate(report))
    drawn = [
        attributes for tag, attributes in Reader(page).elements
        if tag == "rect" and attributes.get("class") == "bold"
    ]  # fmt: skip
    assert [(one["x"], one["width"]) for one in drawn] == [("128", "64"), ("0", "64")]
    assert "the 5 squares that were compared" in page
    assert whole.verify(page).complete


def test_a_region_is_told_drawn_and_verified(whole: Gallery) -> None:
    canvas = Image.new("RGB", (100, 90), "#808080")
    canvas.paste(patches(3, side=64), (30, 20))
    response = whole.report(encode(canvas), region="30,20,64,64")
    assert "Dashed: the part that was asked about." in response.text
    assert "the part of 64 \u00d7 64 pixels, 30 from the left and 20 from the top" in response.text
    assert whole.verify(response.content).complete
    record = whole.report(encode(canvas), region="30,20,64,64", format="json").json()
    for region in (None, {"x": 0, "y": 0, "width": 64, "height": 64},
                   {"x": 90, "y": 0, "width": 64, "height": 64}):  # fmt: skip
        forged = changed(record, lambda r, new=region: r["answer"].update(region=new))  # type: ignore[misc]
        assert states(whole.verify(rehashed(forged)))["scores"] is False


@pytest.mark.parametrize("url", [None, "", "javascript:x", "data:text/html,x", "http://[", "x.org"])
def test_what_is_no_web_address_is_no_link(url: str | None) -> None:
    assert web_link(url) is None


# Verifying


def test_the_page_is_german_and_the_data_are_not(whole: Gallery, record: dict[str, Any]) -> None:
    response = whole.report(language="de")
    assert response.headers["content-disposition"].endswith('.de.html"')
    text = Reader(response.text).text
    for words in (
        f"Nächste Übereinstimmung: {NASTY}", "Stützung: ", "Likelihood-Quotient",
        "Ähnlichkeit 1,000 im Motiv", "Er beweist nicht",
        "zugelassene Rate falscher Zuordnungen 10\u00a0%",
    ):  # fmt: skip
        assert words in text
    for words in (" the ", " and ", "{", "Exemplars", "support"):
        assert words not in text.partition("whence verify-report")[0]
    report = Report.model_validate(record)
    assert Reader(as_html(report, "de")).elements[0][1] == {"lang": "de"}
    english, german = (read_report(as_html(report, one))[1] for one in ("en", "de"))
    assert english == german
    assert german["sha256"] == record["sha256"]


@pytest.mark.parametrize("form", ["json", "html", "de"])
def test_a_report_as_written_passes(whole: Gallery, form: str) -> None:
    asked = {"language": form} if form == "de" else {"format": form}
    form = "html" if form == "de" else form
    found = whole.verify(whole.report(**asked).content)
    assert found.passed, found
    assert found.complete
    pages = {"page"} if form == "html" else set()
    assert (
        set(states(found))
        == {"hash", "statements", "image", "index", "exemplars", "scores"} | pages
    )
    assert all(finding.passed for finding in found.findings)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("hash", lambda r: r["answer"]["concepts"][0].update(share=0.5)),
        ("hash", lambda r: r["answer"].update(verdict="no_match")),
        ("hash", lambda r: r["limits"].clear()),
        ("hash", lambda r: r.update(added=1)),
        ("hash", lambda r: r.update(sha256="0" * 64)),
    ],
)
def test_a_change_is_found_by_the_hash(
    whole: Gallery, record: dict[str, Any], name: str, change: Callable[[dict[str, Any]], object]
) -> None:
    found = whole.verify(json.dumps(changed(record, change)))
    assert states(found)[name] is False
    assert not found.passed
    assert "scores" not in states(found)


def _another_image(record: dict[str, Any]) -> None:
    record["query"]["original"]["data"] = base64.b64encode(encode(noise())).decode()


def _another_preview(record: dict[str, Any]) -> None:
    record["query"]["preview"]["data"] = base64.b64encode(
        encode(Image.new("RGB", (64, 64), "red"), "JPEG")
    ).decode()


def _another_thumbnail(record: dict[str, Any]) -> None:
    next(iter(record["exemplars"].values()))["thumbnail"]["data"] = base64.b64encode(
        encode(noise(), "JPEG")
    ).decode()


def _swap_names(record: dict[str, Any]) -> None:
    first, second, *_ = record["answer"]["concepts"]
    first["name"], second["name"] = second["name"], first["name"]


def _swap_concepts(record: dict[str, Any]) -> None:
    first, second, *_ = record["answer"]["concepts"]
    first["id"], second["id"] = second["id"], first["id"]
    first["name"], second["name"] = second["name"], first["name"]
    first["exemplars"], second["exemplars"] = second["exemplars"], first["exemplars"]


def _exchange_concepts(record: dict[str, Any]) -> None:
    concepts = record["answer"]["concepts"]
    concepts[:2] = concepts[1::-1]
    for place, concept in enumerate(concepts, 1):
        concept["rank"] = place


def _exchange_exemplars(record: dict[str, Any]) -> None:
    record["answer"]["concepts"][0]["exemplars"].reverse()


def _date(when: str) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        record["created_at"] = record["answer"]["evidence"]["created_at"] = when

    return change


def _exchange_facet(record: dict[str, Any]) -> None:
    hit = _first(record)["exemplars"][0]
    hit["facet"] = "style" if hit["facet"] == "subject" else "subject"


def _first(record: dict[str, Any]) -> dict[str, Any]:
    concept: dict[str, Any] = record["answer"]["concepts"][0]
    return concept


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("image", _another_image),
        ("image", lambda r: r["query"].update(bytes=1)),
        ("image", lambda r: r["query"]["original"].update(media_type="image/gif")),
        ("image", lambda r: r["query"]["preview"].update(media_type="image/png")),
        ("statements", lambda r: r["limits"].pop()),
        ("statements", lambda r: r["limits"].append("It is proof.")),
        ("statements", lambda r: r.update(created_at="2026-01-01T00:00:00Z")),
        ("statements", _date("2001-01-01T00:00:00Z")),
        ("statements", _date("2999-01-01T00:00:00Z")),
        ("exemplars", lambda r: _first(r)["exemplars"][0].update(license="mine")),
        ("exemplars", lambda r: _first(r)["exemplars"][0].update(source_url="https://x.org")),
        ("exemplars", lambda r: _first(r)["exemplars"][0].update(image_url="/x")),
        ("scores", _exchange_concepts),
        ("scores", _exchange_exemplars),
        ("scores", lambda r: _first(r).update(found_by=[])),
        ("statements", lambda r: _first(r).update(found_by=["style", "style"])),
        ("scores", _exchange_facet),
        ("scores", lambda r: _first(r)["facets"].update(style=None)),
        ("scores", lambda r: _first(r).update(added=1)),
        ("scores", lambda r: r.update(added=1)),
        ("image", _another_preview),
        ("image", lambda r: r["query"].update(width=65)),
        ("image", lambda r: r["answer"]["evidence"].update(image_sha256="0" * 64)),
        ("image", lambda r: r["exemplars"].popitem()),
        ("index", lambda r: r["index"].update(manifest_checksum="0" * 64)),
        ("index", lambda r: r["index"].update(exemplars=13)),
        ("index", lambda r: r["answer"]["evidence"].update(model_id="another")),
        ("index", lambda r: r["calibration"].update(null_queries=1)),
        ("exemplars", _another_thumbnail),
        ("exemplars", _swap_names),
        ("exemplars", lambda r: r["answer"]["concepts"][0].update(id="nobody")),
        ("exemplars", lambda r: next(iter(r["exemplars"].values())).update(license="mine")),
        ("scores", _swap_concepts),
        ("scores", lambda r: r["answer"].update(verdict="uncertain")),
        ("scores", lambda r: r["answer"].update(unattributed_share=0.9)),
        ("scores", lambda r: r["answer"].update(no_source_share=0.9)),
        ("scores", lambda r: r["answer"].update(unlisted_share=0.9)),
        ("scores", lambda r: r["answer"]["compared"][0].update(x=1)),
        ("scores", lambda r: r["answer"]["compared"].append(r["answer"]["compared"][0])),
        ("scores", lambda r: next(iter(r["exemplars"].values()))["compared"].update(x=1)),
        ("scores", lambda r: r["answer"]["concepts"][0].update(scored_as_high=10_000)),
        ("scores", lambda r: r["answer"]["concepts"][0].update(square=1)),
        ("scores", lambda r: r["answer"]["concepts"][0].update(score=99.0)),
        ("scores", lambda r: r["answer"]["concepts"][0].update(p_value=0.5)),
        ("scores", lambda r: r["answer"]["concepts"][-1].update(p_value=0.001)),
        ("scores", lambda r: r["answer"]["concepts"][0].update(likelihood_ratio=1e6)),
        ("scores", lambda r: r["answer"]["concepts"][0].update(support="extremely strong")),
        ("statements", lambda r: r["answer"].update(statement="It is stolen.")),
        ("scores", lambda r: r["answer"].update(candidates=["nobody"])),
        ("scores", lambda r: r["answer"]["concepts"][0]["facets"].update(style=50.0)),
        ("scores", lambda r: r["answer"]["concepts"][-1]["exemplars"][0].update(similarity=0.99)),
        ("scores", lambda r: r["answer"]["concepts"][0].update(rank=2)),
        ("scores", lambda r: r["calibration"].update(rate=0.001)),
    ],
)
def test_a_forged_report_with_a_right_hash_is_found_out(
    whole: Gallery, record: dict[str, Any], name: str, change: Callable[[dict[str, Any]], object]
) -> None:
    forged = changed(record, change)
    found = whole.verify(rehashed(forged if name == "statements" else said_anew(forged)))
    assert states(found)["hash"] is True
    assert states(found)[name] is False, found
    assert not found.passed


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Closest match:", "Certainly stolen from"),
        ("</main>", "<p>And more.</p></main>"),
        ("#17181a", "#ffffff"),
    ],
)
def test_a_page_that_shows_something_else_is_found_out(
    whole: Gallery, page: str, old: str, new: str
) -> None:
    assert old in page
    found = whole.verify(page.replace(old, new, 1))
    assert states(found)["hash"] is True
    assert states(found)["page"] is False
    assert not found.passed


def test_a_page_of_another_layout_is_checked_by_its_data(whole: Gallery, page: str) -> None:
    found = whole.verify(page.replace(layout(), "0" * 12))
    assert states(found)["hash"] is False  # the layout is part of the data
    assert states(found)["page"] is None


def _page_of(record: dict[str, Any], shown: str) -> str:
    data = json.dumps(record).replace("<", "\\u003c")
    return f'<h1>{shown}</h1><script id="whence-report">{data}</script>'


def test_a_page_that_cannot_be_checked_is_never_whole(
    whole: Gallery, record: dict[str, Any], tmp_path: Path
) -> None:
    made_up = changed(record, lambda r: r["software"].update(layout="0" * 12))
    content = _page_of({**made_up, "sha256": content_hash(made_up)}, "Certainly stolen")
    found = whole.verify(content)
    assert states(found)["scores"] is True, found
    assert found.passed
    assert not found.complete
    (tmp_path / "r.html").write_text(content, encoding="utf-8")
    done = CliRunner().invoke(
        cli, ["verify-report", str(tmp_path / "r.html"), "--data", str(tmp_path / "none")]
    )
    assert done.exit_code == 2
    assert "read the data, not the page" in done.output
    assert "whole" not in done.output


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{}",
        b"[1]",
        b"nonsense",
        b"<html></html>",
        b'<script id="whence-report">{}</script>',
        b'<script id="whence-report">{}</script><script id="whence-report">{}</script>',
        b"[" * 100_000,
        b'{"format": "whence-report/2"}',
        b'{"format": "whence-report/3"}',
    ],
)
def test_what_is_no_report_is_refused_in_one_line(whole: Gallery, content: bytes) -> None:
    with pytest.raises(ReportError) as error:
        whole.verify(content)
    assert "\n" not in str(error.value)


def test_an_earlier_format_is_named(whole: Gallery, record: dict[str, Any]) -> None:
    with pytest.raises(ReportError, match=r"whence-report/2.*the version that made it"):
        whole.verify(json.dumps({**record, "format": "whence-report/2"}))


def test_numbers_without_a_canonical_form_are_refused(
    whole: Gallery, record: dict[str, Any]
) -> None:
    text = json.dumps(changed(record, lambda r: r.update(added="NUMBER")))
    with pytest.raises(ReportError, match="canonical"):
        whole.verify(text.replace('"NUMBER"', "NaN"))


def test_a_name_that_stands_twice_is_refused(whole: Gallery, record: dict[str, Any]) -> None:
    text = json.dumps(record).replace('"verdict":', '"verdict": "no_match", "verdict":', 1)
    with pytest.raises(ReportError, match="twice"):
        whole.verify(text)


HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),  # NaN and infinity too
    st.text(),
    st.sampled_from(
        [
            0,
            -1,
            2**53,
            10**400,
            1e308,
            -1e308,
            "",
            "0.5",
            "2026-01-01T00:00:00",
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59-14:00",
            "\x1b[2J",
            "\u202e",
            "../../etc/passwd",
            "AAAA",
            "A" * 5000,
            [],
            {},
            [[]],
            {"": {}},
            [None] * 50,
        ]
    ),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a record."""
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for name, one in inside:
        yield (*path, name)
        yield from places(one, (*path, name))


@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_whatever_a_file_holds_it_is_judged_or_refused(
    whole: Gallery, record: dict[str, Any], data: st.DataObject
) -> None:
    """Its hash is right, as a forger would make it, so that every check is reached."""
    copy = changed(record, lambda _: None)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(sorted(places(copy), key=str)))
        place = copy
        for name in path[:-1]:
            place = place[name]
        how = data.draw(st.sampled_from(["replace", "remove", "repeat"]))
        if how == "remove":
            del place[path[-1]]
        elif how == "repeat" and isinstance(place, list):
            place.append(place[path[-1]])
        else:
            place[path[-1]] = data.draw(HOSTILE)
    try:
        text = rehashed(copy)
    except (ReportError, UnicodeError):  # no hash can be made: then a wrong one is
        text = json.dumps(copy)
    page = data.draw(st.booleans())
    content = f'<script id="whence-report">{text.replace("<", chr(92) + "u003c")}</script>'
    with suppress(ReportError):
        assert whole.verify(content if page else text).findings


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0), change=st.binary(max_size=4), cut=st.integers(0, 8))
def test_damaged_files_are_judged_or_refused(
    whole: Gallery, page: str, where: int, change: bytes, cut: int
) -> None:
    content = page.encode()
    where %= len(content)
    damaged = content[:where] + change + content[where + cut :]
    with suppress(ReportError):
        assert whole.verify(damaged).passed == (damaged == content)


@pytest.mark.parametrize("place", ["report", "answer"])
def test_times_without_a_zone_are_refused(
    whole: Gallery, record: dict[str, Any], place: str
) -> None:
    def change(made: dict[str, Any]) -> None:
        where = made if place == "report" else made["answer"]["evidence"]
        where["created_at"] = "2026-01-01T00:00:00"

    with pytest.raises(ReportError, match="created_at"):
        whole.verify(rehashed(changed(record, change)))


def test_no_more_of_a_file_is_read_than_a_report_may_have(monkeypatch, whole: Gallery) -> None:
    monkeypatch.setattr("app.reports.verify.MAX_BYTES", 2**20)
    with pytest.raises(ReportError, match="more than 1 MiB"):
        verify_report(Path("/dev/zero"), whole.data)


def test_an_image_larger_than_the_server_takes_is_not_decoded(
    whole: Gallery, record: dict[str, Any]
) -> None:
    limits = ImageLimits(max_pixels=63 * 63)
    file = whole.root / "large"
    file.write_text(json.dumps(record))
    found = verify_report(file, whole.data, embedder=FakeEmbedder(), limits=limits)
    assert states(found)["image"] is False
    assert "cannot be decoded" in text_of(found, "image")


def test_the_terminal_gets_no_control_characters_of_the_file(
    whole: Gallery, record: dict[str, Any], tmp_path: Path
) -> None:
    def change(made: dict[str, Any]) -> None:
        made["index"]["version"] = "v\x1b[2J\nok     all is well\u202e"

    (tmp_path / "r.json").write_text(rehashed(changed(record, change)), encoding="utf-8")
    done = CliRunner().invoke(
        cli, ["verify-report", str(tmp_path / "r.json"), "--data", str(whole.data.root)]
    )
    assert not {"\x1b", "\u202e"} & set(done.output)
    assert r"v\x1b[2J\nok     all is well\u202e" in done.output


def test_a_byte_order_mark_is_no_change(whole: Gallery, page: str) -> None:
    assert whole.verify(page.encode("utf-8-sig")).complete


def test_what_was_taken_down_since_is_told_and_is_no_doubt(gallery: Gallery) -> None:
    report = gallery.report(format="json")
    hits = report.json()["answer"]["concepts"][0]["exemplars"]
    log = TakedownLog(gallery.data.takedowns)
    taken = withdraw(gallery.data, "exemplar", hits[0]["id"], reason="asked for")
    found = gallery.verify(report.content)
    assert found.passed
    assert found.complete
    assert hits[0]["id"] in text_of(found, "takedowns")
    # One made now is without it, and stays right when the takedown is lifted.
    later = gallery.report(format="json")
    assert later.json()["index"]["taken_down"] == 1
    assert hits[0]["id"] not in later.json()["exemplars"]
    assert gallery.verify(later.content).complete
    log.lift(taken.id, reason="settled")
    for content in (report.content, later.content):
        found = gallery.verify(content)
        assert found.complete
        assert "takedowns" not in states(found)


def test_a_concept_taken_down_since_is_told(gallery: Gallery) -> None:
    report = gallery.report(format="json")
    concept = report.json()["answer"]["concepts"][0]
    one = withdraw(gallery.data, "concept", concept["id"], reason="asked for")
    told = text_of(gallery.verify(report.content), "takedowns")
    assert concept["name"] in told
    assert one.id in told


def test_a_log_that_was_lost_is_told(gallery: Gallery) -> None:
    withdraw(gallery.data, "concept", "c5", reason="asked for")
    report = gallery.report(format="json")
    gallery.data.takedowns.unlink()
    found = gallery.verify(report.content)
    assert states(found)["index"] is None
    assert "takedown" in text_of(found, "index")
    assert not found.complete


def test_a_version_that_is_gone_leaves_the_rest_to_check(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = gallery.report()
    version = open_published(gallery.data.index).version
    gallery.rebuild(force=True, keep=1)
    found = gallery.verify(report.content)
    assert found.passed
    assert not found.complete
    assert version in text_of(found, "index")
    count = len(json.loads(gallery.report(format="json").text)["exemplars"])
    assert f"{count} of {count} exemplars" in text_of(found, "exemplars")


def test_without_an_index_only_the_file_is_checked(gallery: Gallery, tmp_path: Path) -> None:
    (tmp_path / "r.html").write_bytes(gallery.report().content)
    found = verify_report(tmp_path / "r.html", DataFolder(tmp_path / "elsewhere"))
    assert found.passed
    assert not found.complete
    assert states(found)["page"] is True


def test_without_the_model_scores_are_not_checked(gallery: Gallery, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(gallery.report(format="json").content)
    found = verify_report(tmp_path / "r.json", gallery.data)
    assert states(found)["exemplars"] is True
    assert states(found)["scores"] is None


# The command


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A data folder with a real, small model, and a report from it."""
    root = tmp_path_factory.mktemp("real")
    data = DataFolder(root / "data")
    for number in range(8):
        folder = root / "source" / f"Painter {number // 2}"
        folder.mkdir(parents=True, exist_ok=True)
        patches(number, side=64).save(folder / f"{number}.png")
    embedder = load_embedder(data.models, save_model(data.models, tiny_model(), {}), device="cpu")
    rebuild(data, read_sources([root / "source"]), embedder, RebuildOptions(canary_rate=0))
    with TestClient(create_app(Settings(data=data.root, device="cpu"))) as client:
        response = client.post("/attribute/report", files={"image": ("q.png", QUERY)})
    return data.root, response.content


def test_the_command_verifies_with_the_real_model(real: tuple[Path, bytes], tmp_path: Path) -> None:
    data, report = real
    (tmp_path / "r.html").write_bytes(report)
    arguments = ["verify-report", str(tmp_path / "r.html"), "--data", str(data), "--device", "cpu"]
    done = CliRunner().invoke(cli, [*arguments, "--json", str(tmp_path / "out.json")])
    assert done.exit_code == 0, done.output
    assert "FAILED" not in done.output
    assert "the index gives the same answer" in done.output
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["passed"], found["complete"]) == (True, True)
    (tmp_path / "r.html").write_bytes(report.replace(b"Painter 1", b"Painter 9"))
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 1
    assert "FAILED" in done.output
    assert "cannot be relied on" in done.output


def test_the_command_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["verify-report", str(tmp_path / "none.html")])
    assert isinstance(done.exception, ReportError)
    assert "none.html cannot be read" in str(done.exception)
