"""``whence verify-report``: checks an evidence report by itself and against its index."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import TemplateError

from app.reports.finding import statement_in
from app.reports.reading import AnyReport, read_report
from app.reports.rendering import as_html, layout
from app.reports.repeating import Finding, check_scores, counted
from app.reports.report import Picture, Query, Report, ReportError, content_hash, preview_of
from app.reports.signing import SigningError, is_signed, public_text
from app.reports.texts import LANGUAGES, texts
from app.reports.together import GroupReport
from app.schemas import exemplar_detail, exemplar_hit, metadata_texts
from index.answering.attribution import Attributor, ExemplarEvidence
from index.answering.calibration import Calibration
from index.building.embedding import ImageEmbedder
from index.catalog import Catalog
from index.errors import NotFoundError, SnapshotError, TakedownError
from index.layout import DataFolder
from index.snapshot import Snapshot, open_published
from index.takedowns.in_force import Takedowns
from index.takedowns.log import TakedownLog
from index.versions import require_version
from model.checkpoint import load_embedder
from model.errors import ImageError, ModelError
from model.images import DEFAULT_LIMITS, ImageLimits, decode_image, media_type

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_BYTES = 256 * 2**20  # of a report's file
CLOCKS = timedelta(minutes=5)  # that a server's clock may be ahead of this one's
PREVIEW = 6.0  # mean difference of two encodings of one picture, of 255


@dataclass(frozen=True)
class ReportVerification:
    """The results of all checks of a report."""

    report: str  # the hash that the report states
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Return True if no check failed."""
        return all(finding.passed is not False for finding in self.findings)

    @property
    def complete(self) -> bool:
        """Return True if the page (of an HTML report) and the scores were checked."""
        return self.page_checked and any(
            finding.name == "scores" and finding.passed for finding in self.findings
        )

    @property
    def page_checked(self) -> bool:
        """Return True if the page was checked, or the report is JSON."""
        return all(
            finding.passed is not None for finding in self.findings if finding.name == "page"
        )

    def as_dict(self) -> dict[str, object]:
        """Return the record to write as JSON."""
        return {"passed": self.passed, "complete": self.complete, **asdict(self)}


