"""Asks a report's question again, and compares the answer with the reported one."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from app.reports.reading import AnyReport
from app.reports.report import UNSIGNED, Report, make_report
from app.reports.together import GroupReport, NamedFile, group_report_on
from app.schemas import group_answer
from index.answering.attribution import Attributor
from index.answering.calibration import Calibration
from index.answering.ranking import Ranking
from index.answering.squares import embed_squares
from index.answering.support import support_for
from index.answering.together import LEVEL, attribute_together
from model.errors import ImageError
from model.images import ImageLimits, decode_image
from model.regions import Region, parts_of, tries
from whence_client.models import ExemplarHit, GroupConcept, ImagePart, RankedConcept

SIMILARITY = 0.005  # another device or batch size moves a cosine less
SCORE = 0.05  # of a score, relative to itself or absolute, whichever is more
SHARE = 0.05
# Fields of a concept that have checks of their own.
CHECKED = (
    "rank", "p_value", "scored_as_high", "likelihood_ratio", "support", "exemplars", "images",
    "control",
)  # fmt: skip
SHARES = {"share", "no_source_share", "unlisted_share", "unattributed_share"}
MEASURED = {"score", "subject", "style"} | SHARES
CHANCE = 0.05  # of the p-value of a comparison with a control group
BATCH = 8  # images in one forward pass


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    passed: bool | None  # None: could not be checked, or for information only
    text: str


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or the plural."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def check_scores(
    report: AnyReport, record: dict[str, Any], attributor: Attributor, limits: ImageLimits
) -> Finding:
    """Ask a report's question again, and compare the answers.

    Args:
        report: the report.
        record: its JSON.
        attributor: of its index version, with the takedowns of its time.
        limits: of the images' sizes.
    """
    if isinstance(report, Report):
        return _scores(report, record, attributor, limits)
    return _group_scores(report, record, attributor, limits)


def _outcome(report: Report | GroupReport, wrong: Sequence[str], again: str) -> Finding:
    """Return the finding on an answer that was computed again; ``again`` begins its sentence."""
    verdict = report.answer.verdict.replace("_", " ")
    text = f"{again} the same answer: {verdict}, {counted(len(report.answer.concepts), 'concept')}"
    return Finding("scores", not wrong, "; ".join(wrong) or text)


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
    return _outcome(report, wrong, "the image embedded again gives")


def _region(report: Report) -> Region | None:
    """Return the part of the image that a report says was asked about."""
    area = report.answer.region
    return Region(area.x, area.y, area.width, area.height) if area else None


def _differences(
    report: Report, record: dict[str, Any], repeated: Report, attributor: Attributor
) -> Iterator[str]:
    """Yield the differences between a report and its repetition."""
    actual = repeated.model_dump(mode="json")
    yield from _common_differences(report, record, repeated, actual, "query")
    yield from _compare(
        _without(record["query"], "preview"), _without(actual["query"], "preview"), "query"
    )
    yield from _compare(
        _without(record["answer"], "concepts", "statement"),
        _without(actual["answer"], "concepts", "statement"),
        "answer",
    )
    size = repeated.query.width, repeated.query.height
    of_tries = tries(parts_of(size, _region(repeated)))
    calibration = attributor.snapshot.calibration.of_best(of_tries)
    again = {concept.id: concept for concept in repeated.answer.concepts}
    for one in report.answer.concepts:
        if one.id not in again:
            return
        yield from _misfits(one, again[one.id], calibration)


def _common_differences(
    report: AnyReport,
    record: dict[str, Any],
    repeated: AnyReport,
    actual: dict[str, Any],
    *images: str,
) -> Iterator[str]:
    """Yield the differences in the fields that both kinds of reports have.

    Args:
        report: the report.
        record: its JSON.
        repeated: the report on the same question, asked again.
        actual: the JSON of that.
        images: fields that hold images, which are not compared.
    """
    # Software, exemplars and preview have their own checks; concepts are compared below.
    apart = (*UNSIGNED, "software", "exemplars", "answer", *images)
    yield from _compare(_without(record, *apart), _without(actual, *apart))
    yield from (
        f"another part of exemplar {name} was compared"
        for name, exemplar in report.exemplars.items()
        # Near ties may have changed places.
        if name in repeated.exemplars and exemplar.compared != repeated.exemplars[name].compared
    )
    concepts: Sequence[RankedConcept | GroupConcept] = report.answer.concepts
    again: Sequence[RankedConcept | GroupConcept] = repeated.answer.concepts
    if [one.rank for one in concepts] != list(range(1, len(concepts) + 1)):
        yield "the ranks are not in order"
    by_id = {concept.id: concept for concept in again}
    if sorted(by_id) != sorted(concept.id for concept in concepts):
        yield "other concepts are listed"
        return
    if concepts and concepts[0].id != again[0].id:
        yield f"the first concept is {again[0].id}, not {concepts[0].id}"
    if any(one.score < after.score for one, after in pairwise(concepts)) or not all(
        _near(by_id[one.id].score, other.score) for one, other in zip(concepts, again, strict=True)
    ):
        yield "the concepts are not in the order of their scores"
    for one, shown in zip(concepts, record["answer"]["concepts"], strict=True):
        yield from _compare(
            _without(shown, *CHECKED),
            _without(by_id[one.id].model_dump(mode="json"), *CHECKED),
            one.id,
        )
        if not _similar(one.exemplars, by_id[one.id].exemplars):
            yield f"the exemplars of {one.id} are similar in another measure"


def _misfits(
    one: RankedConcept | GroupConcept,
    again: RankedConcept | GroupConcept,
    calibration: Calibration,
) -> Iterator[str]:
    """Yield the fault of a concept whose figures do not follow from its score."""
    if not _fits(one, calibration):
        yield (
            f"{one.id} has p {again.p_value:.4f} and likelihood ratio {again.likelihood_ratio:.3g},"
            f" not {one.p_value:.4f} and {one.likelihood_ratio:.3g}"
        )


def _group_scores(
    report: GroupReport, record: dict[str, Any], attributor: Attributor, limits: ImageLimits
) -> Finding:
    """Attribute the images together again, and compare the reports."""
    parameters, shown = report.parameters, attributor.snapshot.catalog
    images, control = (
        [NamedFile(image.original.file, image.name) for image in group]
        for group in (report.images, report.control)
    )
    top_k = min(parameters.top_k, shown.concept_count())
    rankings = _rankings([*images, *control], attributor, top_k, limits)
    answer = group_answer(
        attribute_together(
            attributor,
            rankings[: len(images)],
            rankings[len(images) :],
            top_k=top_k,
            exemplars=min(parameters.exemplars, shown.exemplar_count()),
        ),
        attributor.snapshot,
        images_sha256=[image.sha256 for image in report.images],
        control_sha256=[image.sha256 for image in report.control],
        created_at=report.created_at,
        answer_id=report.answer.id,
    )
    repeated = group_report_on(
        answer,
        attributor,
        images,
        control,
        parameters=parameters,
        software=report.software.version,
        limits=limits,
    )
    wrong = list(_group_differences(report, record, repeated, attributor))
    return _outcome(report, wrong, "the images embedded again give")


def _rankings(
    files: Sequence[NamedFile], attributor: Attributor, top_k: int, limits: ImageLimits
) -> list[list[Ranking]]:
    """Return the rankings of each file's squares."""
    found = []
    for start in range(0, len(files), BATCH):
        pixels = [decode_image(file.data, limits).pixels for file in files[start : start + BATCH]]
        embedded = embed_squares(attributor.embedder, pixels)
        rankings = iter(attributor.rankings(embedded.vectors, top_k=top_k))
        found += [list(islice(rankings, len(own))) for own in embedded.parts]
    return found


