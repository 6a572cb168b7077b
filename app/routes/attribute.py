"""``POST /attribute`` and ``/attribute/batch``: rank the source concepts of images."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app.deps import ServiceDep, SettingsDep
from app.errors import (
    BodyTooLargeError,
    DeadlineError,
    InternalError,
    InvalidRequestError,
    MalformedFormError,
    NotAFormError,
    QueueFullError,
)
from app.http.forms import FIELD, FORM, read_image_fields, read_named_image
from app.http.problems import problem_of, responses
from app.inference.job import ImageJob
from app.inference.permit import Permit
from app.inference.pipeline import Pipeline
from app.reports.kept import KeptAnswer
from app.reports.report import Parameters, reported_answer
from app.schemas import attribution_response
from app.settings import Settings
from index.errors import VectorStoreUnavailableError
from model.errors import (
    DecodersUnavailableError,
    ImageTooCostlyError,
    ImageTooLargeError,
    ImageTooSmallError,
    NotReadyError,
    RegionError,
    RegionTooSmallError,
    UndecodableImageError,
    UnsupportedImageError,
)
from whence_client.models import (
    AttributeParameters,
    AttributionResponse,
    BatchAnswer,
    BatchResponse,
    Fault,
    ListParameters,
    SingleParameters,
    TimingMs,
)

router = APIRouter(tags=["attribution"])

IMAGE = {
    "type": "string",
    "format": "binary",
    "description": "One image: JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, HEIC or JPEG XL. The first "
    "frame of an animation is used, EXIF orientation is applied, and transparency is replaced by "
    "white.",
}


def upload(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description of a form with the one field `FIELD`.

    Where that is one image, the body may also be the image itself, as `read_named_image` accepts.
    """
    form = {
        "type": "object",
        "required": [FIELD],
        "additionalProperties": False,
        "properties": {FIELD: schema},
    }
    content: dict[str, Any] = {FORM: {"schema": form}}
    if schema is IMAGE:
        content["image/*"] = {"schema": IMAGE}
    return {"requestBody": {"required": True, "content": content}}


REFUSALS = (  # of any request with images
    MalformedFormError,
    BodyTooLargeError,
    NotAFormError,
    InvalidRequestError,
    QueueFullError,
    InternalError,
    NotReadyError,
    VectorStoreUnavailableError,
)
REFUSALS_OF_ONE = (
    *REFUSALS,
    UndecodableImageError,
    ImageTooLargeError,
    ImageTooCostlyError,
    UnsupportedImageError,
    ImageTooSmallError,
    RegionError,
    RegionTooSmallError,
    DeadlineError,
    DecodersUnavailableError,
)


@router.post(
    "/attribute",
    summary="Attribute an image",
    response_description="The ranked concepts",
    openapi_extra=upload(IMAGE),
    responses=responses(*REFUSALS_OF_ONE),
)
async def attribute(
    request: Request,
    response: Response,
    parameters: Annotated[SingleParameters, Query()],
    settings: SettingsDep,
    service: ServiceDep,
) -> AttributionResponse:
    """Rank the concepts that an image most plausibly derives from, with exemplars as evidence.

    The answer is evidence of similarity. It does not prove that an image was used in training, and
    it does not name the generator that made the image. `compared` lists the squares of the image
    that were compared; `region` asks about a part of it.
    """
    check_caps(parameters, settings)
    check_listed(parameters.top_k * parameters.exemplars, settings)
    if parameters.keep:
        check_size(parameters.top_k, parameters.exemplars, settings)
    image, name = await read_named_image(request)
    async with service.permit(request, explain=parameters.explain) as permit:
        work = service.pipeline.attribute(permit, image, parameters, preview=parameters.preview)
        job = await permit.run(work)
    if parameters.keep:
        service.answers.keep(kept_answer(job, parameters, name), permit.caller)
    body = attribution_response(job, metadata=parameters.metadata)
    response.headers["Server-Timing"] = _server_timing(body.timing_ms)
    response.headers["Cache-Control"] = "no-store"
    return body


