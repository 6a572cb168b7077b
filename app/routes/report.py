"""``POST /attribute/report``: an answer with its evidence, as a self-contained file."""

from functools import partial
from typing import Annotated, Literal

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response, status
from pydantic import Field

from app.deps import ServiceDep, SettingsDep
from app.http.forms import read_named_image
from app.http.problems import responses
from app.reports.report import Parameters, Report, as_html, as_json, make_report
from app.routes.attribute import IMAGE, REFUSALS_OF_ONE, check_caps, upload
from whence_client.models import AttributeParameters

router = APIRouter(tags=["attribution"])

MEDIA_TYPES = {"json": "application/json", "html": "text/html; charset=utf-8"}


class ReportParameters(AttributeParameters):
    """Query parameters of ``POST /attribute/report``."""

    format: Literal["json", "html"] = Field(
        "html", description="`html`: a page to read and print; `json`: the same as data."
    )


@router.post(
    "/attribute/report",
    summary="Report on an image",
    response_class=Response,
    openapi_extra=upload(IMAGE),
    responses={
        status.HTTP_200_OK: {
            "description": "The evidence report, as a file",
            "model": Report,
            "content": {"text/html": {"schema": {"type": "string"}}},
        },
        **responses(*REFUSALS_OF_ONE),
    },
)
async def report(
    request: Request,
    parameters: Annotated[ReportParameters, Query()],
    settings: SettingsDep,
    service: ServiceDep,
) -> Response:
    """Attribute an image, and return the answer as an evidence report.

    The file holds the uploaded image with its metadata, the exemplars' thumbnails, the identities
    of model, index and calibration, a SHA-256 over all of it and, if the server has a key for it, a
    signature. `whence verify-report` checks it against the index.
    """
    check_caps(parameters, settings)
    image, name = await read_named_image(request)
    async with service.permit(request, explain=parameters.explain) as permit:
        job = await permit.run(service.pipeline.attribute(permit, image, parameters))
        evidence = await permit.run(
            anyio.to_thread.run_sync(
                partial(
                    make_report,
                    job.attribution,
                    permit.attributor,
                    image,
                    created_at=job.created_at,
                    parameters=Parameters(top_k=parameters.top_k, exemplars=parameters.exemplars),
                    software=request.app.version,
                    name=name,
                    region=job.region,
                    key=request.app.state.report_key,
                    limits=settings.image_limits,
                )
            )
        )
    write = as_html if parameters.format == "html" else as_json
    file = await anyio.to_thread.run_sync(write, evidence)
    saved_as = f"whence-report-{evidence.sha256[:12]}.{parameters.format}"
    return Response(
        file.encode(),
        media_type=MEDIA_TYPES[parameters.format],
        headers={
            "Content-Disposition": f'attachment; filename="{saved_as}"',
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        },
    )