def _group_differences(
    report: GroupReport, record: dict[str, Any], repeated: GroupReport, attributor: Attributor
) -> Iterator[str]:
    """Yield the differences between a report on a group and its repetition."""
    actual = repeated.model_dump(mode="json")
    yield from _common_differences(report, record, repeated, actual, "images", "control")
    for kind in ("images", "control"):
        for number, (one, other) in enumerate(
            zip(record[kind], actual[kind], strict=True), start=1
        ):
            yield from _compare(
                _without(one, "preview"), _without(other, "preview"), f"{kind} {number}"
            )
    yield from _compare(
        _without(record["answer"], "concepts", "statement", "control"),
        _without(actual["answer"], "concepts", "statement", "control"),
        "answer",
    )
    calibration = attributor.snapshot.calibration
    again = {concept.id: concept for concept in repeated.answer.concepts}
    sha256 = [image.sha256 for image in report.images]
    for one in report.answer.concepts:
        if one.id not in again:
            return
        other = again[one.id]
        yield from _misfits(one, other, calibration.of_size(len(report.images)))
        for stated, found in zip(one.images, other.images, strict=True):
            if not (
                _fits(stated, calibration)
                and _near(stated.score, found.score)
                and abs(stated.share - found.share) <= SHARE
            ):
                yield f"image {stated.image} has another part of the evidence for {one.id}"
        nearest = {hit.id: sha256[hit.image - 1] for hit in other.exemplars}
        if any(nearest.get(hit.id, "") not in ("", sha256[hit.image - 1]) for hit in one.exemplars):
            yield f"the exemplars of {one.id} are nearest to other images"
        if (one.control is None) != (other.control is None):
            yield f"the comparison of {one.id} with the control images is missing or made up"
        elif (
            one.control
            and other.control
            and not (
                _near(one.control.difference, other.control.difference)
                and abs(one.control.p_value - other.control.p_value) <= CHANCE
                and one.control.more == (one.control.p_value <= LEVEL)
            )
        ):
            yield f"{one.id} compares otherwise with the control images"
    yield from _control_differences(report, repeated)


