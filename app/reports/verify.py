"""``whence verify-report``: checks an evidence report by itself and against its index."""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import TemplateError

from app.reports.report import (
    UNSIGNED,
    Picture,
    Report,
    ReportError,
    as_html,
    content_hash,
    layout,
    make_report,
    preview_of,
    read_report,
)
from app.reports.signing import SigningError, is_signed, public_text
from app.reports.texts import LIMITS
from app.schemas import exemplar_detail, exemplar_hit, metadata_texts
from index.answering.attribution import Attributor, ExemplarEvidence
from index.answering.calibration import Calibration
from index.answering.support import statement, support_for
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
from model.regions import Region, parts_of, tries
from whence_client.models import ExemplarHit, RankedConcept

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_BYTES = 256 * 2**20  # of a report's file
SIMILARITY = 0.005  # another device or batch size moves a cosine less
SCORE = 0.05  # of a score, relative to itself or absolute, whichever is more
SHARE = 0.05
# Fields of a concept that have checks of their own.
CHECKED = ("rank", "p_value", "scored_as_high", "likelihood_ratio", "support", "exemplars")
SHARES = {"share", "no_source_share", "unlisted_share", "unattributed_share"}
MEASURED = {"score", "subject", "style"} | SHARES
CLOCKS = timedelta(minutes=5)  # that a server's clock may be ahead of this one's
PREVIEW = 6.0  # mean difference of two encodings of one picture, of 255


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    passed: bool | None  # None: could not be checked, or for information only
    text: str


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
        file: a report of `POST /attribute/report`, JSON or HTML.
        data: the data folder of the server that made it.
        device: embeds the image.
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
    report: Report, record: dict[str, Any], text: str, limits: ImageLimits
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
    report: Report, record: dict[str, Any], public_key: "Ed25519PublicKey | None"
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


def _is_page_of(report: Report, text: str) -> bool:
    """Return True if rendering the report's data gives the page."""
    try:
        return as_html(report) == text
    except (TemplateError, ArithmeticError):
        return False


def _statements(report: Report) -> Finding:
    """Check the fixed statements and the times of a report."""
    wrong = ""
    if report.limits != list(LIMITS):
        wrong = "what the report does not say is worded otherwise than reports word it"
    elif report.created_at != report.answer.evidence.created_at:
        wrong = "report and answer name different times"
    elif not report.index.created_at <= report.created_at <= datetime.now(UTC) + CLOCKS:
        wrong = (
            f"the time named, {report.created_at:%Y-%m-%d %H:%M} UTC, lies before the index was "
            "built or in the future"
        )
    return Finding("statements", not wrong, wrong or "its limits are told, its times can be")


def _pictures(report: Report, limits: ImageLimits) -> Finding:
    """Check the query image, its preview and the list of exemplars."""
    query = report.query
    wrong = ""
    try:
        decoded = decode_image(query.original.file, limits)
        shown = decode_image(query.preview.file, limits).pixels
        expected = decode_image(preview_of(decoded.pixels).file, limits).pixels
        if not decoded.sha256 == query.sha256 == report.answer.evidence.image_sha256:
            wrong = "the image is not the one whose SHA-256 is named"
        elif decoded.pixels.size != (query.width, query.height):
            wrong = "the image has another size than is named"
        elif query.bytes != len(query.original.file):
            wrong = "the image file has another size than is named"
        elif query.original.media_type != media_type(query.original.file):
            wrong = "the image file is of another type than is named"
        elif query.preview.media_type != "image/jpeg":
            wrong = "the preview is of another type than previews are"
        elif (
            shown.size != expected.size
            or np.abs(np.asarray(shown, np.float32) - np.asarray(expected, np.float32)).mean()
            > PREVIEW
        ):
            wrong = "the preview does not show the image"
    except ImageError as error:
        wrong = f"the image cannot be decoded: {error}"
    hits = [hit for concept in report.answer.concepts for hit in concept.exemplars]
    if not wrong and {hit.id for hit in hits} != set(report.exemplars):
        wrong = "the exemplars are not those that the answer names"
    return Finding("image", not wrong, wrong or f"the image is the one named, {query.sha256}")


