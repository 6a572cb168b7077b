"""Admin routes: take works down, rebuild the index, and reload the published one."""

from typing import Annotated, Literal
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Header, Query, status
from pydantic import AfterValidator

from app.auth.security import require_admin
from app.deps import ServiceDep
from app.errors import (
    InternalError,
    InvalidRequestError,
    RebuildNotConfiguredError,
    RebuildRunningError,
    ReloadError,
)
from app.http.problems import responses
from app.schemas import takedown_detail
from app.service import Service
from index.errors import NotFoundError, TakedownError
from model.errors import NotReadyError
from whence_client.models import (
    RebuildStatus,
    Reloaded,
    RequestModel,
    TakedownDetail,
    TakedownRequest,
)

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


# A header, since access logs record the path and query.
Reason = Annotated[
    str,
    Header(
        alias="X-Whence-Reason",
        min_length=1,
        max_length=1500,
        description="The reason, kept in the log of takedowns; percent-encoded if not ASCII.",
    ),
    AfterValidator(_decoded),
]


class NoParameters(RequestModel):
    """An empty set of query parameters; a reason in the query is refused."""


EmptyQuery = Annotated[NoParameters, Query()]


@router.post(
    "/takedowns",
    summary="Take a concept or an exemplar down",
    status_code=status.HTTP_201_CREATED,
    responses=TAKEDOWN_PROBLEMS,
)
async def take_down(body: TakedownRequest, service: ServiceDep) -> TakedownDetail:
    """Withdraw a concept or an exemplar, and its copies, now and from every later index version.

    The answer lists the exemplars that are hidden, and copies that embeddings found: certain ones
    are withdrawn by takedowns of their own, possible ones are for a person to look at. `whence
    takedown lift` shows them again.
    """
    return await _take_down(service, body.kind, body.id, body.reason, copies=body.copies)


@router.delete("/concepts/{concept_id}", summary="Take a concept down", responses=TAKEDOWN_PROBLEMS)
async def take_down_concept(
    concept_id: str, reason: Reason, _: EmptyQuery, service: ServiceDep
) -> TakedownDetail:
    """Withdraw a concept with all its exemplars, as `POST /takedowns` does.

    Its images and their copies are hidden in other concepts, too.
    """
    return await _take_down(service, "concept", concept_id, reason)


@router.delete(
    "/exemplars/{exemplar_id}", summary="Take an exemplar down", responses=TAKEDOWN_PROBLEMS
)
async def take_down_exemplar(
    exemplar_id: str, reason: Reason, _: EmptyQuery, service: ServiceDep
) -> TakedownDetail:
    """Withdraw an image and its copies, as `POST /takedowns` does."""
    return await _take_down(service, "exemplar", exemplar_id, reason)


async def _take_down(
    service: Service,
    kind: Literal["concept", "exemplar"],
    target: str,
    reason: str,
    *,
    copies: bool = False,
) -> TakedownDetail:
    takedown, hides, found = await service.take_down(kind, target, reason=reason, copies=copies)
    return takedown_detail(takedown, hides, found)


@router.post(
    "/admin/reload",
    summary="Load the published index",
    responses=responses(
        ReloadError,
        InternalError,
    ),
)
async def reload_index(service: ServiceDep) -> Reloaded:
    """Load the published version beside the current one, warm it up, and serve it.

    The server finds a new version by itself within a second. This request returns when it is
    served, or with the reason why it cannot be. Requests in flight finish on the version they began
    with.
    """
    before, after = await service.reload()
    return Reloaded(index_version=after, previous_version=before)


@router.post(
    "/admin/rebuild",
    summary="Start the configured rebuild",
    status_code=status.HTTP_202_ACCEPTED,
    responses=responses(RebuildNotConfiguredError, RebuildRunningError),
)
async def start_rebuild(service: ServiceDep) -> RebuildStatus:
    """Start `whence rebuild` with the options of WHENCE_REBUILD_OPTIONS, at a low priority.

    It runs in a process of its own, one at a time. The server serves the version that it publishes,
    and goes on with the one it has if the rebuild fails.
    """
    return await service.rebuilds.start()


@router.get("/admin/rebuild", summary="Tell the progress of the rebuild")
async def rebuild_status(service: ServiceDep) -> RebuildStatus:
    """Return the state of the rebuild that this server started last."""
    return service.rebuilds.status
