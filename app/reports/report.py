"""Evidence that can be filed: one answer with its images, what it rests on, and a hash over all."""

import base64
import binascii
import hashlib
import io
import json
import math
from datetime import datetime
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import rfc8785
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from pydantic import AfterValidator, AwareDatetime, Field, ValidationError

from app.schemas import exemplar_detail, metadata_texts, ranked_concept
from index.answering.attribution import Attribution, Attributor
from index.answering.calibration import Verdict
from index.answering.support import times
from index.thumbnails import thumbnail_of
from model.errors import WhenceError
from model.images import DEFAULT_LIMITS, ImageLimits, decode_image, media_type
from whence_client.models import Evidence, ExemplarDetail, Fraction, RankedConcept, Wire

TEMPLATES = Path(__file__).parent / "templates"
PAGE, STYLE = "report.html", "report.css"
DATA_ID = "whence-report"  # of the element in the HTML that holds the JSON
LIMITS = (
    "This report is evidence of similarity. It does not prove that an image was used to train a "
    "model, nor that one image was copied from another.",
    "It does not name the generator that made the image.",
    "It knows the works of one collection, in the version named here, and nothing beyond it. Two "
    "artists who work alike are alike to it.",
    "A likelihood ratio compares two propositions: that the image draws on a concept, and that its "
    "source is not in this collection. How likely each was beforehand is not for it to say.",
    "A chance of one in a hundred is meant of images like those of the collection, changed by "
    "cropping, colour and compression; for images of a very different kind it can be off.",
    "The hash shows that no part was damaged. It is no signature: who made the report, and when, "
    "is not verified. Whether its index gives this answer, the command verify-report checks.",
)


Count = Annotated[int, Field(ge=0, lt=2**53)]  # the integers that JSON carries exactly


class ReportError(WhenceError):
    """A file that is no evidence report."""


def _check_base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64 ({error})") from error
    return text


class Picture(Wire):
    """The bytes of an image file."""

    media_type: str = Field(description="Its kind of file.")
    data: Annotated[str, AfterValidator(_check_base64)] = Field(description="Base64.")

    @classmethod
    def of(cls, data: bytes, media_type: str) -> Self:
        """The wire form."""
        return cls(media_type=media_type, data=base64.b64encode(data).decode())

    @property
    def file(self) -> bytes:
        """The bytes."""
        return base64.b64decode(self.data)

    @property
    def url(self) -> str:
        """The image itself as an address."""
        return f"data:{self.media_type};base64,{self.data}"


class Software(Wire):
    """The software that made the report."""

    name: Literal["whence"] = Field("whence", description="Always `whence`.")
    version: str = Field(description="Its version.")
    layout: str = Field(description="Identity of the page's template.")


class Parameters(Wire):
    """The parameters of the request."""

    top_k: Count = Field(description="Concepts to list, at most.")
    exemplars: Count = Field(description="Exemplars to list for each concept, at most.")


class Query(Wire):
    """The image that was asked about."""

    sha256: str = Field(description="Of the uploaded file, hexadecimal.")
    bytes: Count = Field(description="Size of that file.")
    width: Count = Field(description="Pixels, upright.")
    height: Count = Field(description="Pixels, upright.")
    original: Picture = Field(description="The uploaded file.")
    preview: Picture = Field(description="The same, upright and small, for every browser.")


class ReportedAnswer(Wire):
    """The answer as `POST /attribute` gives it; how long it took is no evidence."""

    verdict: Verdict = Field(description="The answer in one word.")
    concepts: list[RankedConcept] = Field(description="The most plausible concepts, best first.")
    unattributed_share: Fraction = Field(description="What no listed concept takes.")
    candidates: list[str] = Field(description="Ids of the concepts that share the evidence.")
    statement: str = Field(description="The evidence for the first concept in a sentence.")
    evidence: Evidence = Field(description="What the answer rests on.")


class ReportedExemplar(ExemplarDetail):
    """An exemplar that the answer names."""

    concept_id: str = Field(description="The concept that it is of.")
    thumbnail: Picture = Field(description="Its thumbnail, as the index holds it.")
    metadata: dict[str, str] | None = Field(
        None,
        description="What else its source says of it: texts as they are, all else as JSON. Null in "
        "reports of earlier versions.",
    )


