"""``GET /metrics``: export metrics to Prometheus."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response, status

from app.auth.security import Credentials, require_admin, require_attribute
from app.deps import MetricsDep
from app.errors import ForbiddenError, InternalError, UnauthorizedError
from app.http.problems import responses

router = APIRouter(tags=["health"])


async def require_scrape(request: Request, credentials: Credentials) -> None:
    """Require a key of scope admin; without any keys, admit the same requests as elsewhere."""
    configured = request.app.state.authenticator.keys.configured
    await (require_admin if configured else require_attribute)(request, credentials)


@router.get(
    "/metrics",
    summary="Export metrics",
    dependencies=[Depends(require_scrape)],
    response_class=Response,
    responses={
        status.HTTP_200_OK: {
            "description": "The Prometheus text format, or OpenMetrics if Accept asks for it",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **responses(UnauthorizedError, ForbiddenError, InternalError),
    },
)
def show_metrics(metrics: MetricsDep, accept: Annotated[str, Header()] = "") -> Response:
    """Export the server's metrics to Prometheus.

    `WHENCE_METRICS_PORT` exports them on a separate port as well, which needs no key.
    """
    text, media_type = metrics.render(accept)
    return Response(text, headers={"Content-Type": media_type, "Cache-Control": "no-store"})
