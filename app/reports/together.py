"""An answer to a group of images with its evidence, as JSON with a hash over all of it."""

import json
from collections.abc import Sequence
from typing import Literal

from pydantic import AwareDatetime, Field

from app.inference.together import GroupJob
from app.reports.report import (
    Count,
    Parameters,
    Picture,
    ReportedCalibration,
    ReportedExemplar,
    ReportedIndex,
    content_hash,
    preview_of,
    reported_exemplars,
    reported_index,
)
from app.reports.texts import LIMITS
from app.schemas import together_response
from model.images import DEFAULT_LIMITS, ImageLimits, decode_image
from whence_client.models import TogetherResponse, Wire

GROUP_LIMITS = (
    *LIMITS,
    "The images are taken to share one source. Images of several sources are one body of work only "
    "in part, and their joint ratio says less about each of them.",
)


class GroupSoftware(Wire):
    """The software that made the report."""

    name: Literal["whence"] = Field("whence", description="Always `whence`.")
    version: str = Field(description="Its version.")


class GroupImage(Wire):
    """One image of a group, without the file itself."""

    sha256: str = Field(description="Of the uploaded file, hexadecimal.")
    bytes: Count = Field(description="Size of that file.")
    width: Count = Field(description="Pixels, upright.")
    height: Count = Field(description="Pixels, upright.")
    preview: Picture = Field(description="The image, upright and small.")


class GroupReport(Wire):
    """A report on a group; `sha256` is of all the rest in the canonical form of RFC 8785."""

    format: Literal["whence-group-report/1"] = Field(
        "whence-group-report/1", description="Of this JSON."
    )
    software: GroupSoftware = Field(description="The program that wrote this.")
    created_at: AwareDatetime = Field(description="When the answer was made, UTC.")
    parameters: Parameters = Field(description="How much was asked for.")
    images: list[GroupImage] = Field(description="The images in question.")
    control: list[GroupImage] = Field(
        description="The images they are compared with, pair by pair."
    )
    answer: TogetherResponse = Field(description="The answer.")
    exemplars: dict[str, ReportedExemplar] = Field(description="By id: all that are named.")
    index: ReportedIndex = Field(description="The index that was searched.")
    calibration: ReportedCalibration = Field(description="How scores became a verdict.")
    limits: list[str] = Field(description="Propositions that the answer does not support.")
    sha256: str = Field("", description="Of all the rest, hexadecimal.")


def make_group_report(
    job: GroupJob,
    images: Sequence[bytes],
    control: Sequence[bytes],
    *,
    software: str,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> GroupReport:
    """Report on an answer to a group of images.

    Args:
        job: answered.
        images: the group's files.
        control: the control group's files.
        software: this software's version.
        limits: those that the files had to keep.

    Raises:
        ImageError: a file cannot be decoded.
    """
    attributor = job.attributor
    snapshot = attributor.snapshot
    shown = [hit.evidence.exemplar for one in job.attribution.concepts for hit in one.exemplars]
    report = GroupReport(
        software=GroupSoftware(version=software),
        created_at=job.created_at,
        parameters=Parameters(top_k=job.top_k, exemplars=job.exemplars),
        images=[_image(data, limits) for data in images],
        control=[_image(data, limits) for data in control],
        answer=together_response(job),
        exemplars=reported_exemplars(shown, attributor),
        index=reported_index(snapshot),
        calibration=ReportedCalibration(
            id=snapshot.calibration_id,
            rate=attributor.rate,
            null_queries=len(snapshot.calibration.of_size(len(images)).null_scores),
        ),
        limits=list(GROUP_LIMITS),
    )
    return report.model_copy(update={"sha256": content_hash(report.model_dump(mode="json"))})


def as_json(report: GroupReport) -> str:
    """Return the report as a JSON file."""
    return json.dumps(report.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def _image(data: bytes, limits: ImageLimits) -> GroupImage:
    image = decode_image(data, limits)
    pixels = image.pixels
    return GroupImage(
        sha256=image.sha256,
        bytes=len(data),
        width=pixels.width,
        height=pixels.height,
        preview=preview_of(pixels),
    )
