"""The HTML page of a report: to be read, printed and verified, without anything from elsewhere."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jinja2 import Environment

from app.reports.templating import TEMPLATES, environment
from app.reports.texts import TEXTS, chance, facets, ratio, say
from index.answering.calibration import MIN_SUPPORT
from index.answering.support import are_all

if TYPE_CHECKING:
    from app.reports.report import Report, ReportedAnswer
    from app.reports.together import GroupReport
    from whence_client.models import GroupAnswer, GroupConcept, RankedConcept

PAGES = {"whence-report/3": "report.html", "whence-group-report/2": "group_report.html"}
PARTS = ("base.html", "parts.html", "report.css")
DATA_ID = "whence-report"  # of the element in the HTML that holds the JSON
PICTURE_ID = "picture-"  # begins the id of an image in the HTML whose bytes the JSON there lacks
HASH = re.compile(r"[0-9a-f]{64}")
NAMED = 3  # candidates that a headline names, at most


def as_html(report: "Report | GroupReport") -> str:
    """Return a report as one page.

    The same report gives the same page, byte for byte, as long as `layout` is the same.
    """
    templates = _templates()
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
        data_id=DATA_ID,
        picture_id=PICTURE_ID,
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


def named_concepts(
    answer: "ReportedAnswer | GroupAnswer",
) -> "list[RankedConcept] | list[GroupConcept]":
    """Return the concepts that the headline names; `words.js` names the same on the page.

    Several are named only if they are certainly all that share the evidence: an answer may list
    fewer concepts than share it. At a high false-attribution rate an attributed answer names the
    first concept even without support.
    """
    if answer.verdict == "attributed":
        return answer.concepts[:1]
    shared = answer.concepts[: len(answer.candidates)]
    if answer.verdict != "uncertain":
        return shared[:1]
    shares = [concept.share for concept in answer.concepts]
    whole = are_all(len(shared), shares, answer.no_source_share)
    return shared if whole and 2 <= len(shared) <= NAMED else []


@cache
def layout() -> str:
    """Return the identity of all that turns a report into a page."""
    names = (*PAGES.values(), *PARTS)
    content = b"".join((TEMPLATES / name).read_bytes() for name in names)
    return hashlib.sha256(content + json.dumps(TEXTS).encode()).hexdigest()[:12]


def facet_scores(concept: "RankedConcept | GroupConcept") -> str:
    """Return a concept's scores in each facet, each after a comma."""
    scores = {"subject": concept.facets.subject, "style": concept.facets.style}
    return "".join(
        say("facet_score", facet=facet, value=f"{score:.2f}")
        for facet, score in scores.items()
        if score is not None
    )


def percent(share: float) -> str:
    """Return a share in words, never rounded to all or nothing, as `words.js` does."""
    if 0 < share < 0.005:
        return "under 1%"
    return "over 99%" if 0.995 <= share < 1 else f"{math.floor(100 * share + 0.5)}%"


def web_link(url: str | None) -> str | None:
    """Return an address that may be made a link, of http or https, or None."""
    try:
        return url if url and urlsplit(url).scheme in {"http", "https"} else None
    except ValueError:
        return None


@cache
def _templates() -> Environment:
    templates = environment()
    templates.filters |= {
        "facets": facets,
        "percent": percent,
        "ratio": ratio,
        "web_link": web_link,
    }
    templates.globals |= {
        "chance": chance,
        "facet_scores": facet_scores,
        "min_support": MIN_SUPPORT,
        "named_concepts": named_concepts,
        "say": say,
    }
    return templates
