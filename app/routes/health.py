"""``GET /health``: for those who start, restart and balance servers."""

from fastapi import APIRouter

from app.deps import AttributorDep, ServiceDep, SettingsDep
from app.errors import InternalError, StalledError
from app.http.problems import responses
from index.errors import VectorStoreUnavailableError
from model.errors import NotReadyError
from whence_client.models import Live, Ready

router = APIRouter(prefix="/health", tags=["health"])


@router.get(
    "/live",
    summary="Is the process working?",
    responses=responses(StalledError),
)
async def live(service: ServiceDep, settings: SettingsDep) -> Live:
    """Answer 503 when only a restart helps: an image has been embedding for far too long."""
    service.watchdog.check(settings.stall_seconds)
    return Live()


@router.get(
    "/ready",
    summary="Can it answer?",
    responses=responses(NotReadyError, VectorStoreUnavailableError, StalledError, InternalError),
)
def ready(service: ServiceDep, settings: SettingsDep, attributor: AttributorDep) -> Ready:
    """Answer 503 while there is no index, its vectors are out of reach, or answers come too late.

    The first two mend themselves.
    """
    service.watchdog.check(min(settings.deadline_seconds, settings.stall_seconds))
    snapshot = attributor.snapshot
    snapshot.vectors.check()
    manifest = snapshot.manifest
    return Ready(
        model_id=manifest.model_id,
        index_version=manifest.version,
        index_created_at=manifest.created_at,
        concepts=snapshot.catalog.concept_count(),
        exemplars=snapshot.catalog.exemplar_count(),
        taken_down=len(snapshot.hidden),
        reload_error=service.reload_error,
    )