class ReportedIndex(Wire):
    """The index version that was searched."""

    version: str = Field(description="Its name.")
    created_at: AwareDatetime = Field(description="When it was built.")
    manifest_checksum: str = Field(description="SHA-256 over the checksums of all its files.")
    concepts: Count = Field(description="Concepts that it showed at the time.")
    exemplars: Count = Field(description="Exemplars that it showed at the time.")
    taken_down: Count = Field(description="Exemplars that takedowns hid at the time.")


class ReportedCalibration(Wire):
    """The calibration that turned scores into p-values and a verdict."""

    id: str = Field(description="Identity of the calibration.")
    rate: float = Field(
        gt=0, lt=1, description="Share of images from elsewhere that may pass as a match."
    )
    null_queries: Count = Field(description="Images from elsewhere whose scores are known.")


class Report(Wire):
    """An evidence report; `sha256` is of all the rest in the canonical form of RFC 8785."""

    format: Literal["whence-report/2"] = Field("whence-report/2", description="Of this JSON.")
    software: Software = Field(description="The program that wrote this.")
    created_at: AwareDatetime = Field(description="When the answer was made, UTC.")
    parameters: Parameters = Field(description="How much was asked for.")
    query: Query = Field(description="The image in question.")
    answer: ReportedAnswer = Field(description="The answer.")
    exemplars: dict[str, ReportedExemplar] = Field(description="By id: all that are named.")
    index: ReportedIndex = Field(description="What was searched.")
    calibration: ReportedCalibration = Field(description="How scores became a verdict.")
    limits: list[str] = Field(description="What the answer does not say.")
    sha256: str = Field("", description="Of all the rest, hexadecimal.")


