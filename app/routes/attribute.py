"""``POST /attribute``: where does this image come from?"""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app import errors
from app.deps import AttributorDep, ServiceDep, SettingsDep
from app.errors import Fault, InvalidRequestError
from app.schemas import AttributeParameters, AttributionResponse, TimingMs
from app.settings import Settings
from app.uploads import FIELD, FORM, read_image_field

router = APIRouter(tags=["attribution"])

UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            FORM: {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "additionalProperties": False,
                    "properties": {
                        FIELD: {
                            "type": "string",
                            "format": "binary",
                            "description": "One image: JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF. "
                            "Of an animation the first frame is taken; EXIF orientation is "
                            "applied; transparency is laid over white.",
                        }
                    },
                }
            }
        },
    }
}


@router.post(
    "/attribute",
    summary="Attribute an image",
    response_description="The concepts it most plausibly derives from",
    openapi_extra=UPLOAD,
    responses=errors.responses(
        errors.UNDECODABLE_IMAGE,
        errors.MALFORMED_FORM,
        errors.BODY_TOO_LARGE,
        errors.IMAGE_TOO_LARGE,
        errors.UNSUPPORTED_IMAGE_TYPE,
        errors.NOT_A_FORM,
        errors.INVALID_REQUEST,
        errors.IMAGE_TOO_SMALL,
        errors.INTERNAL_ERROR,
        errors.NO_INDEX,
    ),
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
    check_caps(parameters, settings)
    data = await read_image_field(request)
    answer = await service.attribute(
        attributor,
        data,
        top_k=parameters.top_k,
        exemplars=parameters.exemplars,
        explain=parameters.explain,
    )
    body = AttributionResponse.of(answer, attributor)
    response.headers["Server-Timing"] = _server_timing(body.timing_ms)
    response.headers["Cache-Control"] = "no-store"
    return body


def check_caps(parameters: AttributeParameters, settings: Settings) -> None:
    """Refuse to list more than the server's settings allow.

    Raises:
        InvalidRequestError: more is asked for.
    """
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
