"""``GET /``: the web page, static files without a build step."""

import os
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parents[1] / "page"

HEADERS = {"Cache-Control": "no-cache"}  # browsers revalidate, and get 304 if nothing changed

router = APIRouter()


@router.get("/", include_in_schema=False)
def show_page() -> FileResponse:
    """Return the page."""
    return FileResponse(STATIC / "index.html", headers=HEADERS)


class PageFiles(StaticFiles):
    """The page's modules and styles."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """Return the response of a file, with `HEADERS`."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(HEADERS)
        return response
