"""``GET /samples``: sample query images, if the index has some, as the demo's does."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends
from fastapi.responses import FileResponse

from app.deps import AttributorDep, ServiceDep
from app.errors import InternalError
from app.http.paths import public_path
from app.http.problems import responses
from index.errors import NotFoundError
from model.errors import NotReadyError
from whence_client.models import Sample, SampleList

router = APIRouter(prefix="/samples", tags=["samples"])


def _files(service: ServiceDep, attributor: AttributorDep) -> dict[str, Path]:
    """Return the sample images of the served index version that are not withdrawn, by name."""
    return service.samples.shown(attributor.snapshot.version, service.takedowns)


Files = Annotated[dict[str, Path], Depends(_files)]


@router.get(
    "",
    summary="List sample images",
    responses=responses(InternalError, NotReadyError),
)
def list_samples(files: Files) -> SampleList:
    """List the sample query images of this index."""
    return SampleList(
        samples=[
            Sample(name=name.rpartition(".")[0], image_url=public_path(f"/samples/{quote(name)}"))
            for name in files
        ]
    )


@router.get(
    "/{name}",
    summary="Show a sample image",
    response_class=FileResponse,
    responses={
        200: {"description": "The image", "content": {"image/*": {}}},
        **responses(NotFoundError, InternalError, NotReadyError),
    },
)
def show_sample(name: str, files: Files) -> FileResponse:
    """Show a sample query image."""
    if name not in files:
        raise NotFoundError(f"there is no sample {name!r} in this index")
    return FileResponse(files[name], headers={"X-Content-Type-Options": "nosniff"})
