"""``GET /metrics``: for Prometheus."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Response, status

from app import errors
from app.deps import MetricsDep, SettingsDep
from app.security import Credentials, require_admin

router = APIRouter(tags=["health"])


def require_scrape(settings: SettingsDep, credentials: Credentials) -> None:
    """Let everybody pass while the server has no admin token, else only its holder."""
    if settings.admin_token is not None:
        require_admin(settings, credentials)


@router.get(
    "/metrics",
    summary="Count and time everything",
    dependencies=[Depends(require_scrape)],
    response_class=Response,
    responses={
        status.HTTP_200_OK: {
            "description": "In the Prometheus text format, or OpenMetrics if that is asked for",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **errors.responses(errors.UNAUTHORIZED, errors.INTERNAL_ERROR),
    },
)
def show_metrics(metrics: MetricsDep, accept: Annotated[str, Header()] = "") -> Response:
    """Show the server's metrics, for Prometheus.

    With `WHENCE_METRICS_PORT` they are also on a port of their own, where no token is asked for.
    """
    text, media_type = metrics.render(accept)
    return Response(text, headers={"Content-Type": media_type, "Cache-Control": "no-store"})
