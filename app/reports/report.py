"""Evidence that can be filed: one answer with its images, what it rests on, and a hash over all."""

import base64
import binascii
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

import rfc8785
from PIL import Image
from pydantic import AfterValidator, AwareDatetime, Field

from app.inference.expiring import random_id
from app.reports.rendering import layout
from app.reports.signing import Signature, sign
from app.reports.texts import texts
from app.schemas import area, evidence_of, exemplar_detail, metadata_texts, ranked_concept
from index.answering.attribution import Attribution, Attributor
from index.answering.calibration import Verdict
from index.answering.squares import compared
from index.building.embedding import ImageEmbedder
from index.catalog import Exemplar
from index.snapshot import Snapshot
from index.thumbnails import THUMBNAIL, thumbnail_of
from model.errors import WhenceError
from model.images import DEFAULT_LIMITS, ImageLimits, decode_image, media_type
from model.regions import Region, parts_of
from whence_client.models import Area, Evidence, ExemplarDetail, Fraction, RankedConcept, Wire

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FORMAT: Final = "whence-report/3"
UNSIGNED = {"sha256", "signature"}  # fields that the hash does not cover

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
        """Convert the bytes of a file."""
        return cls(media_type=media_type, data=base64.b64encode(data).decode())

    @property
    def file(self) -> bytes:
        """Return the bytes."""
        return base64.b64decode(self.data)

    @property
    def url(self) -> str:
        """Return the image as a ``data:`` address."""
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
    """An image that was asked about."""

    name: str | None = Field(
        description="The file's name, as the sender gave it when the question was asked."
    )
    sha256: str = Field(description="Of the uploaded file, hexadecimal.")
    bytes: Count = Field(description="Size of that file.")
    width: Count = Field(description="Pixels, upright.")
    height: Count = Field(description="Pixels, upright.")
    original: Picture = Field(description="The uploaded file.")
    preview: Picture = Field(description="The same, upright and small, for every browser.")


class ReportedAnswer(Wire):
    """The answer as `POST /attribute` gives it; how long it took is no evidence."""

    id: str = Field(description="Random; the same in the answer that was shown.")
    verdict: Verdict = Field(description="The answer in one word.")
    concepts: list[RankedConcept] = Field(description="The most plausible concepts, best first.")
    no_source_share: Fraction = Field(description="The part for no source in the index.")
    unlisted_share: Fraction = Field(description="What concepts beyond those listed take.")
    unattributed_share: Fraction = Field(description="The sum of the two.")
    candidates: list[str] = Field(description="Ids of the concepts that share the evidence.")
    statement: str = Field(description="The evidence for the first concept in a sentence.")
    region: Area | None = Field(description="Part of the image that was asked about.")
    compared: list[Area] = Field(min_length=1, description="What the model saw of the image.")
    evidence: Evidence = Field(description="What the answer rests on.")


class ReportedExemplar(ExemplarDetail):
    """An exemplar that the answer names."""

    concept_id: str = Field(description="The concept that it is of.")
    compared: Area = Field(description="What the model saw of it.")
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
        gt=0, lt=1, description="Share of images without a source that may pass as a match."
    )
    null_queries: Count = Field(description="Test images whose scores are known.")


class Report(Wire):
    """An evidence report.

    `sha256` is of all but itself and `signature`, in the canonical form of RFC 8785.
    """

    format: Literal["whence-report/3"] = Field(FORMAT, description="Of this JSON.")
    software: Software = Field(description="The program that wrote this.")
    created_at: AwareDatetime = Field(description="When the answer was made, UTC.")
    parameters: Parameters = Field(description="How much was asked for.")
    query: Query = Field(description="The image in question.")
    answer: ReportedAnswer = Field(description="The answer.")
    exemplars: dict[str, ReportedExemplar] = Field(description="By id: all that are named.")
    index: ReportedIndex = Field(description="What was searched.")
    calibration: ReportedCalibration = Field(description="How scores became a verdict.")
    limits: list[str] = Field(description="Propositions that the answer does not support.")
    sha256: str = Field("", description="Of all the rest but the signature, hexadecimal.")
    signature: Signature | None = Field(
        None, description="Of `sha256`, if the server has a key to sign with."
    )

    @property
    def files(self) -> list[Query]:
        """Return the images that were asked about."""
        return [self.query]