@router.post(
    "/attribute/batch",
    summary="Attribute several images",
    response_description="An answer or a problem for each image, in order",
    openapi_extra=upload({"type": "array", "items": IMAGE, "minItems": 1}),
    responses=responses(*REFUSALS),
)
async def attribute_batch(
    request: Request,
    response: Response,
    parameters: Annotated[AttributeParameters, Query()],
    settings: SettingsDep,
    service: ServiceDep,
) -> BatchResponse:
    """Rank concepts for each of several images, sent in one repeated form field.

    An image that cannot be answered gets a problem; the others are answered. All answers are from
    one version of the index. By default a request may have 16 images and 64 MiB.
    """
    check_caps(parameters, settings)
    images = await read_image_fields(request, limit=settings.max_batch_images)
    check_listed(len(images) * parameters.top_k * parameters.exemplars, settings)
    async with service.permit(request, images=len(images), explain=parameters.explain) as permit:
        outcomes = await permit.run(_attribute_each(service.pipeline, permit, images, parameters))
    response.headers["Cache-Control"] = "no-store"
    metadata = parameters.metadata
    return BatchResponse(
        answers=[_batch_answer(request, outcome, metadata=metadata) for outcome in outcomes]
    )


async def _attribute_each(
    pipeline: Pipeline, permit: Permit, images: Sequence[bytes], parameters: AttributeParameters
) -> list[ImageJob | BaseException]:
    """Answer all images, in parallel as far as the permit allows; return answers or errors."""
    turns = asyncio.Semaphore(permit.at_once)

    async def attribute_one(image: bytes) -> ImageJob:
        async with turns:
            return await pipeline.attribute(permit, image, parameters)

    return await asyncio.gather(*map(attribute_one, images), return_exceptions=True)


def _batch_answer(
    request: Request, outcome: ImageJob | BaseException, *, metadata: bool
) -> BatchAnswer:
    """Return the answer to one image of a batch, or its problem.

    Raises:
        VectorStoreUnavailableError: the outcome of every image of the batch.
    """
    if isinstance(outcome, ImageJob):
        response = attribution_response(outcome, metadata=metadata)
        return BatchAnswer(attribution=response, problem=None)
    if isinstance(outcome, VectorStoreUnavailableError) or not isinstance(outcome, Exception):
        raise outcome
    return BatchAnswer(attribution=None, problem=problem_of(request, outcome))


def kept_answer(job: ImageJob, parameters: ListParameters, name: str | None) -> KeptAnswer:
    """Return an answered image as `AnswerStore` keeps it, with its file's name."""
    snapshot = job.attributor.snapshot
    answer = reported_answer(
        job.attribution,
        snapshot,
        image_sha256=job.sha256,
        created_at=job.created_at,
        answer_id=job.id,
        region=job.region,
        compared=job.compared,
    )
    asked = Parameters(top_k=parameters.top_k, exemplars=parameters.exemplars)
    return KeptAnswer.of(snapshot, answer=answer, parameters=asked, name=name)


def check_caps(parameters: ListParameters, settings: Settings) -> None:
    """Refuse parameters above the server's limits.

    Raises:
        InvalidRequestError: a parameter exceeds its limit.
    """
    caps = {"top_k": settings.max_top_k, "exemplars": settings.max_exemplars}
    faults = [
        Fault(place="query", name=name, detail=f"Input should be less than or equal to {cap}")
        for name, cap in caps.items()
        if getattr(parameters, name) > cap
    ]
    if faults:
        raise InvalidRequestError(*faults)


def check_listed(exemplars: int, settings: Settings) -> None:
    """Refuse a request whose answer could list more exemplars than the server's limit.

    Raises:
        InvalidRequestError: ``exemplars``, the most that the answer could list, exceed it.
    """
    limit = settings.max_answer_exemplars
    if exemplars > limit:
        detail = (
            f"the answer could list {exemplars:,} exemplars, and the limit is {limit:,}: lower "
            "top_k or exemplars, or send fewer images"
        )
        raise InvalidRequestError(Fault(place="query", name="top_k", detail=detail))


def check_size(top_k: int, exemplars: int, settings: Settings) -> None:
    """Refuse a report, or an answer that is kept for one, of more exemplars than the limit.

    Raises:
        InvalidRequestError: ``top_k`` times ``exemplars`` exceeds it.
    """
    asked = top_k * exemplars
    if asked > settings.max_report_exemplars:
        detail = (
            f"top_k times exemplars is {asked:,}; a report holds at most "
            f"{settings.max_report_exemplars:,} exemplars, as does an answer kept for one"
        )
        raise InvalidRequestError(Fault(place="query", name="exemplars", detail=detail))


def _server_timing(timing: TimingMs) -> str:
    return ", ".join(f"{name};dur={value}" for name, value in timing)
