"""``GET /health``: for those who start, restart and balance servers."""

from fastapi import APIRouter, Depends

from app import errors
from app.deps import AttributorDep, ServiceDep
from app.schemas import Live, Ready


def check_responsive(service: ServiceDep) -> None:
    """Refuse while an embedding hangs."""
    service.pipeline.check_responsive()


router = APIRouter(prefix="/health", tags=["health"], dependencies=[Depends(check_responsive)])


@router.get(
    "/live",
    summary="Is the process working?",
    responses=errors.responses(errors.STALLED),
)
def live() -> Live:
    """Answer 503 when only a restart helps: an image has been embedding for far too long."""
    return Live()


@router.get(
    "/ready",
    summary="Can it answer?",
    responses=errors.responses(errors.NO_INDEX, errors.STALLED, errors.INTERNAL_ERROR),
)
def ready(service: ServiceDep, attributor: AttributorDep) -> Ready:
    """Answer 503 while there is no index. One that is published later is found by itself."""
    snapshot = attributor.snapshot
    manifest = snapshot.manifest
    return Ready(
        model_id=manifest.model_id,
        index_version=manifest.version,
        index_created_at=manifest.created_at,
        concepts=snapshot.catalog.concept_count(),
        exemplars=snapshot.catalog.exemplar_count(),
        taken_down=len(snapshot.hidden),
        reload_error=service.trouble,
    )