def _against_index(
    report: Report,
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
            yield _scores(report, record, again, limits)


def takedowns_at(takedowns: Takedowns, when: datetime) -> Takedowns:
    """Return the takedowns in force at a time."""
    return Takedowns(
        active=(
            *(one for one in takedowns.active if one.at <= when),
            *(one for one, lift in takedowns.lifted.values() if one.at <= when < lift.at),
        )
    )


def _identity(report: Report, snapshot: Snapshot) -> Finding:
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
            len(snapshot.calibration.null_scores),
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


def _catalog(report: Report, catalog: Catalog) -> Finding:
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
            and hit != exemplar_hit(ExemplarEvidence(exemplar, hit.similarity, hit.facet))
        ]
    text = (
        f"{len(report.answer.concepts)} concepts and {len(report.exemplars)} exemplars are in the "
        "index as they are shown, to the byte"
    )
    return Finding("exemplars", not wrong, "; ".join(wrong) or text)


def _withdrawn_concepts(report: Report, takedowns: Takedowns) -> Iterator[Finding]:
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


def _taken_down_since(report: Report, snapshot: Snapshot, now: Takedowns) -> Iterator[Finding]:
    shown = _shown(report, snapshot, now)
    if gone := [name for name in report.exemplars if name not in shown]:
        yield Finding(
            "takedowns",
            None,
            "taken down since the report was made, and shown by no server any more: "
            f"{', '.join(gone)}",
        )


def _elsewhere(report: Report, data: DataFolder, takedowns: Takedowns) -> Iterator[Finding]:
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


def _shown(report: Report, snapshot: Snapshot, takedowns: Takedowns) -> set[str]:
    """Return the ids of the report's exemplars that are in the index and not taken down."""
    hidden_rows = takedowns.hidden_rows(snapshot.catalog, snapshot.fingerprint_index, {})
    hidden = {int(row) for rows in hidden_rows.values() for row in rows}
    return {
        name
        for name, exemplar in report.exemplars.items()
        if set(snapshot.catalog.rows_of([exemplar.sha256], [])) - hidden
    }


def _scores(
    report: Report, record: dict[str, Any], attributor: Attributor, limits: ImageLimits
) -> Finding:
    """Attribute the query image again, and compare the reports."""
    parameters, data = report.parameters, report.query.original.file
    pixels = decode_image(data, limits).pixels
    shown = attributor.snapshot.catalog
    region = _region(report)
    try:
        if region:
            region.check(pixels.size, limits)
    except ImageError as error:
        return Finding("scores", False, str(error))
    [attribution] = attributor.attribute(
        [pixels],
        top_k=min(parameters.top_k, shown.concept_count()),
        exemplars=min(parameters.exemplars, shown.exemplar_count()),
        region=region,
    )
    repeated = make_report(
        attribution,
        attributor,
        data,
        created_at=report.created_at,
        parameters=parameters,
        software=report.software.version,
        name=report.query.name,
        region=region,
        answer_id=report.answer.id,
        limits=limits,
    )
    wrong = list(_differences(report, record, repeated, attributor))
    verdict = report.answer.verdict.replace("_", " ")
    text = (
        f"the image embedded again gives the same answer: {verdict}, "
        f"{len(report.answer.concepts)} concepts"
    )
    return Finding("scores", not wrong, "; ".join(wrong) or text)


def _region(report: Report) -> Region | None:
    """Return the part of the image that a report says was asked about."""
    area = report.answer.region
    return Region(area.x, area.y, area.width, area.height) if area else None


