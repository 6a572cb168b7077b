"""What changes the running server: takedowns, and loading another index version at once."""

from typing import Annotated, Literal
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Header, Query, status
from pydantic import AfterValidator

from app.auth.security import require_admin
from app.deps import ServiceDep
from app.errors import InternalError, InvalidRequestError, ReloadError
from app.http.problems import responses
from app.schemas import takedown_detail
from app.service import Service
from index.errors import NotFoundError, TakedownError
from model.errors import NotReadyError
from whence_client.models import Reloaded, RequestModel, TakedownDetail, TakedownRequest

router = APIRouter(tags=["admin"], dependencies=[Depends(require_admin)])

TAKEDOWN_PROBLEMS = responses(
    NotFoundError,
    InvalidRequestError,
    InternalError,
    NotReadyError,
    TakedownError,
)


def _decoded(reason: str) -> str:
    if not (decoded := unquote(reason)).strip():
        raise ValueError("is blank")
    return decoded


# Not in the path or query: those end up in access logs.
Reason = Annotated[
    str,
    Header(
        alias="X-Whence-Reason",
        min_length=1,
        max_length=1500,
        description="Why; kept in the log of takedowns. Percent-encode what is not ASCII.",
    ),
    AfterValidator(_decoded),
]


class NoParameters(RequestModel):
    """Refuses every query parameter, a reason above all."""


Nothing = Annotated[NoParameters, Query()]


@router.post(
    "/takedowns",
    summary="Take a concept or an exemplar down",
    status_code=status.HTTP_201_CREATED,
    responses=TAKEDOWN_PROBLEMS,
)
async def take_down(wanted: TakedownRequest, service: ServiceDep) -> TakedownDetail:
    """Withdraw it, and copies of it, now and for every later version of the index.

    The answer lists what it hides. `whence takedown lift` brings it back.
    """
    return await _take_down(service, wanted.kind, wanted.id, wanted.reason)


@router.delete("/concepts/{concept_id}", summary="Take a concept down", responses=TAKEDOWN_PROBLEMS)
async def take_down_concept(
    concept_id: str, reason: Reason, _: Nothing, service: ServiceDep
) -> TakedownDetail:
    """Withdraw a concept with all its exemplars, as `POST /takedowns` does.

    Its images, and copies of them, are hidden in every other concept, too.
    """
    return await _take_down(service, "concept", concept_id, reason)


@router.delete(
    "/exemplars/{exemplar_id}", summary="Take an exemplar down", responses=TAKEDOWN_PROBLEMS
)
async def take_down_exemplar(
    exemplar_id: str, reason: Reason, _: Nothing, service: ServiceDep
) -> TakedownDetail:
    """Withdraw an image, and copies of it, as `POST /takedowns` does."""
    return await _take_down(service, "exemplar", exemplar_id, reason)


async def _take_down(
    service: Service, kind: Literal["concept", "exemplar"], target: str, reason: str
) -> TakedownDetail:
    takedown, hides = await service.take_down(kind, target, reason=reason)
    return takedown_detail(takedown, hides)


@router.post(
    "/admin/reload",
    summary="Load the published index",
    responses=responses(
        ReloadError,
        InternalError,
    ),
)
async def reload_index(service: ServiceDep) -> Reloaded:
    """Load the published version beside the present one, warm it, and answer from it.

    The server notices a new version by itself within a second; this waits until it is served, or
    says why it cannot be. Requests in flight end on the version they began with.
    """
    before, after = await service.reload()
    return Reloaded(index_version=after, previous_version=before)
