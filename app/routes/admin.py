"""What changes the running server: takedowns, and loading another index version at once."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from app import errors
from app.deps import AttributorDep, ServiceDep
from app.schemas import Reloaded, TakedownDetail, TakedownParameters
from app.security import require_admin

router = APIRouter(tags=["admin"], dependencies=[Depends(require_admin)])

TAKEDOWN_PROBLEMS = errors.responses(
    errors.NOT_FOUND,
    errors.INVALID_REQUEST,
    errors.INTERNAL_ERROR,
    errors.NO_INDEX,
    errors.TAKEDOWNS_UNUSABLE,
)
Parameters = Annotated[TakedownParameters, Query()]


@router.delete("/concepts/{concept_id}", summary="Take a concept down", responses=TAKEDOWN_PROBLEMS)
async def take_down_concept(
    concept_id: str, parameters: Parameters, service: ServiceDep, attributor: AttributorDep
) -> TakedownDetail:
    """Withdraw a concept with all its exemplars, now and for every later version of the index.

    Its images, and copies of them, are hidden in every other concept, too. `whence takedown lift`
    brings them back.
    """
    takedown = await service.take_down(attributor, "concept", concept_id, reason=parameters.reason)
    return TakedownDetail.of(takedown)


@router.delete(
    "/exemplars/{exemplar_id}", summary="Take an exemplar down", responses=TAKEDOWN_PROBLEMS
)
async def take_down_exemplar(
    exemplar_id: str, parameters: Parameters, service: ServiceDep, attributor: AttributorDep
) -> TakedownDetail:
    """Withdraw an image, and copies of it, now and for every later version of the index.

    `whence takedown lift` brings it back.
    """
    takedown = await service.take_down(
        attributor, "exemplar", exemplar_id, reason=parameters.reason
    )
    return TakedownDetail.of(takedown)


@router.post(
    "/admin/reload",
    summary="Load the published index",
    responses=errors.responses(
        errors.NOT_RELOADED,
        errors.INTERNAL_ERROR,
    ),
)
async def reload_index(service: ServiceDep) -> Reloaded:
    """Load the published version beside the present one, warm it, and answer from it.

    The server notices a new version by itself within a second; this waits until it is served, or
    says why it cannot be. Requests in flight end on the version they began with.
    """
    before, after = await service.reload()
    return Reloaded(index_version=after, previous_version=before)
