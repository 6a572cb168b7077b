"""``POST /attribute``, and ``/attribute/batch``: where do these images come from?"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

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
from app.http.problems import problem_of, responses
from app.http.uploads import FIELD, FORM, read_image_field, read_image_fields
from app.inference.deadline import Patience
from app.inference.pipeline import Answer, Pipeline
from app.schemas import attribution_response
from app.service import Service
from app.settings import Settings
from index.answering.attribution import Attributor
from index.errors import VectorStoreUnavailableError
from model.errors import (
    ImageTooLargeError,
    ImageTooSmallError,
    NotReadyError,
    UndecodableImageError,
    UnsupportedImageError,
)
from whence_client.models import (
    AttributeParameters,
    AttributionResponse,
    BatchAnswer,
    BatchResponse,
    Fault,
    TimingMs,
)

router = APIRouter(tags=["attribution"])

IMAGE = {
    "type": "string",
    "format": "binary",
    "description": "One image: JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF. Of an animation the first "
    "frame is taken; EXIF orientation is applied; transparency is laid over white.",
}
Done = TypeVar("Done")


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
    UnsupportedImageError,
    ImageTooSmallError,
    DeadlineError,
)


@router.post(
    "/attribute",
    summary="Attribute an image",
    response_description="The concepts it most plausibly derives from",
    openapi_extra=upload(IMAGE),
    responses=responses(*REFUSALS_OF_ONE),
)
async def attribute(
    request: Request,
    response: Response,
    parameters: Annotated[AttributeParameters, Query()],
    settings: SettingsDep,
    service: ServiceDep,
) -> AttributionResponse:
    """Rank the concepts that an image most plausibly derives from, with the exemplars that say so.

    The answer is evidence of similarity. It does not prove that an image was used in training, and
    it does not name the generator that made the image.
    """

    async def work(uploaded: Uploaded) -> AttributionResponse:
        return attribution_response(
            await uploaded.answer(), uploaded.attributor, metadata=parameters.metadata
        )

    body = await work_on_upload(request, parameters, settings, service, work)
    response.headers["Server-Timing"] = _server_timing(body.timing_ms)
    response.headers["Cache-Control"] = "no-store"
    return body


@router.post(
    "/attribute/batch",
    summary="Attribute several images",
    response_description="One answer or problem an image, in order",
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
    """Rank concepts for each of several images, sent as one field that is repeated.

    An image that cannot be answered has its problem in its place; the others are answered. All
    answers are of one version of the index. Up to 16 images and 64 MiB a request, unless the server
    is set up otherwise.
    """
    _check_caps(parameters, settings)
    pipeline = service.pipeline
    files = await read_image_fields(request, most=settings.max_batch_images)
    at_once, places = pipeline.share(len(files), explain=parameters.explain)
    turns = asyncio.Semaphore(at_once)

    async def answer(attributor: Attributor, patience: Patience, data: bytes) -> BatchAnswer:
        async with turns:
            answer = await Uploaded(data, attributor, parameters, pipeline, patience).answer()
        attribution = attribution_response(answer, attributor, metadata=parameters.metadata)
        return BatchAnswer(attribution=attribution, problem=None)

    async def work(attributor: Attributor, patience: Patience) -> list[BatchAnswer | BaseException]:
        # All of them end, so that nothing is let go that one still uses.
        return await asyncio.gather(
            *(answer(attributor, patience, data) for data in files), return_exceptions=True
        )

    outcomes = await _work_admitted(request, settings, service, places, work)
    response.headers["Cache-Control"] = "no-store"
    return BatchResponse(answers=[_in_its_place(request, outcome) for outcome in outcomes])


def _in_its_place(request: Request, outcome: BatchAnswer | BaseException) -> BatchAnswer:
    """What a batch says of one image.

    Raises:
        VectorStoreUnavailableError: none of the others was answered either.
    """
    if isinstance(outcome, BatchAnswer):
        return outcome
    if isinstance(outcome, VectorStoreUnavailableError) or not isinstance(outcome, Exception):
        raise outcome
    return BatchAnswer(attribution=None, problem=problem_of(request, outcome))


@dataclass(frozen=True)
class Uploaded:
    """One image that is here and has its place, and the index that answers it."""

    data: bytes
    attributor: Attributor
    parameters: AttributeParameters
    pipeline: Pipeline
    patience: Patience

    async def answer(self) -> Answer:
        """The answer to it.

        Raises:
            ImageError: it cannot be used.
            ClientGoneError: the connection was closed.
            DeadlineError: the deadline has passed.
        """
        return await self.pipeline.attribute(
            self.attributor,
            self.data,
            top_k=self.parameters.top_k,
            exemplars=self.parameters.exemplars,
            explain=self.parameters.explain,
            patience=self.patience,
        )


async def work_on_upload(
    request: Request,
    parameters: AttributeParameters,
    settings: Settings,
    service: Service,
    work: Callable[[Uploaded], Awaitable[Done]],
) -> Done:
    """Take the one image of a request in, and what ``work`` makes of it.

    Raises:
        RequestError: the request cannot be answered as it was sent, or not now.
        ImageError: the image cannot be used.
    """
    _check_caps(parameters, settings)
    pipeline = service.pipeline
    data = await read_image_field(request)
    _, places = pipeline.share(1, explain=parameters.explain)

    async def work_on_it(attributor: Attributor, patience: Patience) -> Done:
        return await work(Uploaded(data, attributor, parameters, pipeline, patience))

    return await _work_admitted(request, settings, service, places, work_on_it)


async def _work_admitted(
    request: Request,
    settings: Settings,
    service: Service,
    places: int,
    work: Callable[[Attributor, Patience], Awaitable[Done]],
) -> Done:
    """Work on a request whose body is here, in its places and with the index of the moment.

    The time that an answer may take begins now, and so does the use of an index: an upload may last
    as long as several versions.

    Raises:
        RequestError: there is no room, or nobody waits any more.
    """
    patience = Patience(settings.deadline_seconds)

    async def admitted() -> Done:
        with service.pipeline.admitted(places):
            async with service.lease() as attributor:
                return await work(attributor, patience)

    async with patience.while_connected(request):
        return await patience.wait_for(admitted())


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
