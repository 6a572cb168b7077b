"""``POST /attribute/together``: one answer to several images that share a source."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response, status
from pydantic import Field

from app.deps import ServiceDep, SettingsDep
from app.errors import AnswerGoneError, InvalidRequestError, OtherImageError
from app.http.forms import FORM, NamedImage, read_image_groups
from app.http.problems import responses
from app.inference.permit import Permit
from app.inference.together import CONTROL, GROUP, GroupJob
from app.reports.kept import MAX_PARTS, AnswerStore, KeptGroup
from app.reports.report import Parameters
from app.reports.together import GroupReport, NamedFile, group_report_on
from app.routes.attribute import IMAGE, REFUSALS_OF_ONE, check_caps, check_listed, check_size
from app.routes.report import FormatParameter, report_file
from app.schemas import answer_to, together_response
from app.service import Service
from index.answering.attribution import Attributor
from index.defaults import LARGEST_GROUP, SMALLEST_GROUP
from whence_client.models import Fault, ListParameters, TogetherParameters, TogetherResponse

router = APIRouter(tags=["attribution"])

COUNTS = {GROUP: range(SMALLEST_GROUP, LARGEST_GROUP + 1), CONTROL: range(LARGEST_GROUP + 1)}
SEVERAL = {"type": "array", "items": IMAGE, "maxItems": LARGEST_GROUP}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            FORM: {
                "schema": {
                    "type": "object",
                    "required": [GROUP],
                    "additionalProperties": False,
                    "properties": {
                        GROUP: {**SEVERAL, "minItems": SMALLEST_GROUP},
                        CONTROL: {
                            **SEVERAL,
                            "description": "Images to compare with, such as outputs of the same "
                            "prompts without an artist's name: as many as of `image`, in the same "
                            "order, or none.",
                        },
                    },
                }
            }
        },
    }
}


@router.post(
    "/attribute/together",
    summary="Attribute a body of work",
    response_description="One answer to all images",
    openapi_extra=BODY,
    responses=responses(*REFUSALS_OF_ONE),
)
async def attribute_together(
    request: Request,
    response: Response,
    parameters: Annotated[TogetherParameters, Query()],
    settings: SettingsDep,
    service: ServiceDep,
) -> TogetherResponse:
    """Rank the concepts that several images draw on together, such as outputs of one prompt.

    The form has 2 to 64 images in the repeated field `image`. With as many in the field `control`,
    the two groups are compared pair by pair. An image that cannot be used fails the request. By
    default a request may have 64 MiB. An answer with `keep` can be reported on by its id.
    """
    check_caps(parameters, settings)
    if parameters.keep:
        check_size(parameters.top_k, parameters.exemplars, settings)
    files = await _read(request)
    check_listed(parameters.top_k * (parameters.exemplars + len(files[GROUP])), settings)
    if parameters.keep:
        _check_parts(len(files[GROUP]), parameters.top_k)
    previews = _numbers(parameters.previews, len(files[GROUP]))
    async with service.permit(request, images=sum(map(len, files.values()))) as permit:
        job = await _answer(permit, files, parameters, service, previews)
    if parameters.keep:
        service.answers.keep(_kept(job, parameters, files), permit.caller)
    response.headers["Cache-Control"] = "no-store"
    return together_response(job)


class GroupReportParameters(ListParameters, FormatParameter):
    """Query parameters of ``POST /attribute/together/report``."""

    answer: str = Field(
        "",
        max_length=100,
        description="The `id` of an answer to these images with `keep`: the report is on that "
        "answer, and `top_k` and `exemplars` have no effect. The files may come in any order. By "
        "default the images are attributed anew.",
    )


@router.post(
    "/attribute/together/report",
    summary="Report on a body of work",
    response_class=Response,
    openapi_extra=BODY,
    responses={
        status.HTTP_200_OK: {
            "description": "The evidence report, as a file",
            "model": GroupReport,
            "content": {"text/html": {"schema": {"type": "string"}}},
        },
        **responses(*REFUSALS_OF_ONE, AnswerGoneError, OtherImageError),
    },
)
async def report_together(
    request: Request,
    parameters: Annotated[GroupReportParameters, Query()],
    settings: SettingsDep,
    service: ServiceDep,
) -> Response:
    """Attribute several images together, or take a kept answer, and return an evidence report.

    The file holds the uploaded images with their metadata, the exemplars' thumbnails, the
    identities of model, index and calibration, a SHA-256 over all of it and, if the server has a
    key for it, a signature. `whence verify-report` checks it against the index.
    """
    if not parameters.answer:
        check_caps(parameters, settings)
        check_size(parameters.top_k, parameters.exemplars, settings)
    files = await _read(request)
    async with service.permit(request, images=sum(map(len, files.values()))) as permit:
        if parameters.answer:
            find = partial(_kept_files, service.answers, parameters.answer, permit, files)
            kept, images, control = await permit.run(anyio.to_thread.run_sync(find))
            check_size(kept.parameters.top_k, kept.parameters.exemplars, settings)
        else:
            job = await _answer(permit, files, parameters, service)
            kept = _kept(job, parameters, files)
            images, control = (
                [NamedFile(*file) for file in files[name]] for name in (GROUP, CONTROL)
            )
        make = partial(_report, kept, permit.attributor, images, control, request)
        report = await permit.run(anyio.to_thread.run_sync(make))
    return await report_file(report, parameters, "whence-group")


async def _read(request: Request) -> dict[str, list[NamedImage]]:
    """Read the images by field.

    Raises:
        InvalidRequestError: the groups have other sizes.
    """
    files = await read_image_groups(request, COUNTS)
    images, control = files[GROUP], files[CONTROL]
    if control and len(control) != len(images):
        raise InvalidRequestError(
            Fault(
                place="body",
                name=CONTROL,
                detail=f"was sent {len(control)} times and {GROUP!r} {len(images)} times: send as "
                "many, in the order of their pairs, or none",
            )
        )
    return files


def _check_parts(images: int, top_k: int) -> None:
    """Refuse to keep an answer that tells of more parts, one of each image for each concept.

    Raises:
        InvalidRequestError: they are more than `MAX_PARTS`.
    """
    if images * top_k > MAX_PARTS:
        detail = (
            f"{images} images times top_k is {images * top_k:,}; an answer that is kept has at "
            f"most {MAX_PARTS:,}: ask for {MAX_PARTS // images} concepts at most, or without keep"
        )
        raise InvalidRequestError(Fault(place="query", name="top_k", detail=detail))


def _numbers(text: str, images: int) -> set[int]:
    """Parse the numbers of images that previews are asked of.

    Raises:
        InvalidRequestError: there is no image of a number.
    """
    numbers = {int(number) for number in text.split(",")} if text else set()
    if unknown := sorted(numbers - set(range(1, images + 1))):
        detail = f"names image {unknown[0]}, and {images} were sent; the first is 1"
        raise InvalidRequestError(Fault(place="query", name="previews", detail=detail))
    return numbers


async def _answer(
    permit: Permit,
    files: Mapping[str, Sequence[NamedImage]],
    parameters: ListParameters,
    service: Service,
    previews: Collection[int] = (),
) -> GroupJob:
    """Answer for the files, given by field; with previews of the images of some numbers."""
    images, control = ([image.data for image in files[name]] for name in (GROUP, CONTROL))
    work = service.pipeline.attribute_together(permit, images, control, parameters, previews)
    return await permit.run(work)


def _kept(
    job: GroupJob, parameters: ListParameters, files: Mapping[str, Sequence[NamedImage]]
) -> KeptGroup:
    """Return the answer to a group as `AnswerStore` keeps it."""
    return KeptGroup.of(
        job.attributor.snapshot,
        answer=answer_to(job),
        parameters=Parameters(top_k=parameters.top_k, exemplars=parameters.exemplars),
        names=[image.name for image in files[GROUP]],
        control_names=[image.name for image in files[CONTROL]],
    )


def _kept_files(
    answers: AnswerStore, answer_id: str, permit: Permit, files: Mapping[str, Sequence[NamedImage]]
) -> tuple[KeptGroup, list[NamedFile], list[NamedFile]]:
    """Return the kept answer of an id, and its files in its order.

    Raises:
        AnswerGoneError: see `AnswerStore.get`.
        OtherImageError: the answer is on other images.
    """
    kept = answers.get(KeptGroup, answer_id, permit.attributor)
    images, control = (
        [(hashlib.sha256(image.data).hexdigest(), image.data) for image in files[name]]
        for name in (GROUP, CONTROL)
    )
    return kept, *kept.require(images, control)


def _report(
    kept: KeptGroup,
    attributor: Attributor,
    images: Sequence[NamedFile],
    control: Sequence[NamedFile],
    request: Request,
) -> GroupReport:
    state = request.app.state
    return group_report_on(
        kept.answer,
        attributor,
        images,
        control,
        parameters=kept.parameters,
        software=request.app.version,
        key=state.report_key,
        limits=state.settings.image_limits,
    )