def verify_report(
    file: Path,
    data: DataFolder,
    *,
    device: str = "auto",
    embedder: ImageEmbedder | None = None,
    public_key: "Ed25519PublicKey | None" = None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> ReportVerification:
    """Check a report, first by itself, then against its index version.

    The takedowns of the report's time are applied, so that later ones do not make a check fail.

    Args:
        file: a report of `POST /attribute/report` or `/attribute/together/report`, JSON or HTML.
        data: the data folder of the server that made it.
        device: embeds the images.
        embedder: used instead of loading the index's model.
        public_key: the key whose signature the report must have.
        limits: of the image's size on that server; the lower limit is ignored.

    Raises:
        ReportError: the file is no report.
    """
    limits = replace(limits, min_side=1)
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ReportError(
                f"{file} is no evidence report: it has more than {MAX_BYTES // 2**20} MiB"
            )
        text = content.decode("utf-8-sig")  # an editor may have added a byte order mark
    except OSError as error:
        raise ReportError(f"{file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ReportError(f"{file} is no evidence report: it is not text in UTF-8") from error
    try:
        report, record = read_report(text)
        findings = [*_whole(report, record, text, limits), *_signature(report, record, public_key)]
    except ReportError as error:
        raise ReportError(f"{file}: {error}") from error
    if all(finding.passed is not False for finding in findings):
        findings += _against_index(report, record, data, device, embedder, limits)
    else:
        findings.append(
            Finding("index", None, "a file that was changed is not compared with the index")
        )
    return ReportVerification(report.sha256, tuple(findings))


def _whole(
    report: AnyReport, record: dict[str, Any], text: str, limits: ImageLimits
) -> Iterator[Finding]:
    """Check a report by itself."""
    same = content_hash(record) == report.sha256
    yield Finding(
        "hash",
        same,
        f"the data agrees with the hash it names, {report.sha256}"
        if same
        else f"the data was changed: its SHA-256 is not {report.sha256[:64]}, which it names",
    )
    if text.lstrip()[:1] == "<":
        if report.software.layout == layout():
            same = _is_page_of(report, text)
            yield Finding(
                "page",
                same,
                "the page shows this data and nothing else"
                if same
                else "the page was changed: it is not the one that its data gives",
            )
        else:
            yield Finding(
                "page",
                None,
                f"the page says that it has the layout {report.software.layout} of another version "
                f"of Whence ({report.software.version}): what it shows was not checked",
            )
    yield _statements(report)
    yield _pictures(report, limits)


def _signature(
    report: AnyReport, record: dict[str, Any], public_key: "Ed25519PublicKey | None"
) -> Iterator[Finding]:
    """Check a report's signature, if it has one or a key is given."""
    signature = report.signature
    if signature is None:
        if public_key is not None:
            yield Finding("signature", False, "the report is not signed")
        return
    named = signature.public_key
    if public_key is not None and public_text(public_key) != named:
        yield Finding(
            "signature", False, f"the report names another key than the given one, {named}"
        )
        return
    try:
        valid = is_signed(content_hash(record), signature)
    except SigningError as error:
        yield Finding("signature", None, f"the signature was not checked: {error}")
        return
    if not valid:
        yield Finding("signature", False, f"the signature is not of this data by the key {named}")
    elif public_key is None:
        yield Finding(
            "signature",
            None,
            f"the data is signed by the key {named}; whose that is, --public-key FILE checks",
        )
    else:
        yield Finding("signature", True, f"the data is signed by the given key, {named}")


def _is_page_of(report: AnyReport, text: str) -> bool:
    """Return True if rendering the report's data in a language gives the page."""
    try:
        return any(as_html(report, language) == text for language in LANGUAGES)
    except (TemplateError, ArithmeticError, LookupError):
        return False


def _statements(report: AnyReport) -> Finding:
    """Check the fixed statements and the times of a report."""
    wrong = ""
    said = texts("en")
    limits = said.limits if isinstance(report, Report) else said.group_limits
    if report.limits != list(limits):
        wrong = "what the report does not say is worded otherwise than reports word it"
    elif report.created_at != report.answer.evidence.created_at:
        wrong = "report and answer name different times"
    elif not report.index.created_at <= report.created_at <= datetime.now(UTC) + CLOCKS:
        wrong = (
            f"the time named, {report.created_at:%Y-%m-%d %H:%M} UTC, lies before the index was "
            "built or in the future"
        )
    elif any(len({*one.found_by}) < len(one.found_by) for one in report.answer.concepts):
        wrong = "a concept was found by one facet twice"
    elif not _follows(report):
        wrong = "the sentence on the evidence does not follow from the figures"
    right = "the limits are worded as reports word them, and the times are possible"
    return Finding("statements", not wrong, wrong or right)


def _follows(report: AnyReport) -> bool:
    """Return True if the answer's sentence is the one that its figures give."""
    try:
        return report.answer.statement == statement_in(report.answer, texts("en"))
    except ArithmeticError:  # a ratio beyond numbers
        return False


def _pictures(report: AnyReport, limits: ImageLimits) -> Finding:
    """Check the query image, its preview and the list of exemplars."""
    wrong = next(
        (
            fault
            for query, sha256 in _expected(report)
            if (fault := _picture(query, sha256, limits))
        ),
        "",
    )
    if isinstance(report, GroupReport) and not _is_complete(report):
        wrong = wrong or "the images are not those that the answer names"
    hits = [hit for concept in report.answer.concepts for hit in concept.exemplars]
    if not wrong and {hit.id for hit in hits} != set(report.exemplars):
        wrong = "the exemplars are not those that the answer names"
    one = isinstance(report, Report)
    text = (
        f"the image is the one named, {report.files[0].sha256}"
        if one
        else f"the {len(report.files)} images are those named"
    )
    return Finding("image", not wrong, wrong or text)


def _expected(report: AnyReport) -> list[tuple[Query, str]]:
    """Return the images of a report with the SHA-256 that its answer names for each."""
    if isinstance(report, Report):
        return [(report.query, report.answer.evidence.image_sha256)]
    answer = report.answer
    control = answer.control.images_sha256 if answer.control else []
    return [
        *zip(report.images, answer.evidence.images_sha256, strict=False),
        *zip(report.control, control, strict=False),
    ]


def _is_complete(report: GroupReport) -> bool:
    """Return True if a report has as many images as its answer names, and pairs of them."""
    answer = report.answer
    images, control = len(report.images), len(report.control)
    named = len(answer.control.images_sha256) if answer.control else 0
    return (
        images == len(answer.evidence.images_sha256) > 0
        and control == named
        and control in (0, images)
        and all(
            [part.image for part in concept.images] == list(range(1, images + 1))
            and all(hit.image <= images for hit in concept.exemplars)
            for concept in answer.concepts
        )
    )


def _picture(query: Query, sha256: str, limits: ImageLimits) -> str:
    """Return the fault of an image or its preview, or an empty string.

    Args:
        query: the image.
        sha256: that the answer names.
        limits: of its size.
    """
    try:
        decoded = decode_image(query.original.file, limits)
        shown = decode_image(query.preview.file, limits).pixels
        expected = decode_image(preview_of(decoded.pixels).file, limits).pixels
    except ImageError as error:
        return f"the image cannot be decoded: {error}"
    if not decoded.sha256 == query.sha256 == sha256:
        return "the image is not the one whose SHA-256 is named"
    if decoded.pixels.size != (query.width, query.height):
        return "the image has another size than is named"
    if query.bytes != len(query.original.file):
        return "the image file has another size than is named"
    if query.original.media_type != media_type(query.original.file):
        return "the image file is of another type than is named"
    if query.preview.media_type != "image/jpeg":
        return "the preview is of another type than previews are"
    one, other = (np.asarray(pixels, np.float32) for pixels in (shown, expected))
    if one.shape != other.shape or np.abs(one - other).mean() > PREVIEW:
        return "the preview does not show the image"
    return ""


def _against_index(
    report: AnyReport,
    record: dict[str, Any],
    data: DataFolder,
    device: str,
    embedder: ImageEmbedder | None,
    limits: ImageLimits,
) -> Iterator[Finding]:
    """Check a report against its index version."""
    version = report.index.version
    try:
        takedowns = TakedownLog(data.takedowns).read()
    except TakedownError as error:
        yield Finding("index", None, f"the index was not looked at: {error}")
        return
    yield from _withdrawn_concepts(report, takedowns)
    try:
        require_version(data.index, version)
        snapshot = Snapshot.open(data.index / version, data.stores)
    except SnapshotError as error:
        yield Finding(
            "index",
            None,
            f"the index version {version} cannot be asked, so that scores and identities were not "
            f"checked: {error}",
        )
        yield from _elsewhere(report, data, takedowns)
        return
    with closing(snapshot):
        then = takedowns_at(takedowns, report.created_at)
        hidden = then.hidden_rows(snapshot.catalog, snapshot.fingerprint_index, {})
        with closing(snapshot.masked(hidden)) as masked:
            yield _identity(report, masked)
            yield _catalog(report, masked.catalog)
            yield from _taken_down_since(report, snapshot, takedowns)
            if len(masked.hidden) != report.index.taken_down:
                yield Finding(
                    "scores",
                    None,
                    f"{report.index.taken_down} exemplars were taken down when the report was "
                    f"made, and {len(masked.hidden)} by the log of takedowns, so that the same "
                    "question cannot be asked again",
                )
                return
            try:
                embedder = embedder or load_embedder(data.models, masked.model_id, device=device)
                again = Attributor(embedder, masked, rate=report.calibration.rate)
            except (ModelError, SnapshotError) as error:
                yield Finding("scores", None, f"the image was not embedded again: {error}")
                return
            yield check_scores(report, record, again, limits)


def takedowns_at(takedowns: Takedowns, when: datetime) -> Takedowns:
    """Return the takedowns in force at a time."""
    return Takedowns(
        active=(
            *(one for one in takedowns.active if one.at <= when),
            *(one for one, lift in takedowns.lifted.values() if one.at <= when < lift.at),
        )
    )


def _identity(report: AnyReport, snapshot: Snapshot) -> Finding:
    """Check the identities of index, model and calibration."""
    manifest = snapshot.manifest
    evidence = report.answer.evidence
    identities = {  # (the report's, the index's)
        "version": ({report.index.version, evidence.index_version}, manifest.version),
        "build time": ({report.index.created_at}, manifest.created_at),
        "manifest": (
            {report.index.manifest_checksum},
            manifest.model_dump(mode="json")["checksum"],
        ),
        "model": ({evidence.model_id}, manifest.model_id),
        "calibration": ({report.calibration.id, evidence.calibration}, snapshot.calibration_id),
        "null queries": (
            {report.calibration.null_queries},
            len(_calibration_of(report, snapshot).null_scores),
        ),
        "concepts": ({report.index.concepts}, snapshot.catalog.concept_count()),
        "exemplars": ({report.index.exemplars}, snapshot.catalog.exemplar_count()),
    }
    wrong = [name for name, (stated, actual) in identities.items() if stated != {actual}]
    return Finding(
        "index",
        not wrong,
        f"index {manifest.version}, its manifest, model and calibration are as named"
        if not wrong
        else f"index {manifest.version} differs from what the report says: {', '.join(wrong)}",
    )


def _calibration_of(report: AnyReport, snapshot: Snapshot) -> Calibration:
    """Return the calibration of a report's number of images."""
    calibration = snapshot.calibration
    return (
        calibration.of_size(len(report.images)) if isinstance(report, GroupReport) else calibration
    )


def _catalog(report: AnyReport, catalog: Catalog) -> Finding:
    """Check the concepts and exemplars against the catalog."""
    wrong: list[str] = []
    for concept in report.answer.concepts:
        try:
            indexed = catalog.concept(concept.id)
            if (indexed.id, indexed.name) != (concept.id, concept.name):
                wrong.append(f"concept {concept.id} has another name")
        except NotFoundError:
            wrong.append(f"there is no concept {concept.id}")
        wrong += [
            f"exemplar {hit.id} is not of concept {concept.id}"
            for hit in concept.exemplars
            if report.exemplars[hit.id].concept_id != concept.id
        ]
    for name, shown in report.exemplars.items():
        try:
            exemplar = catalog.exemplar(name)
        except NotFoundError:
            wrong.append(f"there is no exemplar {name}")
            continue
        detail = exemplar_detail(exemplar)
        if (
            shown.thumbnail != Picture.of(catalog.thumbnail(name), "image/jpeg")
            or shown.concept_id != exemplar.concept_id
            or shown.metadata not in (None, metadata_texts(exemplar))
            or any(getattr(shown, field) != value for field, value in detail)
        ):
            wrong.append(f"exemplar {name} differs")
        wrong += [
            f"exemplar {name} differs from what concept {concept.id} shows of it"
            for concept in report.answer.concepts
            for hit in concept.exemplars
            if hit.id == name
            and hit.model_dump(exclude={"image"})
            != exemplar_hit(ExemplarEvidence(exemplar, hit.similarity, hit.facet)).model_dump()
        ]
    text = (
        f"{counted(len(report.answer.concepts), 'concept')} and "
        f"{counted(len(report.exemplars), 'exemplar')} are in the index as shown, to the byte"
    )
    return Finding("exemplars", not wrong, "; ".join(wrong) or text)


def _withdrawn_concepts(report: AnyReport, takedowns: Takedowns) -> Iterator[Finding]:
    """Tell which of the named concepts are withdrawn now, by id or name."""
    found = {
        concept.name: takedown
        for concept in report.answer.concepts
        if (takedown := takedowns.of_name(concept.id, concept.name))
    }
    if found:
        named = (f"{name!r} ({one.id}, {one.at:%Y-%m-%d})" for name, one in found.items())
        yield Finding(
            "takedowns",
            None,
            "concepts of these names or ids, which are named here, are taken down now: "
            f"{', '.join(named)}",
        )


def _taken_down_since(report: AnyReport, snapshot: Snapshot, now: Takedowns) -> Iterator[Finding]:
    shown = _shown(report, snapshot, now)
    if gone := [name for name in report.exemplars if name not in shown]:
        yield Finding(
            "takedowns",
            None,
            "taken down since the report was made, and shown by no server any more: "
            f"{', '.join(gone)}",
        )


def _elsewhere(report: AnyReport, data: DataFolder, takedowns: Takedowns) -> Iterator[Finding]:
    """Look the exemplars up in the published version, since the report's version is gone."""
    try:
        snapshot = open_published(data.index, data.stores)
    except SnapshotError as error:
        yield Finding("exemplars", None, f"the exemplars were not looked up: {error}")
        return
    with closing(snapshot):
        yield Finding(
            "exemplars",
            None,
            f"{len(_shown(report, snapshot, takedowns))} of {len(report.exemplars)} exemplars are, "
            f"with the same content, in the version that is published now, {snapshot.version}",
        )


def _shown(report: AnyReport, snapshot: Snapshot, takedowns: Takedowns) -> set[str]:
    """Return the ids of the report's exemplars that are in the index and not taken down."""
    hidden_rows = takedowns.hidden_rows(snapshot.catalog, snapshot.fingerprint_index, {})
    hidden = {int(row) for rows in hidden_rows.values() for row in rows}
    return {
        name
        for name, exemplar in report.exemplars.items()
        if set(snapshot.catalog.rows_of([exemplar.sha256], [])) - hidden
    }
