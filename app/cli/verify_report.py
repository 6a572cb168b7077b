"""``whence verify-report``: check an evidence report."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.console import out, printable
from app.cli.options import Data, Device, JsonFile, data_folder, write_json
from app.settings import read_settings


def verify_report(
    file: Annotated[Path, typer.Argument(help="The report, HTML or JSON.", metavar="FILE")],
    json_file: JsonFile = None,
    data: Data = Path("data"),
    device: Device = "auto",
) -> None:
    """Check an evidence report by itself and against the index in --data.

    Exit status: 0 if all checks passed, 1 if one failed, 2 if none failed but some could not be
    made.
    """
    from app.reports.verify import verify_report as check_report

    found = check_report(
        file, data_folder(data), device=device, limits=read_settings().image_limits
    )
    marks = {True: "ok    ", False: "FAILED", None: "note  "}
    for finding in found.findings:
        # The text quotes the file: a line of its own must not look like another finding.
        out.print(f"{marks[finding.passed]} {printable(finding.text, '')}")
    if not found.passed:
        out.print("the report cannot be relied on")
    elif not found.page_checked:
        out.print("only its data was checked: read the data, not the page")
    elif found.complete:
        out.print("the report is whole, and the index gives the same answer")
    else:
        out.print("the report is whole; the index could not be asked for the same answer")
    out.print("not verified, as nothing could: who made it, when, with which version of Whence")
    write_json(json_file, found.as_dict())
    if not found.complete:
        raise typer.Exit(2 if found.passed else 1)
