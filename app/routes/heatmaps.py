"""``GET /heatmaps/{id}.png``: show a heatmap of an answer with ``explain``."""

from fastapi import APIRouter, Response, status

from app.deps import AttributorDep, HeatmapsDep
from app.errors import InternalError
from app.http.problems import responses
from index.errors import NotFoundError
from model.errors import NotReadyError

router = APIRouter(prefix="/heatmaps", tags=["attribution"])


@router.get(
    "/{heatmap_id}.png",
    summary="Show a heatmap",
    response_class=Response,
    responses={
        status.HTTP_200_OK: {
            "description": "The heatmap, an overlay for the image that it explains",
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        },
        **responses(NotFoundError, InternalError, NotReadyError),
    },
)
def show_heatmap(heatmap_id: str, heatmaps: HeatmapsDep, attributor: AttributorDep) -> Response:
    """Show a heatmap, a PNG with the image's aspect ratio; opaque regions explain the most.

    This needs no key, so that an `<img>`, which sends none, can show it. The URL holds 192 random
    bits from the answer, and expires, at the latest when its exemplar is taken down.
    """
    png, seconds = heatmaps.get(heatmap_id)
    if exemplar := heatmaps.exemplar(heatmap_id):
        attributor.snapshot.catalog.exemplar(exemplar)  # it may have been taken down meanwhile
    headers = {
        "Cache-Control": f"private, max-age={int(seconds)}",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(png, headers=headers, media_type="image/png")