def _control_differences(report: GroupReport, repeated: GroupReport) -> Iterator[str]:
    """Yield the differences in what a group draws on more than its control group does."""
    stated, found = report.answer.control, repeated.answer.control
    if stated is None or found is None:
        if stated is not found:
            yield "the comparison with the control images is missing or made up"
        return
    yield from _compare(stated.images_sha256, found.images_sha256, "answer.control.images_sha256")
    again = {one.id: one for one in found.more}
    if {one.id: one.name for one in stated.more} != {one.id: one.name for one in found.more} or any(
        not _near(one.difference, again[one.id].difference)
        or abs(one.p_value - again[one.id].p_value) > CHANCE
        for one in stated.more
    ):
        yield "other concepts are drawn on more than in the control images"


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


def _fits(concept: RankedConcept | GroupConcept | ImagePart, calibration: Calibration) -> bool:
    """Return True if p-value, count and ratio follow from the score, within its tolerance."""
    score = concept.score
    slack = max(SCORE, SCORE * abs(score))
    p_min, p_max = calibration.p_value(score + slack), calibration.p_value(score - slack)
    ratio_min = calibration.likelihood_ratio(score - slack)
    ratio_max = calibration.likelihood_ratio(score + slack)
    fewest, most = calibration.count_from(score + slack), calibration.count_from(score - slack)
    return (
        p_min - 1e-9 <= concept.p_value <= p_max + 1e-9
        and (not isinstance(concept, RankedConcept) or fewest <= concept.scored_as_high <= most)
        and ratio_min - 1e-9 <= concept.likelihood_ratio <= ratio_max + 1e-9
        and concept.support == support_for(concept.likelihood_ratio)
    )


def _similar(stated: Sequence[ExemplarHit], actual: Sequence[ExemplarHit]) -> bool:
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
