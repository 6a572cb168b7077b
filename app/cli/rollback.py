"""``whence rollback``: publish an earlier version of the index again."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.console import out
from app.cli.options import Data, data_folder
from index.versions import rollback as publish_again


def rollback(
    version: Annotated[
        str | None, typer.Argument(help="Default: the one before the published one.")
    ] = None,
    data: Data = Path("data"),
) -> None:
    """Publish an earlier index version again; running servers load it by themselves."""
    manifest = publish_again(data_folder(data), version)
    out.print(
        f"index {manifest.version} is published again: {manifest.concepts} concepts, "
        f"{manifest.exemplars} exemplars, model {manifest.model_id}"
    )
