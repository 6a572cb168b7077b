"""``GET /heatmaps/{id}.png``: what an answer with ``explain`` points to."""

from fastapi import APIRouter, Response, status

from app.deps import HeatmapsDep
from app.errors import InternalError
from app.http.problems import responses
from index.errors import NotFoundError

router = APIRouter(prefix="/heatmaps", tags=["attribution"])


@router.get(
    "/{heatmap_id}.png",
    summary="Show a heatmap",
    response_class=Response,
    responses={
        status.HTTP_200_OK: {
            "description": "The heatmap, to be laid over the picture it explains",
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        },
        **responses(NotFoundError, InternalError),
    },
)
def show_heatmap(heatmap_id: str, heatmaps: HeatmapsDep) -> Response:
    """Show a heatmap, a PNG of the whole picture's shape: the more opaque, the more it explains.

    No key is asked for. The address holds 192 random bits that only the answer told, so whoever
    has it was given it; a page can then show the heatmap by an `<img>`, which sends no key; and
    it soon expires.
    """
    png, seconds = heatmaps.get(heatmap_id)
    headers = {
        "Cache-Control": f"private, max-age={int(seconds)}",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(png, headers=headers, media_type="image/png")
