"""``GET /limits``: the limits of requests."""

from fastapi import APIRouter

from app.deps import SettingsDep
from app.errors import InternalError
from app.http.problems import responses
from index.defaults import LARGEST_GROUP
from whence_client.models import Limits

GIVEN = {"max_group_images": LARGEST_GROUP}  # no setting changes these

router = APIRouter(tags=["health"])


@router.get("/limits", summary="Show the limits of requests", responses=responses(InternalError))
async def show_limits(settings: SettingsDep) -> Limits:
    """Show the limits, so that a client can check an image before it is sent. Needs no key."""
    limits = {name: getattr(settings, name) for name in Limits.model_fields.keys() - GIVEN.keys()}
    return Limits(**limits, **GIVEN)
