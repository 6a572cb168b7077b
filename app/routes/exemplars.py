"""``GET /exemplars/{id}``: show an exemplar's metadata and thumbnail."""

from typing import Annotated

from fastapi import APIRouter, Header, Response, status

from app.deps import AttributorDep
from app.errors import InternalError
from app.http.problems import responses
from app.schemas import exemplar_record
from index.errors import NotFoundError
from model.errors import NotReadyError
from whence_client.models import ExemplarRecord

router = APIRouter(prefix="/exemplars", tags=["exemplars"])

# Thumbnails never change but can be taken down, so a cache must revalidate each time.
CACHING = "private, no-cache"


@router.get(
    "/{exemplar_id}",
    summary="Show an exemplar",
    responses=responses(NotFoundError, InternalError, NotReadyError),
)
def show_record(exemplar_id: str, response: Response, attributor: AttributorDep) -> ExemplarRecord:
    """Show an exemplar's concept, size, source, licence and metadata."""
    catalog = attributor.snapshot.catalog
    exemplar = catalog.exemplar(exemplar_id)
    response.headers["Cache-Control"] = CACHING
    concept = catalog.concept(exemplar.concept_id)
    return exemplar_record(exemplar, concept, attributor.snapshot.version)


@router.get(
    "/{exemplar_id}/image",
    summary="Show an exemplar's thumbnail",
    response_class=Response,
    responses={
        status.HTTP_200_OK: {
            "description": "A thumbnail",
            "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
        },
        status.HTTP_304_NOT_MODIFIED: {"description": "The copy named by If-None-Match is valid"},
        **responses(NotFoundError, InternalError, NotReadyError),
    },
)
def show_exemplar(
    exemplar_id: str,
    attributor: AttributorDep,
    if_none_match: Annotated[str, Header()] = "",
) -> Response:
    """Show an exemplar's thumbnail, a JPEG."""
    catalog = attributor.snapshot.catalog
    tag = f'"{catalog.exemplar(exemplar_id).sha256}"'
    headers = {"ETag": tag, "Cache-Control": CACHING, "X-Content-Type-Options": "nosniff"}
    cached = {etag.strip().removeprefix("W/") for etag in if_none_match.split(",")}
    if cached & {tag, "*"}:
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=headers)
    return Response(catalog.thumbnail(exemplar_id), headers=headers, media_type="image/jpeg")
