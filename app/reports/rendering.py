"""The HTML page of a report: to be read, printed and verified, without anything from elsewhere."""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jinja2 import Environment

from app.reports.finding import headline, statement_in
from app.reports.templating import TEMPLATES, environment
from app.reports.texts import Texts, fingerprint, texts
from index.answering.calibration import MIN_FITTED, MIN_SUPPORT
from whence_client.models import Language

if TYPE_CHECKING:
    from app.reports.report import Report
    from app.reports.together import GroupReport
    from whence_client.models import GroupConcept, RankedConcept

PAGES = {"whence-report/3": "report.html", "whence-group-report/2": "group_report.html"}
PARTS = ("base.html", "parts.html", "report.css")
DATA_ID = "whence-report"  # of the element in the HTML that holds the JSON
PICTURE_ID = "picture-"  # begins the id of an image in the HTML whose bytes the JSON there lacks
HASH = re.compile(r"[0-9a-f]{64}")


def as_html(report: "Report | GroupReport", language: Language = "en") -> str:
    """Return a report as one page in a language; its data do not depend on that.

    The same report gives the same page, byte for byte, as long as `layout` is the same.
    """
    templates, say = _templates(language), texts(language).say
    page_id = say("id", id=report.sha256 if HASH.fullmatch(report.sha256) else "")
    style = templates.get_template("report.css").render(page_id=page_id, page_of=say("pages"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    record = report.model_dump(mode="json")
    shown = {hit.id for concept in report.answer.concepts for hit in concept.exemplars}
    hidden = report.exemplars.keys() - shown
    for name, picture in shown_pictures(record):
        if name not in hidden:
            picture["data"] = ""  # it is in the page's image
    return templates.get_template(PAGES[report.format]).render(
        report=report,
        record=record,
        style=style,
        style_sha256=digest,
    )


def shown_pictures(record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the pictures that the page of a report's JSON shows, by the rest of their id.

    Raises:
        AttributeError, KeyError, TypeError: it is no report's JSON.
    """
    if "query" in record:
        yield "query", record["query"]["preview"]
    else:
        for kind in ("images", "control"):
            for number, image in enumerate(record[kind], start=1):
                yield f"{kind}-{number}", image["preview"]
    for name, exemplar in record["exemplars"].items():
        yield name, exemplar["thumbnail"]


@cache
def layout() -> str:
    """Return the identity of all that turns a report into a page."""
    names = (*PAGES.values(), *PARTS)
    content = b"".join((TEMPLATES / name).read_bytes() for name in names)
    return hashlib.sha256(content + fingerprint().encode()).hexdigest()[:12]


def web_link(url: str | None) -> str | None:
    """Return an address that may be made a link, of http or https, or None."""
    try:
        return url if url and urlsplit(url).scheme in {"http", "https"} else None
    except ValueError:
        return None


@cache
def _templates(language: Language) -> Environment:
    words = texts(language)
    templates = environment()
    templates.filters |= {
        "degree": words.degree,
        "limit": words.limit,
        "moment": words.moment,
        "number": words.number,
        "percent": words.percent,
        "ratio": words.ratio,
        "web_link": web_link,
    }
    templates.globals |= {
        "chance": words.chance,
        "data_id": DATA_ID,
        "facet_scores": partial(_facet_scores, words),
        "headline": lambda answer: headline(answer, words),
        "language": language,
        "min_fitted": MIN_FITTED,
        "min_support": MIN_SUPPORT,
        "picture_id": PICTURE_ID,
        "resembles": words.resembles,
        "say": words.say,
        "statement": lambda answer: statement_in(answer, words),
    }
    return templates


def _facet_scores(words: Texts, concept: "RankedConcept | GroupConcept") -> str:
    """Return a concept's scores in each facet, each after a comma."""
    scores = {"subject": concept.facets.subject, "style": concept.facets.style}
    return "".join(
        words.say("facet_score", facet=words.say(f"name_{facet}"), value=words.number(score, ".2f"))
        for facet, score in scores.items()
        if score is not None
    )
