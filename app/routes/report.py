"""``POST /attribute/report``: an answer with its evidence, as a self-contained file."""

import hashlib
from functools import partial
from typing import Annotated, Literal

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response, status
from pydantic import Field

from app.deps import ServiceDep, SettingsDep
from app.errors import AnswerGoneError, OtherImageError
from app.http.forms import read_named_image
from app.http.problems import responses
from app.inference.permit import Permit
from app.reports.kept import AnswerStore, KeptAnswer
from app.reports.rendering import as_html
from app.reports.report import Report, as_json, report_on
from app.reports.together import GroupReport
from app.routes.attribute import (
    IMAGE,
    REFUSALS_OF_ONE,
    check_caps,
    check_size,
    kept_answer,
    upload,
)
from whence_client.models import AttributeParameters, Language, RequestModel

router = APIRouter(tags=["attribution"])

ReportFormat = Literal["json", "html"]
MEDIA_TYPES = {"json": "application/json", "html": "text/html; charset=utf-8"}


class FormatParameter(RequestModel):
    """The form of a report."""

    format: ReportFormat = Field(
        "html", description="`html`: a page to read and print; `json`: the same as data."
    )
    language: Language = Field(
        "en",
        description="Language of the page: English or German. The data, and so the hash, are the "
        "same in both.",
    )


class ReportParameters(AttributeParameters, FormatParameter):
    """Query parameters of ``POST /attribute/report``."""

    answer: str = Field(
        "",
        max_length=100,
        description="The `id` of an answer to this image with `keep`: the report is on that "
        "answer, and `top_k`, `exemplars`, `explain`, `metadata` and `region` have no effect. By "
        "default the image is attributed anew.",
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
        **responses(*REFUSALS_OF_ONE, AnswerGoneError, OtherImageError),
    },
)
async def report(
    request: Request,
    parameters: Annotated[ReportParameters, Query()],
    settings: SettingsDep,
    service: ServiceDep,
) -> Response:
    """Attribute an image, or take a kept answer, and return an evidence report.

    The file holds the uploaded image with its metadata, the exemplars' thumbnails, the identities
    of model, index and calibration, a SHA-256 over all of it and, if the server has a key for it, a
    signature. `whence verify-report` checks it against the index.
    """
    if not parameters.answer:
        check_caps(parameters, settings)
        check_size(parameters.top_k, parameters.exemplars, settings)
    image, name = await read_named_image(request)
    explain = parameters.explain and not parameters.answer
    async with service.permit(request, explain=explain) as permit:
        kept = None
        if not parameters.answer:
            job = await permit.run(service.pipeline.attribute(permit, image, parameters))
            kept = kept_answer(job, parameters, name)
        make = partial(_report, image, parameters.answer, kept, permit, service.answers, request)
        evidence = await permit.run(anyio.to_thread.run_sync(make))
    return await report_file(evidence, parameters, "whence-report")


async def report_file(
    evidence: Report | GroupReport, parameters: FormatParameter, prefix: str
) -> Response:
    """Return a report as a file, whose name begins with ``prefix``."""
    form, language = parameters.format, parameters.language

    def write() -> str:
        return as_html(evidence, language) if form == "html" else as_json(evidence)

    file = await anyio.to_thread.run_sync(write)
    ending = form if form == "json" or language == "en" else f"{language}.{form}"
    saved_as = f"{prefix}-{evidence.sha256[:12]}.{ending}"
    return Response(
        file.encode(),
        media_type=MEDIA_TYPES[form],
        headers={
            "Content-Disposition": f'attachment; filename="{saved_as}"',
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        },
    )


def _report(
    image: bytes,
    answer_id: str,
    answer: KeptAnswer | None,
    permit: Permit,
    answers: AnswerStore,
    request: Request,
) -> Report:
    """Report on ``answer``, or on the kept answer of an id.

    Raises:
        AnswerGoneError: see `AnswerStore.get`.
        OtherImageError: the answer is on another image.
        InvalidRequestError: the kept answer has more exemplars than a report may have.
    """
    if answer is None:
        answer = answers.get(KeptAnswer, answer_id, permit.attributor)
        answer.require(hashlib.sha256(image).hexdigest())
        asked = answer.parameters
        check_size(asked.top_k, asked.exemplars, request.app.state.settings)
    return report_on(
        answer.answer,
        permit.attributor,
        image,
        parameters=answer.parameters,
        software=request.app.version,
        name=answer.name,
        key=request.app.state.report_key,
        limits=request.app.state.settings.image_limits,
    )
