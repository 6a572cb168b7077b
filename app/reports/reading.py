"""Reads reports back from their files, JSON or HTML."""

import json
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

from pydantic import ValidationError

from app.reports.rendering import DATA_ID, PICTURE_ID, shown_pictures
from app.reports.report import Report, ReportError
from app.reports.together import GroupReport

AnyReport = Report | GroupReport
KINDS: Mapping[str, type[AnyReport]] = {
    model.model_fields["format"].default: model for model in (Report, GroupReport)
}


def read_report(text: str) -> tuple[AnyReport, dict[str, Any]]:
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
        pictures = finder.pictures
    else:
        pictures = {}
    try:
        record = json.loads(text, object_pairs_hook=_named_once)
        model = _model_of(record)
        if pictures:
            text = _with_pictures(record, pictures)
        # Strict: what the record holds is then of the model's types, and can be compared with it.
        return model.model_validate_json(text, strict=True), record
    except (ValueError, RecursionError) as error:
        raise ReportError(f"this is no evidence report: {_first_fault(error)}") from error


def _model_of(record: Any) -> type[AnyReport]:
    """Return the model of a report's JSON by its stated format.

    Raises:
        ReportError: it is the format of another version of Whence.
    """
    stated = record.get("format") if isinstance(record, dict) else None
    if not isinstance(stated, str):
        return Report
    family = stated.rpartition("/")[0]
    known = next((one for one in KINDS if one.rpartition("/")[0] == family), None)
    if known and stated != known:
        raise ReportError(
            f"this report is of the format {stated[:40]}, and this version of Whence reads "
            f"{known}; verify it with the version that made it"
        )
    return KINDS.get(stated, Report)


def _with_pictures(record: dict[str, Any], pictures: Mapping[str, str]) -> str:
    """Fill in the pictures that the page shows; return the record's JSON.

    Args:
        record: of the page.
        pictures: data URLs by the rest of the id of their image.

    Raises:
        ValueError: it is no report's record.
    """
    try:
        for name, picture in shown_pictures(record):
            start, _, data = pictures.get(name, "").partition(",")
            if picture["data"] == "" and start == f"data:{picture['media_type']};base64":
                picture["data"] = data
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("its record has another form") from error
    return json.dumps(record)


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, and refuse one with a name twice: readers differ in which they take."""
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ReportError("this is no evidence report: a name stands twice in one object")
    return record


class _DataFinder(HTMLParser):
    """Finds what the page's data element holds, and the images it refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.pictures: dict[str, str] = {}
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        name = dict(attrs).get("id") or ""
        if tag == "img" and name.startswith(PICTURE_ID):
            self.pictures.setdefault(name.removeprefix(PICTURE_ID), dict(attrs).get("src") or "")
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
