"""Reports on a body of work: one answer to several images, its evidence, and a hash over all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from pydantic import AwareDatetime, Field

from app.reports.rendering import layout
from app.reports.report import (
    Parameters,
    Query,
    ReportedCalibration,
    ReportedExemplar,
    ReportedIndex,
    Software,
    described,
    hash_and_signature,
    reported_exemplars,
    reported_index,
)
from app.reports.signing import Signature
from app.reports.texts import texts
from app.schemas import area
from index.answering.attribution import Attributor
from index.answering.squares import compared
from model.images import DEFAULT_LIMITS, ImageLimits
from model.regions import parts_of
from whence_client.models import Area, GroupAnswer, Wire

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FORMAT: Final = "whence-group-report/2"


class NamedFile(NamedTuple):
    """An uploaded file, and its name as the sender gave it."""

    data: bytes
    name: str | None


class GroupImage(Query):
    """An image of a body of work."""

    compared: list[Area] = Field(min_length=1, description="What the model saw of the image.")


class GroupReport(Wire):
    """A report on a body of work.

    `sha256` is of all but itself and `signature`, in the canonical form of RFC 8785.
    """

    format: Literal["whence-group-report/2"] = Field(FORMAT, description="Of this JSON.")
    software: Software = Field(description="The program that wrote this.")
    created_at: AwareDatetime = Field(description="When the answer was made, UTC.")
    parameters: Parameters = Field(description="How much was asked for.")
    images: list[GroupImage] = Field(description="The images in question.")
    control: list[GroupImage] = Field(
        description="The images they are compared with, pair by pair."
    )
    answer: GroupAnswer = Field(description="The answer.")
    exemplars: dict[str, ReportedExemplar] = Field(description="By id: all that are named.")
    index: ReportedIndex = Field(description="The index that was searched.")
    calibration: ReportedCalibration = Field(description="How scores became a verdict.")
    limits: list[str] = Field(description="Propositions that the answer does not support.")
    sha256: str = Field("", description="Of all the rest but the signature, hexadecimal.")
    signature: Signature | None = Field(
        None, description="Of `sha256`, if the server has a key to sign with."
    )

    @property
    def files(self) -> list[GroupImage]:
        """Return the images that were asked about, then those of the control group."""
        return [*self.images, *self.control]


def group_report_on(
    answer: GroupAnswer,
    attributor: Attributor,
    images: Sequence[NamedFile],
    control: Sequence[NamedFile],
    *,
    parameters: Parameters,
    software: str,
    key: "Ed25519PrivateKey | None" = None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> GroupReport:
    """Report on an answer of ``attributor``; for one answer all reports are the same.

    Args:
        answer: the answer.
        attributor: gave the answer.
        images: the files, in the answer's order.
        control: those of the control group, in the same order.
        parameters: of the request.
        software: this software's version.
        key: signs the report.
        limits: those that the files had to keep.

    Raises:
        ImageError: a file cannot be decoded.
        NotFoundError: an exemplar of the answer is hidden.
    """
    snapshot = attributor.snapshot
    catalog = snapshot.catalog

    def seen_image(file: NamedFile) -> GroupImage:
        query = described(file.data, file.name, limits)
        parts = parts_of((query.width, query.height))
        seen = compared(attributor.embedder, parts)
        return GroupImage(**dict(query), compared=[area(part) for part in seen])

    shown = [catalog.exemplar(hit.id) for concept in answer.concepts for hit in concept.exemplars]
    report = GroupReport(
        software=Software(version=software, layout=layout()),
        created_at=answer.evidence.created_at,
        parameters=parameters,
        images=[seen_image(file) for file in images],
        control=[seen_image(file) for file in control],
        answer=answer,
        exemplars=reported_exemplars(shown, attributor),
        index=reported_index(snapshot),
        calibration=ReportedCalibration(
            id=snapshot.calibration_id,
            rate=attributor.rate,
            null_queries=len(snapshot.calibration.of_size(len(images)).null_scores),
        ),
        limits=list(texts("en").group_limits),
    )
    return report.model_copy(update=hash_and_signature(report, key))