def make_report(
    attribution: Attribution,
    attributor: Attributor,
    data: bytes,
    *,
    created_at: datetime,
    parameters: Parameters,
    software: str,
    name: str | None = None,
    region: Region | None = None,
    key: "Ed25519PrivateKey | None" = None,
    answer_id: str = "",
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
        name: of the file, as the sender gave it.
        region: the part of the image that was asked about.
        key: signs the report.
        answer_id: of the answer; a new one if it is empty.
        limits: those that the upload had to keep.

    Raises:
        ImageError: the file cannot be decoded.
    """
    image = decode_image(data, limits)
    answer = reported_answer(
        attribution,
        attributor.snapshot,
        image_sha256=image.sha256,
        created_at=created_at,
        answer_id=answer_id or random_id(),
        region=region,
        compared=compared(attributor.embedder, parts_of(image.size, region)),
    )
    return report_on(
        answer,
        attributor,
        data,
        parameters=parameters,
        software=software,
        name=name,
        key=key,
        limits=limits,
    )


def reported_answer(
    attribution: Attribution,
    snapshot: Snapshot,
    *,
    image_sha256: str,
    created_at: datetime,
    answer_id: str,
    region: Region | None,
    compared: Sequence[Region],
) -> ReportedAnswer:
    """Convert an answer to the form in which reports hold it."""
    return ReportedAnswer(
        id=answer_id,
        verdict=attribution.verdict,
        concepts=[ranked_concept(concept, {}) for concept in attribution.concepts],
        no_source_share=attribution.no_source_share,
        unlisted_share=attribution.unlisted_share,
        unattributed_share=attribution.unattributed_share,
        candidates=list(attribution.candidates),
        statement=attribution.statement,
        region=area(region) if region else None,
        compared=[area(part) for part in compared],
        evidence=evidence_of(snapshot, image_sha256, created_at),
    )


def report_on(
    answer: ReportedAnswer,
    attributor: Attributor,
    data: bytes,
    *,
    parameters: Parameters,
    software: str,
    name: str | None = None,
    key: "Ed25519PrivateKey | None" = None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Report:
    """Report on an answer of ``attributor``; for one answer all reports are the same.

    Args:
        answer: the answer.
        attributor: gave the answer.
        data: the uploaded file.
        parameters: of the request.
        software: this software's version.
        name: of the file, as the sender gave it.
        key: signs the report.
        limits: those that the upload had to keep.

    Raises:
        ImageError: the file cannot be decoded.
        NotFoundError: an exemplar of the answer is hidden.
    """
    snapshot = attributor.snapshot
    shown = [
        snapshot.catalog.exemplar(hit.id)
        for concept in answer.concepts
        for hit in concept.exemplars
    ]
    report = Report(
        software=Software(version=software, layout=layout()),
        created_at=answer.evidence.created_at,
        parameters=parameters,
        query=described(data, name, limits),
        answer=answer,
        exemplars=reported_exemplars(shown, attributor),
        index=reported_index(snapshot),
        calibration=ReportedCalibration(
            id=snapshot.calibration_id,
            rate=attributor.rate,
            null_queries=len(snapshot.calibration.null_scores),
        ),
        limits=list(texts("en").limits),
    )
    return report.model_copy(update=hash_and_signature(report, key))


def described(data: bytes, name: str | None, limits: ImageLimits = DEFAULT_LIMITS) -> Query:
    """Describe an uploaded file, given its name as the sender gave it.

    Raises:
        ImageError: it cannot be decoded, or is outside ``limits``.
    """
    image = decode_image(data, limits, min_decode_side=THUMBNAIL)  # as the preview needs
    return Query(
        name=name,
        sha256=image.sha256,
        bytes=len(data),
        width=image.size[0],
        height=image.size[1],
        original=Picture.of(data, media_type(data)),
        preview=preview_of(image.pixels),
    )


def hash_and_signature(report: Wire, key: "Ed25519PrivateKey | None") -> dict[str, Any]:
    """Return a report's `sha256` and, with a key, its `signature`."""
    sha256 = content_hash(report.model_dump(mode="json"))
    return {"sha256": sha256, "signature": sign(sha256, key) if key else None}


def _seen(embedder: ImageEmbedder, exemplar: Exemplar) -> Region:
    """Return what the model sees of an exemplar: the index has one square of each."""
    [seen] = compared(embedder, [Region(0, 0, exemplar.width, exemplar.height)])
    return seen


def reported_exemplars(
    shown: Iterable[Exemplar], attributor: Attributor
) -> dict[str, ReportedExemplar]:
    """Return the exemplars that an answer names, with their thumbnails, by id."""
    return {
        exemplar.id: ReportedExemplar(
            **exemplar_detail(exemplar).model_dump(),
            concept_id=exemplar.concept_id,
            compared=area(_seen(attributor.embedder, exemplar)),
            thumbnail=Picture.of(attributor.snapshot.catalog.thumbnail(exemplar.id), "image/jpeg"),
            metadata=metadata_texts(exemplar),
        )
        for exemplar in shown
    }


def reported_index(snapshot: Snapshot) -> ReportedIndex:
    """Return the identity and the extent of the searched version."""
    manifest, catalog = snapshot.manifest, snapshot.catalog
    return ReportedIndex(
        version=manifest.version,
        created_at=manifest.created_at,
        manifest_checksum=manifest.model_dump(mode="json")["checksum"],
        concepts=catalog.concept_count(),
        exemplars=catalog.exemplar_count(),
        taken_down=len(snapshot.hidden),
    )


def content_hash(record: dict[str, Any]) -> str:
    """Return the SHA-256, hexadecimal, of a report's JSON in canonical form.

    The hash covers all but `UNSIGNED`.

    Raises:
        ReportError: it holds what has no canonical form, such as NaN.
    """
    rest = {name: value for name, value in record.items() if name not in UNSIGNED}
    try:
        return hashlib.sha256(rfc8785.dumps(rest)).hexdigest()
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise ReportError(f"the report has no canonical form ({error})") from error


def as_json(report: Wire) -> str:
    """Return a report as a JSON file."""
    return json.dumps(report.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def preview_of(pixels: Image.Image) -> Picture:
    """Return a small JPEG of an RGB image."""
    buffer = io.BytesIO()
    thumbnail_of(pixels).save(buffer, "JPEG", quality=88)
    return Picture.of(buffer.getvalue(), "image/jpeg")
