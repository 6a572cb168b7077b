"""``GET /samples``: sample query images, if the index has some, as the demo's does."""

from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import FileResponse

from app.deps import AttributorDep, SettingsDep
from app.errors import InternalError
from app.http.paths import public_path
from app.http.problems import responses
from index.answering.attribution import Attributor
from index.errors import NotFoundError
from index.layout import DataFolder
from model.errors import NotReadyError
from model.folders import find_images
from whence_client.models import Sample, SampleList

router = APIRouter(prefix="/samples", tags=["samples"])


def _files(root: Path, attributor: Attributor) -> dict[str, Path]:
    """Return the sample images of the served index version, by file name."""
    folder = DataFolder(root).samples(attributor.snapshot.version)
    return {path.name: path for path in find_images(folder)} if folder.is_dir() else {}


@router.get(
    "",
    summary="List sample images",
    responses=responses(InternalError, NotReadyError),
)
def list_samples(settings: SettingsDep, attributor: AttributorDep) -> SampleList:
    """List the sample query images of this index."""
    return SampleList(
        samples=[
            Sample(name=name.rpartition(".")[0], image_url=public_path(f"/samples/{quote(name)}"))
            for name in _files(settings.data, attributor)
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
def show_sample(name: str, settings: SettingsDep, attributor: AttributorDep) -> FileResponse:
    """Show a sample query image."""
    files = _files(settings.data, attributor)
    if name not in files:
        raise NotFoundError(f"there is no sample {name!r} in this index")
    return FileResponse(files[name], headers={"X-Content-Type-Options": "nosniff"})
