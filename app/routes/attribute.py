"""``POST /attribute``, and ``/attribute/batch``: where do these images come from?"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response

from app import errors
from app.deps import AttributorDep, ServiceDep, SettingsDep
from app.errors import Fault, InvalidRequestError, QueueFullError
from app.patience import Patience
from app.pipeline import Answer, Pipeline
from app.schemas import (
    AttributeParameters,
    AttributionResponse,
    BatchAnswer,
    BatchResponse,
    TimingMs,
)
from app.service import Service
from app.settings import Settings
from app.uploads import FIELD, FORM, drain, read_image_field, read_image_fields
from index.attribution import Attributor
from index.errors import VectorStoreUnavailableError
from model.errors import WhenceError

router = APIRouter(tags=["attribution"])

IMAGE = {
    "type": "string",
    "format": "binary",
    "description": "One image: JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF. Of an animation the first "
    "frame is taken; EXIF orientation is applied; transparency is laid over white.",
}
Read = TypeVar("Read")


def upload(schema: dict[str, Any]) -> dict[str, Any]:
    """How OpenAPI describes a form with the one field that there is."""
    form = {
        "type": "object",
        "required": [FIELD],
        "additionalProperties": False,
        "properties": {FIELD: schema},
    }
    return {"requestBody": {"required": True, "content": {FORM: {"schema": form}}}}


REFUSALS = (  # of any request with images
    errors.MALFORMED_FORM,
    errors.BODY_TOO_LARGE,
    errors.NOT_A_FORM,
    errors.INVALID_REQUEST,
    errors.QUEUE_FULL,
    errors.INTERNAL_ERROR,
    errors.NO_INDEX,
    errors.VECTORS_UNREACHABLE,
)
REFUSALS_OF_ONE = (
    *REFUSALS,
    errors.UNDECODABLE_IMAGE,
    errors.IMAGE_TOO_LARGE,
    errors.UNSUPPORTED_IMAGE_TYPE,
    errors.IMAGE_TOO_SMALL,
    errors.DEADLINE,
)


@router.post(
    "/attribute",
    summary="Attribute an image",
    response_description="The concepts it most plausibly derives from",
    openapi_extra=upload(IMAGE),
    responses=errors.responses(*REFUSALS_OF_ONE),
)
async def attribute(
    request: Request,
    response: Response,
    parameters: Annotated[AttributeParameters, Query()],
    settings: SettingsDep,
    service: ServiceDep,
    attributor: AttributorDep,
) -> AttributionResponse:
    """Rank the concepts that an image most plausibly derives from, with the exemplars that say so.

    The answer is evidence of similarity. It does not prove that an image was used in training, and
    it does not name the generator that made the image.
    """
    _, answer = await answer_upload(request, parameters, settings, service, attributor)
    body = AttributionResponse.of(answer, attributor)
    response.headers["Server-Timing"] = _server_timing(body.timing_ms)
    response.headers["Cache-Control"] = "no-store"
    return body


@router.post(
    "/attribute/batch",
    summary="Attribute several images",
    response_description="One answer or problem an image, in order",
    openapi_extra=upload({"type": "array", "items": IMAGE, "minItems": 1}),
    responses=errors.responses(*REFUSALS),
)
async def attribute_batch(
    request: Request,
    response: Response,
    parameters: Annotated[AttributeParameters, Query()],
    settings: SettingsDep,
    service: ServiceDep,
    attributor: AttributorDep,
) -> BatchResponse:
    """Rank concepts for each of several images, sent as one field that is repeated.

    An image that cannot be answered has its problem in its place; the others are answered. All
    answers are of one version of the index. Up to 16 images and 64 MiB a request, unless the server
    is set up otherwise.
    """
    _check_caps(parameters, settings)
    patience = Patience(settings.deadline_seconds)
    pipeline = service.pipeline
    files = await _receive(
        request, pipeline, lambda sent: read_image_fields(sent, most=settings.max_batch_images)
    )

    async def answer(data: bytes) -> BatchAnswer:
        try:
            answer = await pipeline.attribute(
                attributor,
                data,
                top_k=parameters.top_k,
                exemplars=parameters.exemplars,
                explain=parameters.explain,
                patience=patience,
            )
        except VectorStoreUnavailableError:
            raise  # none of the others will be answered either
        except WhenceError as error:
            return BatchAnswer(attribution=None, problem=errors.problem_of(request, error))
        return BatchAnswer(attribution=AttributionResponse.of(answer, attributor), problem=None)

    with pipeline.admitted(len(files)):
        async with patience.while_connected(request):
            answers = await asyncio.gather(*map(answer, files))
    response.headers["Cache-Control"] = "no-store"
    return BatchResponse(answers=answers)


async def answer_upload(
    request: Request,
    parameters: AttributeParameters,
    settings: Settings,
    service: Service,
    attributor: Attributor,
) -> tuple[bytes, Answer]:
    """The one image of a request, and the answer to it.

    Raises:
        RequestError: the request cannot be answered as it was sent, or not now.
        ImageError: the image cannot be used.
    """
    _check_caps(parameters, settings)
    patience = Patience(settings.deadline_seconds)
    pipeline = service.pipeline
    data = await _receive(request, pipeline, read_image_field)
    with pipeline.admitted():
        async with patience.while_connected(request):
            answer = await pipeline.attribute(
                attributor,
                data,
                top_k=parameters.top_k,
                exemplars=parameters.exemplars,
                explain=parameters.explain,
                patience=patience,
            )
    return data, answer


async def _receive(
    request: Request, pipeline: Pipeline, read: Callable[[Request], Awaitable[Read]]
) -> Read:
    """The body, unless there is no room for what it holds."""
    with pipeline.receiving():
        try:
            pipeline.check_room()
        except QueueFullError:
            await drain(request)
            raise
        return await read(request)


def _check_caps(parameters: AttributeParameters, settings: Settings) -> None:
    caps = {"top_k": settings.max_top_k, "exemplars": settings.max_exemplars}
    faults = [
        Fault(place="query", name=name, detail=f"Input should be less than or equal to {cap}")
        for name, cap in caps.items()
        if getattr(parameters, name) > cap
    ]
    if faults:
        raise InvalidRequestError(*faults)


def _server_timing(timing: TimingMs) -> str:
    return ", ".join(f"{name};dur={value}" for name, value in timing)
