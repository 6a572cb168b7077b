"""``GET /limits``: the limits of requests."""

from fastapi import APIRouter

from app.deps import SettingsDep
from app.errors import InternalError
from app.http.problems import responses
from whence_client.models import Limits

router = APIRouter(tags=["health"])


@router.get("/limits", summary="Show the limits of requests", responses=responses(InternalError))
async def show_limits(settings: SettingsDep) -> Limits:
    """Show the limits, so that a client can check an image before it is sent. Needs no key."""
    return Limits(**{name: getattr(settings, name) for name in Limits.model_fields})
