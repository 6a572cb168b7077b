"""``whence serve``: run the HTTP server."""

import os
from pathlib import Path
from typing import Annotated

import typer

from app.cli.console import out
from app.http.ports import require_port, url_of
from app.settings import read_settings
from app.telemetry.logs import configure_logging


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder.")] = None,
) -> None:
    """Run the HTTP server; settings come from WHENCE_*, and options override them."""
    from app.auth.security import require_closed

    settings = read_settings(host=host, port=port, data=data)
    require_port(settings.host, settings.port)
    if settings.metrics_port:
        require_port(settings.metrics_host, settings.metrics_port)
    require_closed(settings)
    configure_logging(settings.log_level, settings.log_format)
    os.environ.setdefault("OTEL_SERVICE_NAME", "whence")
    address = f"{url_of(settings.host, settings.port)}{settings.root_path}"
    out.print(f"whence at {address} (API at {settings.root_path}/docs)")
    # After the line above, since importing PyTorch takes seconds.
    from app.http.server import run_server
    from app.main import create_app

    run_server(create_app(settings), settings)