def make_report(
    attribution: Attribution,
    attributor: Attributor,
    data: bytes,
    *,
    created_at: datetime,
    parameters: Parameters,
    software: str,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Report:
    """Report on an answer that ``attributor`` gave.

    Args:
        attribution: the answer.
        attributor: gave the answer.
        data: the uploaded file.
        created_at: when the answer was complete.
        parameters: of the request.
        software: this software's version.
        limits: those that the upload had to keep.

    Raises:
        ImageError: the file cannot be decoded.
    """
    snapshot = attributor.snapshot
    manifest, catalog = snapshot.manifest, snapshot.catalog
    image = decode_image(data, limits)
    pixels = image.pixels
    shown = [hit.exemplar for concept in attribution.concepts for hit in concept.exemplars]
    report = Report(
        software=Software(version=software, layout=layout()),
        created_at=created_at,
        parameters=parameters,
        query=Query(
            sha256=image.sha256,
            bytes=len(data),
            width=pixels.width,
            height=pixels.height,
            original=Picture.of(data, media_type(data)),
            preview=preview_of(pixels),
        ),
        answer=ReportedAnswer(
            verdict=attribution.verdict,
            concepts=[ranked_concept(concept, {}) for concept in attribution.concepts],
            unattributed_share=attribution.unattributed_share,
            candidates=list(attribution.candidates),
            statement=attribution.statement,
            evidence=Evidence(
                model_id=snapshot.model_id,
                index_version=snapshot.version,
                calibration=snapshot.calibration_id,
                image_sha256=image.sha256,
                created_at=created_at,
            ),
        ),
        exemplars={
            exemplar.id: ReportedExemplar(
                **exemplar_detail(exemplar).model_dump(),
                concept_id=exemplar.concept_id,
                thumbnail=Picture.of(catalog.thumbnail(exemplar.id), "image/jpeg"),
                metadata=metadata_texts(exemplar),
            )
            for exemplar in shown
        },
        index=ReportedIndex(
            version=manifest.version,
            created_at=manifest.created_at,
            manifest_checksum=manifest.model_dump(mode="json")["checksum"],
            concepts=catalog.concept_count(),
            exemplars=catalog.exemplar_count(),
            taken_down=len(snapshot.hidden),
        ),
        calibration=ReportedCalibration(
            id=snapshot.calibration_id,
            rate=attributor.rate,
            null_queries=len(snapshot.calibration.null_scores),
        ),
        limits=list(LIMITS),
    )
    return report.model_copy(update={"sha256": content_hash(report.model_dump(mode="json"))})


def content_hash(record: dict[str, Any]) -> str:
    """SHA-256, hexadecimal, of a report as JSON without its `sha256`, in canonical form.

    Raises:
        ReportError: it holds what has no canonical form, such as NaN.
    """
    rest = {name: value for name, value in record.items() if name != "sha256"}
    try:
        return hashlib.sha256(rfc8785.dumps(rest)).hexdigest()
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise ReportError(f"the report has no canonical form ({error})") from error


def as_json(report: Report) -> str:
    """The report as a JSON file."""
    return json.dumps(report.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def as_html(report: Report) -> str:
    """The report as one page that needs nothing else: to be read, printed and verified.

    The same report gives the same page, byte for byte, as long as `layout` is the same.
    """
    style = (TEMPLATES / STYLE).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = _templates().get_template(PAGE)
    return page.render(
        report=report,
        record=report.model_dump(mode="json"),
        data_id=DATA_ID,
        style=style,
        style_sha256=digest,
    )


def read_report(text: str) -> tuple[Report, dict[str, Any]]:
    """Parse the output of `as_json` or `as_html`; return the report and its raw JSON.

    Raises:
        ReportError: it is neither.
    """
    if text.lstrip()[:1] == "<":
        finder = _DataFinder()
        finder.feed(text)
        if len(finder.found) != 1:
            raise ReportError("this page holds no report's data; give a file that Whence wrote")
        text = finder.found[0]
    try:
        record = json.loads(text, object_pairs_hook=_named_once)
        # Strict: what the record holds is then of the model's types, and can be compared with it.
        return Report.model_validate_json(text, strict=True), record
    except (ValueError, RecursionError) as error:
        raise ReportError(f"this is no evidence report: {_first_fault(error)}") from error


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Readers differ in which of two values of one name they take; so there shall be one."""
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ReportError("this is no evidence report: a name stands twice in one object")
    return record


def preview_of(pixels: Image.Image) -> Picture:
    """A small JPEG of an RGB image."""
    buffer = io.BytesIO()
    thumbnail_of(pixels).save(buffer, "JPEG", quality=88)
    return Picture.of(buffer.getvalue(), "image/jpeg")


@cache
def layout() -> str:
    """Identity of what turns a report into a page."""
    content = b"".join((TEMPLATES / name).read_bytes() for name in (PAGE, STYLE))
    return hashlib.sha256(content).hexdigest()[:12]


def chance(p_value: float) -> str:
    """A p-value in words; `words.js` says the same on the page."""
    if p_value <= 0.1:
        return f"about once in {_round(1 / p_value):,} images from elsewhere"
    if p_value < 0.95:
        return f"for about {round(10 * p_value)} in 10 images from elsewhere"
    return "for nearly every image from elsewhere"


def percent(share: float) -> str:
    """A share in words, never rounded to all or nothing; `words.js` says the same on the page."""
    if 0 < share < 0.005:
        return "under 1%"
    return "over 99%" if 0.995 <= share < 1 else f"{math.floor(100 * share + 0.5)}%"


def ratio(likelihood_ratio: float) -> str:
    """A likelihood ratio to two digits; `words.js` says the same on the page."""
    return times(likelihood_ratio) if likelihood_ratio >= 1 else f"1/{times(1 / likelihood_ratio)}"


def web_link(url: str | None) -> str | None:
    """An address that may be made a link: http or https only."""
    try:
        return url if url and urlsplit(url).scheme in {"http", "https"} else None
    except ValueError:
        return None


def _round(count: float) -> int:
    """To two digits, as is said of something estimated."""
    whole = round(count)
    step: int = 10 ** max(0, len(str(whole)) - 2)
    return math.floor(whole / step + 0.5) * step


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "chance": chance,
        "percent": percent,
        "ratio": ratio,
        "web_link": web_link,
    }
    return templates


class _DataFinder(HTMLParser):
    """Finds what the page's data element holds."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script" and dict(attrs).get("id") == DATA_ID:
            self._inside = True
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] += data


def _first_fault(error: Exception) -> str:
    if isinstance(error, ValidationError):
        fault = error.errors()[0]
        return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
    return str(error)
