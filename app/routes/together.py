"""``POST /attribute/together``: one answer to several images that share a source."""

from functools import partial
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response, status

from app.deps import ServiceDep, SettingsDep
from app.errors import InvalidRequestError
from app.http.forms import FORM, read_image_groups
from app.http.problems import responses
from app.inference.together import CONTROL, GROUP, GroupJob
from app.reports.together import GroupReport, as_json, make_group_report
from app.routes.attribute import IMAGE, REFUSALS_OF_ONE, check_caps
from app.routes.report import check_size
from app.schemas import together_response
from app.service import Service
from app.settings import Settings
from index.defaults import LARGEST_GROUP, SMALLEST_GROUP
from whence_client.models import Fault, TogetherParameters, TogetherResponse

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
    default a request may have 64 MiB.
    """
    job, _, _ = await _answer(request, parameters, settings, service)
    response.headers["Cache-Control"] = "no-store"
    return together_response(job)


@router.post(
    "/attribute/together/report",
    summary="Report on a body of work",
    response_class=Response,
    openapi_extra=BODY,
    responses={
        status.HTTP_200_OK: {"description": "The report, as JSON", "model": GroupReport},
        **responses(*REFUSALS_OF_ONE),
    },
)
async def report_together(
    request: Request,
    parameters: Annotated[TogetherParameters, Query()],
    settings: SettingsDep,
    service: ServiceDep,
) -> Response:
    """Attribute several images together, and return the answer with its evidence as JSON.

    The file holds the hashes and small previews of the images, the exemplars' thumbnails, the
    identities of model, index and calibration, and a SHA-256 over all of it.
    """
    check_size(parameters.top_k, parameters.exemplars, settings)
    job, images, control = await _answer(request, parameters, settings, service)
    report = await anyio.to_thread.run_sync(
        partial(
            make_group_report,
            job,
            images,
            control,
            software=request.app.version,
            limits=settings.image_limits,
        )
    )
    return Response(
        as_json(report).encode(),
        media_type="application/json",
        headers={
            "Content-Disposition": f'attachment; filename="whence-group-{report.sha256[:12]}.json"',
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        },
    )


async def _answer(
    request: Request, parameters: TogetherParameters, settings: Settings, service: Service
) -> tuple[GroupJob, list[bytes], list[bytes]]:
    """Read the images and answer; return the answer and the uploaded files.

    Raises:
        InvalidRequestError: a parameter exceeds its limit, or the groups have other sizes.
    """
    check_caps(parameters, settings)
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
    async with service.permit(request, images=len(images) + len(control)) as permit:
        job = await permit.run(
            service.pipeline.attribute_together(permit, images, control, parameters)
        )
    return job, images, control
