"""``whence verify``: check a version of the index."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.console import out, stages
from app.cli.options import Data, Device, JsonFile, data_folder, write_json
from index.defaults import SAMPLE


def verify(
    version: Annotated[str | None, typer.Argument(help="Default: the published one.")] = None,
    sample: Annotated[
        int, typer.Option(min=0, max=10**9, help="Exemplars to embed again; 0 needs no model.")
    ] = SAMPLE,
    remote: Annotated[
        bool, typer.Option("--remote", help="Also read exemplars that lie at URLs again.")
    ] = False,
    json_file: JsonFile = None,
    data: Data = Path("data"),
    device: Device = "auto",
) -> None:
    """Check an index version: files, counts, vectors, and a sample embedded again."""
    from index.verify import verify as verify_version

    with stages() as report:
        found = verify_version(
            data_folder(data),
            version,
            sample=sample,
            device=device,
            remote=remote,
            progress=report,
        )
    for check in found.checks:
        out.print(f"{'ok    ' if check.passed else 'FAILED'} {check.text}")
    write_json(json_file, found.as_dict())
    if not found.passed:
        raise typer.Exit(1)
