"""``GET /metrics``: for Prometheus."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response, status

from app.auth.security import Credentials, require_admin, require_attribute
from app.deps import MetricsDep
from app.errors import ForbiddenError, InternalError, UnauthorizedError
from app.http.problems import responses

router = APIRouter(tags=["health"])


async def require_scrape(request: Request, credentials: Credentials) -> None:
    """Let whoever may ask pass while the server has no keys, else only keys of scope admin."""
    configured = request.app.state.authenticator.keys.configured
    await (require_admin if configured else require_attribute)(request, credentials)


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
        **responses(UnauthorizedError, ForbiddenError, InternalError),
    },
)
def show_metrics(metrics: MetricsDep, accept: Annotated[str, Header()] = "") -> Response:
    """Show the server's metrics, for Prometheus.

    With `WHENCE_METRICS_PORT` they are also on a port of their own, where no key is asked for.
    """
    text, media_type = metrics.render(accept)
    return Response(text, headers={"Content-Type": media_type, "Cache-Control": "no-store"})
