"""``GET /docs``: the API's documentation, by Swagger UI with files from this server alone."""

import base64
import hashlib
import re
from pathlib import Path

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.responses import HTMLResponse

FILES = "docs/static"
SWAGGER_UI = Path(fastapi_offline.__file__).parent / "static"  # the only use of the package


def add_docs(app: FastAPI) -> None:
    """Add the documentation page; its content security policy allows its one inline script.

    URLs in the page are relative, so that it works under any sub-path.
    """
    page = get_swagger_ui_html(
        openapi_url=str(app.openapi_url).removeprefix("/"),
        title=f"{app.title}: the API",
        swagger_js_url=f"{FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{FILES}/swagger-ui.css",
        swagger_favicon_url=f"{FILES}/favicon.png",
    )
    text = bytes(page.body).decode()
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self' "
        "'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; form-action 'none'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    app.mount(f"/{FILES}", StaticFiles(directory=SWAGGER_UI), name="docs")
