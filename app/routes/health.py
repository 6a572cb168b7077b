"""``GET /health/live`` and ``/health/ready``: probes for orchestrators and load balancers."""

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
    """Answer 503 if the server must be restarted: an embedding hangs, or every embedding fails."""
    service.watchdog.check(settings.stall_seconds)
    return Live()


@router.get(
    "/ready",
    summary="Can the server answer?",
    responses=responses(NotReadyError, VectorStoreUnavailableError, StalledError, InternalError),
)
def ready(service: ServiceDep, settings: SettingsDep, attributor: AttributorDep) -> Ready:
    """Answer 503 without an index or its vector store, and while embedding hangs or fails.

    The server recovers by itself once index and vector store are available.
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