def _differences(
    report: Report, record: dict[str, Any], repeated: Report, attributor: Attributor
) -> Iterator[str]:
    """Yield the differences between a report and its repetition."""
    stated, actual = record["answer"], repeated.model_dump(mode="json")
    # Software, exemplars and preview have their own checks; concepts are compared below.
    yield from _compare(
        _without(record, *UNSIGNED, "software", "exemplars", "query", "answer"),
        _without(actual, *UNSIGNED, "software", "exemplars", "query", "answer"),
    )
    yield from (
        f"another part of exemplar {name} was compared"
        for name, exemplar in report.exemplars.items()
        # Near ties may have changed places.
        if name in repeated.exemplars and exemplar.compared != repeated.exemplars[name].compared
    )
    yield from _compare(
        _without(record["query"], "preview"), _without(actual["query"], "preview"), "query"
    )
    yield from _compare(
        _without(stated, "concepts", "statement"),
        _without(actual["answer"], "concepts", "statement"),
        "answer",
    )
    concepts, again = report.answer.concepts, repeated.answer.concepts
    if report.answer.statement != _statement(report):
        yield "the sentence does not follow from the figures"
    if [one.rank for one in concepts] != list(range(1, len(concepts) + 1)):
        yield "the ranks are not in order"
    by_id = {concept.id: concept for concept in again}
    size = repeated.query.width, repeated.query.height
    of_tries = tries(parts_of(size, _region(repeated)))
    calibration = attributor.snapshot.calibration.of_best(of_tries)
    if sorted(by_id) != sorted(concept.id for concept in concepts):
        yield "other concepts are listed"
        return
    if concepts and concepts[0].id != again[0].id:
        yield f"the first concept is {again[0].id}, not {concepts[0].id}"
    if any(one.score < after.score for one, after in pairwise(concepts)) or not all(
        _near(by_id[one.id].score, other.score) for one, other in zip(concepts, again, strict=True)
    ):
        yield "the concepts are not in the order of their scores"
    for one, shown in zip(concepts, stated["concepts"], strict=True):
        yield from _compare(
            _without(shown, *CHECKED),
            _without(by_id[one.id].model_dump(mode="json"), *CHECKED),
            one.id,
        )
        if not _fits(one, calibration):
            p_value, ratio = by_id[one.id].p_value, by_id[one.id].likelihood_ratio
            yield (
                f"{one.id} has p {p_value:.4f} and likelihood ratio {ratio:.3g}, not "
                f"{one.p_value:.4f} and {one.likelihood_ratio:.3g}"
            )
        if not _similar(one.exemplars, by_id[one.id].exemplars):
            yield f"the exemplars of {one.id} are similar in another measure"


def _without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


def _compare(stated: Any, actual: Any, field: str = "") -> Iterator[str]:
    """Yield the fields in which two records differ, shares and scores beyond the tolerances."""
    if isinstance(stated, dict) and isinstance(actual, dict):
        for name in sorted(stated.keys() | actual.keys()):
            path = f"{field}.{name}".lstrip(".")
            if name not in stated or name not in actual:
                yield f"{path} is {'missing' if name in actual else 'no field of a report'}"
            else:
                yield from _compare(stated[name], actual[name], path)
        return
    name = field.rpartition(".")[2]
    if name in MEASURED and None not in (stated, actual):
        same = abs(stated - actual) <= SHARE if "share" in name else _near(stated, actual)
    else:
        same = stated == actual
    if not same:
        yield f"{field} is {_brief(actual)}, not {_brief(stated)}"


def _brief(value: Any) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _near(stated: float, actual: float) -> bool:
    return math.isclose(stated, actual, rel_tol=SCORE, abs_tol=SCORE)


def _fits(concept: RankedConcept, calibration: Calibration) -> bool:
    """Return True if p-value, count and ratio follow from the score, within its tolerance."""
    score = concept.score
    slack = max(SCORE, SCORE * abs(score))
    p_min, p_max = calibration.p_value(score + slack), calibration.p_value(score - slack)
    ratio_min = calibration.likelihood_ratio(score - slack)
    ratio_max = calibration.likelihood_ratio(score + slack)
    fewest, most = calibration.count_from(score + slack), calibration.count_from(score - slack)
    return (
        p_min - 1e-9 <= concept.p_value <= p_max + 1e-9
        and fewest <= concept.scored_as_high <= most
        and ratio_min - 1e-9 <= concept.likelihood_ratio <= ratio_max + 1e-9
        and concept.support == support_for(concept.likelihood_ratio)
    )


def _statement(report: Report) -> str:
    """Return the sentence that follows from a report's figures."""
    answer = report.answer
    if not answer.concepts:
        return statement([], 1)
    named = {concept.id: concept.name for concept in answer.concepts}
    names = [named.get(candidate, "") for candidate in answer.candidates]
    return statement(names or [answer.concepts[0].name], answer.concepts[0].likelihood_ratio)


def _similar(stated: list[ExemplarHit], actual: list[ExemplarHit]) -> bool:
    """Return True if the exemplars agree in facet and similarity; near ties may change places."""
    by_id = {hit.id: hit for hit in actual}
    return (
        len(stated) == len(actual)
        and len({hit.id for hit in stated}) == len(stated)
        and all(
            # An exemplar that is absent now must be as similar as the one in its place.
            (hit.id not in by_id or hit.facet == by_id[hit.id].facet)
            and abs(hit.similarity - by_id.get(hit.id, other).similarity) <= SIMILARITY
            and (hit.id == other.id or abs(hit.similarity - other.similarity) <= SIMILARITY)
            for hit, other in zip(stated, actual, strict=True)
        )
    )
