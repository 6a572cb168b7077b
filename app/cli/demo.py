"""``whence demo``: train, rebuild, serve and query on a small gallery."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import BackboneName, Data
from app.cli.priority import begin_long_work


def demo(
    data: Data = Path("data"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    backbone: BackboneName = None,
) -> None:
    """Train on a small gallery, rebuild, serve, and send a first query."""
    begin_long_work()
    from app.cli.demonstration import run_demo

    run_demo(data, port=port, backbone=backbone)
